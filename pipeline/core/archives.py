"""Untrusted zip archives, `.keras` and `.npz`: their members are checked before they are read."""

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.core.regular_files import open_regular

RATIO = 4  # largest total size of the members, as a multiple of the archive's; this pipeline hardly compresses
SMALL = 2**24  # bytes allowed on top of that


def check_members(archive: zipfile.ZipFile, file: Path) -> None:
    """Refuse an archive whose members are far larger than the archive.

    The declared sizes can be trusted: reading a member stops there.

    Raises:
        ValueError: The members are too large.
    """
    total, size = sum(member.file_size for member in archive.infolist()), file.stat().st_size
    if total > RATIO * size + SMALL:
        raise ValueError(f"its members have {total:,} bytes, and the archive {size:,}")


def read_npz(file: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an `.npz`; CRCs are checked, and pickles refused.

    Raises:
        Exception: The file is damaged, or declares more data than it has; NumPy and zipfile raise many types.
    """
    with open_regular(file) as content:
        with zipfile.ZipFile(content) as archive:
            check_members(archive, file)
            for member in archive.infolist():
                with archive.open(member) as stream:
                    _check_array(stream, member)
        content.seek(0)
        with np.load(content, allow_pickle=False) as arrays:
            return dict(arrays)


def read_array_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Read the shape and dtype of an array in the `.npy` format.

    Raises:
        ValueError: The header is not valid.
    """
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    return shape, dtype


def _check_array(stream: IO[bytes], member: zipfile.ZipInfo) -> None:
    """Refuse an array whose header declares a size other than its member's: NumPy would allocate that size first."""
    shape, dtype = read_array_header(stream)
    if dtype.hasobject:  # a pickle, which NumPy refuses
        return
    if stream.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
        raise ValueError(f"{member.filename} declares an array of shape {shape}, which it does not hold")
