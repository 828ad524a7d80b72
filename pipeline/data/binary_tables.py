"""Tables in Parquet, Lance and `.npz` files, and arrays in `.npy` files. Pickles are never loaded."""

import contextlib
import math
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from pipeline.core.archives import read_array_header
from pipeline.core.errors import RequestError, cause, first_line
from pipeline.core.regular_files import check_unpacked, open_regular
from pipeline.core.wording import counted
from pipeline.data.tables import INDEX, Column, Row, as_vector, check_names

ROWS_AT_ONCE = 4096


class ParquetTable:
    """A Parquet file.

    Args:
        file: The file.

    Raises:
        RequestError: The file cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        with self._open() as parquet:
            check_names(parquet.schema_arrow.names, str(file))
            index = (parquet.schema_arrow.pandas_metadata or {}).get("index_columns", ())
            self.columns = [
                Column(field.name, _kind(field.type), field.name in index or bool(INDEX.fullmatch(field.name)))
                for field in parquet.schema_arrow
            ]

    def rows(self, cells: Sequence[int], numbers: Sequence[int]) -> Iterator[Row]:
        """See `Table.rows`."""
        names = [self.columns[number].name for number in (*cells, *numbers)]
        with self._open() as parquet:
            self._check_size(parquet, names)
            yield from _rows(self.file, parquet.iter_batches(ROWS_AT_ONCE, columns=names), names, len(cells))

    @contextlib.contextmanager
    def _open(self) -> Iterator[pyarrow.parquet.ParquetFile]:
        with open_file(self.file) as stream, pyarrow.parquet.ParquetFile(stream) as parquet:
            yield parquet

    def _check_size(self, parquet: pyarrow.parquet.ParquetFile, names: Sequence[str]) -> None:
        """Refuse columns that declare more data than fits in memory."""
        metadata, size = parquet.metadata, 0
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(number)
                if chunk.path_in_schema.split(".")[0] in names:
                    size += max(8 * chunk.num_values, chunk.total_uncompressed_size)
        for name in names:
            kind = parquet.schema_arrow.field(name).type
            if pa.types.is_fixed_size_list(kind):
                size += 8 * kind.list_size * metadata.num_rows
        check_unpacked(self.file, size)


class LanceTable:
    """A Lance table, such as `export --format lance` writes.

    Args:
        file: The folder of the table.

    Raises:
        RequestError: The table cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        with self._open() as dataset:
            self.columns = [Column(field.name, _kind(field.type)) for field in dataset.schema]

    def rows(self, cells: Sequence[int], numbers: Sequence[int]) -> Iterator[Row]:
        """See `Table.rows`."""
        names = [self.columns[number].name for number in (*cells, *numbers)]
        with self._open() as dataset:
            batches = dataset.to_batches(columns=names, batch_size=ROWS_AT_ONCE)
            yield from _rows(self.file, batches, names, len(cells))

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        import lance

        try:
            yield lance.dataset(self.file)
        except RequestError:
            raise
        except Exception as error:  # Lance raises many types for damaged tables
            raise RequestError(f"{self.file}: cannot be read as a Lance table ({first_line(error)}).") from error


def _rows(file: Path, batches: Iterable[pa.RecordBatch], names: Sequence[str], cells: int) -> Iterator[Row]:
    """The rows of batches, of which the first `cells` columns are read unconverted, and the others as numbers."""
    start = 1
    for batch in batches:
        columns = [batch.column(name) for name in names]
        texts = list(zip(*map(_values, columns[:cells]), strict=True)) or [()] * len(batch)
        vectors = _vectors(columns[cells:]) if len(names) > cells else [None] * len(batch)
        for number, (row, vector) in enumerate(zip(texts, vectors, strict=True), start):
            yield Row(f"{file}, row {number}", row, vector)
        start += len(batch)


def _kind(kind: pa.DataType) -> Any:
    if _is_numeric(kind):
        return "number"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return "list" if _is_numeric(kind.value_type) else "other"
    return "other"


