"""A folder for the temporary files of a command and its child processes, removed when they end."""

import atexit
import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from pipeline.core.leftovers import own_path, remove_abandoned

PREFIX = "image-vectors-"

_shared: Path | None = None


def use_own_temporary_folder() -> None:
    """Make libraries put their temporary files, which some never remove, into a folder of this process.

    It is removed at the end of the process, or by the next process if this one is killed. If it cannot be created, the
    system's temporary folder stays in use.
    """
    global _shared
    with contextlib.suppress(OSError):
        shared = shared_folder()
        remove_abandoned(shared, PREFIX)
        stack = contextlib.ExitStack()
        folder = stack.enter_context(own_path(shared, PREFIX, "", _create_private))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        atexit.register(stack.close)
        _shared = shared
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def shared_folder() -> Path:
    """The system's temporary folder; its path is short enough for sockets, which are limited to about 100 bytes."""
    return _shared or Path(tempfile.gettempdir())


def _create_private(path: Path) -> None:
    path.mkdir(mode=0o700)
