"""Regular files: never a pipe that is waited for, never a device that does not end, never an unbounded expansion."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from pipeline.core.errors import RequestError

# A pipe must not be waited for; on Windows there are none, but there is a text mode.
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
UNPACKED, EXPANSION = 2**29, 20  # bytes that any file may unpack to; larger files, so many times their size


def open_regular(file: str | Path) -> BinaryIO:
    """Open a file for reading, if it is a regular one.

    Raises:
        OSError: It cannot be opened, or is a folder, a pipe or a device.
    """
    opened = open(os.open(file, OPEN_FLAGS), "rb")  # noqa: SIM115 (the caller closes it)
    if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
        opened.close()
        raise OSError(errno.EINVAL, "not a regular file")
    return opened


def check_unpacked(file: Path, size: int) -> None:
    """Refuse a file that unpacks to far more than its own size, before memory is allocated for it.

    Args:
        file: The file.
        size: The bytes that it declares, or that were unpacked so far.

    Raises:
        RequestError: That is more than UNPACKED and more than EXPANSION times the size of the file.
    """
    most = max(UNPACKED, EXPANSION * file.stat().st_size)
    if size > most:
        raise RequestError(
            f"{file}: unpacks to {size:,} bytes or more, but a file of this size may unpack to {most:,} at most."
        )
