"""Files and folders that belong to a process: if it is killed, another process removes them.

Their names contain random digits, so that nobody can place a link there in advance. Each is locked while its process
lives; locks work between processes and, on most network file systems, between machines.
"""

import contextlib
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

OLD = 7 * 86_400  # seconds after which a file counts as abandoned on systems without locks; no file is in use that long


@contextlib.contextmanager
def own_path(folder: Path, prefix: str, suffix: str, create: Callable[[Path], object]) -> Iterator[Path]:
    """Create a file or folder under a new name, and lock it. The caller removes it.

    Args:
        folder: The folder to create it in.
        prefix: The start of its name.
        suffix: The end of its name, such as ".npz", or "".
        create: Creates it, and fails if the path exists.

    Yields:
        Its path.

    Raises:
        OSError: It cannot be created.
    """
    while True:
        path = folder / f"{prefix}{secrets.token_hex(8)}{suffix}"
        create(path)
        with locked(path) as is_locked:
            if is_locked is False or not path.exists():  # another process considered it abandoned
                continue
            yield path
            return


def create_file(path: Path) -> None:
    """Create a new, empty file.

    Raises:
        OSError: The path exists, even as a link, or the file cannot be created.
    """
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def remove_abandoned(folder: Path, prefix: str) -> None:
    """Remove files and folders that `own_path` created for processes that have ended.

    Links, other users' files, and files that cannot be removed are left alone.
    """
    name = re.compile(rf"{re.escape(prefix)}[0-9a-f]{{16}}(\.\w+)?")
    with contextlib.suppress(OSError):  # the folder cannot be read
        for path in folder.iterdir():
            if name.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    status = path.lstat()
    is_folder = stat.S_ISDIR(status.st_mode)
    is_ours = sys.platform == "win32" or status.st_uid == os.geteuid()
    if not is_ours or not (is_folder or stat.S_ISREG(status.st_mode)):
        return
    with locked(path) as is_locked:
        if is_locked or (is_locked is None and time.time() - status.st_mtime > OLD):
            shutil.rmtree(path) if is_folder else path.unlink()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool | None]:
    """Lock a file or folder. The lock is released at the end of the block, or of the process, even if it is killed.

    Args:
        path: The file or folder; not a link.

    Yields:
        True if it is locked; False if another process holds the lock; None if the file system has no locks.

    Raises:
        OSError: The path cannot be opened.
    """
    if sys.platform == "win32":
        yield None
        return
    import fcntl

    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked: bool | None = True
        except BlockingIOError:
            is_locked = False
        except OSError:  # a network file system
            is_locked = None
        yield is_locked
    finally:
        os.close(descriptor)
