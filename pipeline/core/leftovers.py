"""Files and folders that belong to a process: when it was killed, another one removes them.

Their names end in random digits, so that nobody can put a link there before. While its process lives, each is locked,
which works between processes, and between machines on most network file systems.
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

OLD = 7 * 86_400  # seconds; longer than any of them is in use, for systems without locks


@contextlib.contextmanager
def own_path(folder: Path, prefix: str, suffix: str, create: Callable[[Path], object]) -> Iterator[Path]:
    """Create a file or a folder under a new name, and hold its lock; it is not removed.

    Args:
        folder: Where to create it.
        prefix: How its name begins.
        suffix: How its name ends, such as ".npz"; it may be empty.
        create: Creates it, and fails where there is something else.

    Yields:
        Its path.

    Raises:
        OSError: It cannot be created.
    """
    while True:
        path = folder / f"{prefix}{secrets.token_hex(8)}{suffix}"
        create(path)
        with locked(path) as is_locked:
            if is_locked is False or not path.exists():  # another process took it for abandoned
                continue
            yield path
            return


def create_file(path: Path) -> None:
    """Create an empty file that does not exist.

    Raises:
        OSError: It exists, also as a link, or cannot be created.
    """
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def remove_abandoned(folder: Path, prefix: str) -> None:
    """Remove what `own_path` created in a folder for processes that have ended.

    Links, files of other users, and what cannot be removed stay as they are.
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
    """Hold the lock of a file or a folder; it is free again when this process ends, whatever way.

    Args:
        path: The file or folder; no link.

    Yields:
        True; False where another process holds it; None where the file system has no locks.

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
