"""Zip archives from elsewhere: `.keras` and `.npz` files, whose members are checked before they are read."""

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.core.regular_files import open_regular

RATIO = 4  # how many times as large as their archive members may be; what this pipeline writes is hardly compressed
SMALL = 2**24  # bytes that they may always have


def check_members(archive: zipfile.ZipFile, file: Path) -> None:
    """Refuse an archive whose members are far larger than itself. What is read of a member ends at its declared size.

    Raises:
        ValueError: They are.
    """
    declared, size = sum(member.file_size for member in archive.infolist()), file.stat().st_size
    if declared > RATIO * size + SMALL:
        raise ValueError(f"its members have {declared:,} bytes, and the archive {size:,}")


def read_npz(file: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an `.npz`; CRCs are checked, pickles refused.

    Raises:
        Exception: It is damaged, or declares more than it has; NumPy and zipfile raise many types.
    """
    with open_regular(file) as content:
        with zipfile.ZipFile(content) as archive:
            check_members(archive, file)
            for member in archive.infolist():
                with archive.open(member) as opened:
                    _check_array(opened, member)
        content.seek(0)
        with np.load(content, allow_pickle=False) as saved:
            return dict(saved)


def _check_array(opened: IO[bytes], member: zipfile.ZipInfo) -> None:
    """Refuse an array whose header declares another size than its member has: it would be allocated first."""
    version = np.lib.format.read_magic(opened)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(opened)
    if dtype.hasobject:  # a pickle, which NumPy refuses
        return
    if opened.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
        raise ValueError(f"{member.filename} declares an array of shape {shape}, which it does not hold")