def _is_numeric(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _values(column: pa.Array) -> list:
    """The cells of a column; equal cells of a dictionary-encoded column share memory."""
    if pa.types.is_dictionary(column.type):
        values = column.dictionary.to_pylist()
        return [None if index is None else values[index] for index in column.indices.to_pylist()]
    return column.to_pylist()


def _vectors(columns: Sequence[pa.Array]) -> list[np.ndarray | None]:
    """The vectors of the rows, from one column of lists or several columns of numbers."""
    if _kind(columns[0].type) == "number":
        return list(np.column_stack([as_vector(_numbers(column)) for column in columns]))
    [column] = columns
    lengths = pa.compute.list_value_length(column).fill_null(0).to_numpy()
    vectors = np.split(as_vector(_numbers(column.flatten())), np.cumsum(lengths)[:-1])
    return [vector if is_list else None for vector, is_list in zip(vectors, column.is_valid().to_pylist(), strict=True)]


def _numbers(column: pa.Array) -> np.ndarray:
    """The numbers of a column, with NaN for null."""
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    return column.to_numpy(zero_copy_only=False)


class ArrayTable(ABC):
    """A table of named arrays with N rows each: text (`paths`, `labels`, ...) (N,), and numbers (N,) or (N, D)."""

    file: Path
    columns: Sequence[Column]

    @abstractmethod
    def arrays(self, columns: Sequence[int]) -> list[np.ndarray]:
        """The arrays of some columns.

        Raises:
            RequestError: The file cannot be read, or declares more data than fits in memory.
        """

    def rows(self, cells: Sequence[int], numbers: Sequence[int]) -> Iterator[Row]:
        """See `Table.rows`."""
        texts, matrix = self.arrays(cells), self.matrix(numbers) if numbers else None
        arrays = texts if matrix is None else [*texts, matrix]
        if other := next((len(array) for array in arrays if len(array) != len(arrays[-1])), None):
            last = counted(len(arrays[-1]), "name") if matrix is None else f"{counted(len(matrix), 'row')} of numbers"
            raise RequestError(f"{self.file}: {counted(other, 'name')}, but {last}.")
        for row in range(len(arrays[-1])):
            yield Row(
                f"{self.file}, row {row + 1}",
                [array[row].item() if isinstance(array[row], np.generic) else array[row] for array in texts],
                None if matrix is None else as_vector(matrix[row]),
            )

    def matrix(self, numbers: Sequence[int]) -> np.ndarray:
        """The numbers in some columns, as one array, shape (N, D).

        Raises:
            RequestError: The file cannot be read, or the columns differ in length.
        """
        arrays = self.arrays(numbers)
        if len({len(array) for array in arrays}) > 1:
            named = ", ".join(f"{self.columns[number].name!r}" for number in numbers)
            raise RequestError(f"{self.file}: the arrays {named} differ in length.")
        return arrays[0] if arrays[0].ndim == 2 and len(arrays) == 1 else np.column_stack(arrays)


class NpzTable(ArrayTable):
    """An `.npz` file.

    Args:
        file: The file.

    Raises:
        RequestError: The file cannot be read, contains pickled objects, or declares more data than fits in memory.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        kinds: dict[str, Any] = {}
        with open_file(file) as stream, zipfile.ZipFile(stream) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            check_unpacked(file, sum(member.file_size for member in members))
            for member in members:
                with archive.open(member) as array:
                    kinds[member.filename.removesuffix(".npy")] = array_kind(*_header(file, array, member.file_size))
        self._names = list(kinds)
        self.columns = [Column(singular(name), kind) for name, kind in kinds.items()]

    def arrays(self, columns: Sequence[int]) -> list[np.ndarray]:
        """See `ArrayTable.arrays`."""
        with open_file(self.file) as stream:
            arrays = np.load(stream, allow_pickle=False)
            return [arrays[self._names[number]] for number in columns]


def read_npy(file: Path) -> np.ndarray:
    """Read the array of an `.npy` file.

    Raises:
        RequestError: The file cannot be read, contains pickled objects, or is shorter than its header declares.
    """
    with open_file(file) as stream:
        _header(file, stream, file.stat().st_size)
        stream.seek(0)
        return np.load(stream, allow_pickle=False)


def map_npy(file: Path) -> np.ndarray:
    """Memory-map the array of an `.npy` file, so that only the rows in use are read.

    Returns:
        The mapped array; an array in memory if the file is in Fortran order.

    Raises:
        RequestError: See `read_npy`.
    """
    with open_file(file) as stream:
        _header(file, stream, file.stat().st_size)
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


@contextlib.contextmanager
def open_file(file: Path) -> Iterator[IO[bytes]]:
    """Open a regular file to read it; any error while it is read becomes one message.

    Raises:
        RequestError: The file cannot be read.
    """
    try:
        with open_regular(file) as stream:
            yield stream
    except RequestError:
        raise
    except Exception as error:  # NumPy's parsers raise many types for damaged files
        raise RequestError(f"{file}: cannot be read ({cause(error)}).") from error


def _header(file: Path, stream: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype]:
    """Read the shape and dtype of an array and check them against its size, before memory is allocated for it."""
    if stream.read(1) == b"\x80":  # the start of a pickle
        raise _pickle_error(file)
    stream.seek(0)
    shape, dtype = read_array_header(stream)
    if dtype.hasobject:
        raise _pickle_error(file)
    if math.prod(shape) * dtype.itemsize > size:
        raise RequestError(
            f"{file}: an array of {shape} {dtype} is larger than the file, which is damaged or truncated."
        )
    return shape, dtype


def array_kind(shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """The kind of an array as a column of a table; see `Column`."""
    numeric = dtype.kind in "fiu"
    return {1: "number" if numeric else "text", 2: "list" if numeric else "other"}.get(len(shape), "other")


def _pickle_error(file: Path) -> RequestError:
    return RequestError(
        f"{file}: this file contains pickled Python objects, which are not read because they could run code. "
        "Save plain arrays of numbers and strings (dtype float32 and str)."
    )


def singular(name: str) -> str:
    """The column's name for an array: `path` for `paths`."""
    return {"paths": "path", "labels": "label", "groups": "group", "splits": "split"}.get(name, name)
