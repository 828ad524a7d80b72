"""Tables in MATLAB files before 7.3, read with SciPy; files of 7.3 are HDF5 files."""

import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import h5py
import numpy as np

from pipeline.core.errors import RequestError
from pipeline.core.regular_files import check_unpacked
from pipeline.data.binary_tables import ArrayTable, open_file, singular
from pipeline.data.hdf5_tables import hdf5_table, matlab_kind
from pipeline.data.tables import Column, check_names

HEADER = 128  # bytes
COMPRESSED = 15  # the type of a compressed element
BLOCK = 2**20  # bytes


def matlab_table(file: Path) -> ArrayTable:
    """Open a MATLAB file of any version as a table with a column for each variable.

    Raises:
        RequestError: The file cannot be read.
    """
    with open_file(file):
        is_hdf5 = h5py.is_hdf5(file)
    return hdf5_table(file) if is_hdf5 else Mat5Table(file)


class Mat5Table(ArrayTable):
    """A MATLAB file before 7.3.

    Args:
        file: The file.

    Raises:
        RequestError: The file cannot be read, or unpacks to far more than its size.
    """

    def __init__(self, file: Path) -> None:
        from scipy.io import whosmat

        self.file = file
        with open_file(file) as stream:
            _check_size(file, stream)
            stream.seek(0)
            variables = whosmat(stream)
        self._names = [name for name, *_ in variables]
        self.columns = [Column(singular(name), matlab_kind(kind, tuple(shape))) for name, shape, kind in variables]
        check_names([column.name for column in self.columns], str(file))

    def arrays(self, columns: Sequence[int]) -> list[np.ndarray]:
        """See `ArrayTable.arrays`."""
        from scipy.io import loadmat

        names = [self._names[number] for number in columns]
        with open_file(self.file) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about variables that are not read
            variables = loadmat(stream, variable_names=names)
        return [self._array(name, variables[name]) for name in names]

    def _array(self, name: str, values: np.ndarray) -> np.ndarray:
        if values.dtype == object:
            return np.array([self._text(name, cell) for cell in values.ravel()], object)
        if values.dtype.kind == "U":
            return np.array([text.rstrip() for text in values.ravel()], object)
        if values.dtype.kind not in "fiub":
            raise RequestError(f"{self.file}: the variable {name!r} is not an array of real numbers.")
        return values.ravel() if 1 in values.shape else np.ascontiguousarray(values)

    def _text(self, name: str, cell: np.ndarray) -> str:
        if getattr(cell, "dtype", None) is None or (cell.dtype.kind != "U" and cell.size):
            raise RequestError(f"{self.file}: a cell of {name!r} contains something other than text.")
        return "".join(cell.ravel())


def _check_size(file: Path, stream: IO[bytes]) -> None:
    """Refuse a file with compressed variables that unpack to far more than its size."""
    order = {b"IM": "<", b"MI": ">"}.get(stream.read(HEADER)[126:])
    if order is None:  # version 4, which does not compress
        return
    total = 0
    while len(tag := stream.read(8)) == 8:
        kind, size = struct.unpack(f"{order}2I", tag)
        end = stream.tell() + size
        if kind == COMPRESSED:
            unpacker = zlib.decompressobj()
            while (rest := end - stream.tell()) > 0 and (packed := stream.read(min(rest, BLOCK))):
                while packed:
                    total += len(unpacker.decompress(packed, BLOCK))
                    check_unpacked(file, total)
                    packed = unpacker.unconsumed_tail
        stream.seek(end)
