"""NumPy files: tables in `.npz`, arrays in `.npy`. Pickles are never loaded."""

import contextlib
import io
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from pipeline.core.errors import RequestError, cause
from pipeline.core.regular_files import check_unpacked, open_regular
from pipeline.core.wording import counted
from pipeline.data.tables import Column, Row, as_vector


class _Header(NamedTuple):
    """The header of an array."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def kind(self) -> Any:
        """The kind of the array as a column of a table; see `Column`."""
        numeric = self.dtype.kind in "fiu"
        return {1: "number" if numeric else "text", 2: "list" if numeric else "other"}.get(len(self.shape), "other")


class NpzTable:
    """An `.npz` file as a table with a column per array: text `paths` or `labels` (N,), and numbers (N, D).

    Args:
        file: The file.

    Raises:
        RequestError: The file cannot be read, contains pickled objects, or declares more data than fits in memory.
    """

    def __init__(self, file: Path) -> None:
        self.file, self._headers = file, {}
        with _open_file(file) as stream, zipfile.ZipFile(stream) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            check_unpacked(file, sum(member.file_size for member in members))
            for member in members:
                with archive.open(member) as array:
                    self._headers[member.filename.removesuffix(".npy")] = _header(file, array, member.file_size)
        self.columns = [Column(_singular(name), header.kind) for name, header in self._headers.items()]

    def rows(self, cells: Sequence[int], numbers: Sequence[int]) -> Iterator[Row]:
        """See `Table.rows`."""
        with _open_file(self.file) as stream:
            arrays = np.load(stream, allow_pickle=False)
            texts, vectors = (
                [arrays[list(self._headers)[number]] for number in columns] for columns in (cells, numbers)
            )
        lengths = {len(array) for array in (*texts, *vectors)}
        if len(lengths) > 1:
            names, rows = len(texts[0]), len(vectors[0])
            raise RequestError(f"{self.file}: {counted(names, 'name')}, but {counted(rows, 'row')} of numbers.")
        matrix = as_vector(np.column_stack(vectors)) if vectors else None
        for row in range(lengths.pop()):
            yield Row(
                f"{self.file}, row {row + 1}",
                [array[row].item() for array in texts],
                None if matrix is None else matrix[row],
            )


def read_npy(file: Path) -> np.ndarray:
    """Read the array of an `.npy` file.

    Raises:
        RequestError: The file cannot be read, contains pickled objects, or is shorter than its header declares.
    """
    with _open_file(file) as stream:
        _header(file, stream, file.stat().st_size)
        stream.seek(0)
        return np.load(stream, allow_pickle=False)


@contextlib.contextmanager
def _open_file(file: Path) -> Iterator[IO[bytes]]:
    try:
        with open_regular(file) as stream:
            yield stream
    except RequestError:
        raise
    except Exception as error:  # NumPy's parsers raise many types for damaged files
        raise RequestError(f"{file}: cannot be read ({cause(error)}).") from error


def _header(file: Path, stream: IO[bytes], size: int) -> _Header:
    """Read the header of an array and check its size against the file's, before memory is allocated for it."""
    start = stream.read(8)
    if start[:1] == b"\x80":  # the start of a pickle
        raise _pickle_error(file)
    version = np.lib.format.read_magic(io.BytesIO(start))
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise _pickle_error(file)
    if math.prod(shape) * dtype.itemsize > size:
        raise RequestError(f"{file}: an array of {shape} {dtype} does not fit in it; the file is damaged or cut short.")
    return _Header(shape, dtype)


def _pickle_error(file: Path) -> RequestError:
    return RequestError(
        f"{file}: this file holds pickled Python objects, which could run code when they are read, so they are not. "
        "Save plain arrays of numbers and strings (dtype float32 and str)."
    )


def _singular(name: str) -> str:
    """The column's name for an array: `path` for `paths`."""
    return {"paths": "path", "labels": "label"}.get(name, name)
