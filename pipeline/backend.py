"""Keras, imported late and quietly: TensorFlow alone takes seconds to load and greets the terminal with its own log."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from types import ModuleType


def import_keras() -> ModuleType:
    """Import Keras on the backend that `KERAS_BACKEND` or Keras's own configuration names (TensorFlow by default).

    Returns:
        The module `keras`.
    """
    if "keras" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with _silence():
            import keras  # noqa: F401
    return sys.modules["keras"]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hold back what C++ code writes to the standard error output; let it through only if the block fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
