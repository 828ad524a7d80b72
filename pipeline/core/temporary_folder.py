"""A folder for the temporary files of a command and of its child processes, which goes when they end."""

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
    """Let libraries put their temporary files, which some never remove, into a folder of this process.

    It is removed at the end of the process, or by the next one if this one is killed. Without a place for it, the
    system's own folder stays in use.
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
    """The system's folder for temporary files; sockets, whose paths are limited to some 100 bytes, have room in it."""
    return _shared or Path(tempfile.gettempdir())


def _create_private(path: Path) -> None:
    path.mkdir(mode=0o700)
