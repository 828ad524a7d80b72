"""Keras, imported late and quietly: TensorFlow takes seconds to load and writes its own log to the terminal."""

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from pipeline.core.cores import usable_cores

# Where Linux shows NVIDIA, AMD and WSL GPUs, and TPUs. Looking there costs nothing; asking a backend costs seconds.
ACCELERATORS = ("nvidia[0-9]*", "kfd", "dxg", "accel*", "vfio/[0-9]*")

_swapping = threading.RLock()


def import_keras() -> ModuleType:
    """Import Keras on the backend that `KERAS_BACKEND` or Keras's own configuration names (TensorFlow by default).

    Returns:
        The module `keras`.
    """
    if "keras" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(usable_cores()))
        with quietly():
            import keras  # noqa: F401
    return sys.modules["keras"]


def accelerators() -> list[str]:
    """The GPUs and TPUs that Keras's backend sees, as Keras names them ("gpu:0", ...).

    Keras is imported only where the machine seems to have one.
    """
    if not any(path for pattern in ACCELERATORS for path in Path("/dev").glob(pattern)):
        return []
    keras = import_keras()
    if keras.backend.backend() == "torch":
        import torch

        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [device for device in keras.distribution.list_devices() if not device.startswith("cpu")]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hold back what C++ code writes to stdout and stderr; show it on stderr if the block fails.

    The descriptors belong to the whole process, so one thread at a time swaps them; blocks may be nested.
    """
    with _swapping, tempfile.TemporaryFile() as held:
        _flush()
        saved = {standard: os.dup(standard) for standard in (1, 2) if _is_open(standard)}
        for standard in saved:
            os.dup2(held.fileno(), standard)
        try:
            yield
        except BaseException:
            held.seek(0)
            if 2 in saved:
                os.write(saved[2], held.read())
            raise
        finally:
            _flush()
            for standard, copy in saved.items():
                os.dup2(copy, standard)
                os.close(copy)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream:  # None where the process was started without it
            stream.flush()


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
