"""Safe reading of regular files: no pipe that blocks, no endless device, no unbounded decompression."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from pipeline.core.errors import RequestError

# Opening a pipe must not block. Windows has no O_NONBLOCK, but needs O_BINARY.
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
MAX_BYTES = 2**30  # of an image file
UNPACKED, EXPANSION = 2**29, 20  # a file may unpack to this many bytes, or to this multiple of its size


def open_regular(file: str | Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: The file cannot be opened, or is a folder, a pipe or a device.
    """
    stream = open(os.open(file, OPEN_FLAGS), "rb")  # noqa: SIM115 (the caller closes it)
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "not a regular file")
    return stream


def check_unpacked(file: Path, size: int) -> None:
    """Refuse a file that unpacks to far more than its own size, before memory is allocated for it.

    Args:
        file: The file.
        size: The declared size in bytes, or the number of bytes unpacked so far.

    Raises:
        RequestError: The size exceeds UNPACKED and EXPANSION times the size of the file.
    """
    limit = max(UNPACKED, EXPANSION * file.stat().st_size)
    if size > limit:
        raise RequestError(
            f"{file}: unpacks to {size:,} bytes or more, but a file of this size may unpack to {limit:,} at most."
        )
