"""Tables in Parquet files, read in batches of rows."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from pipeline.core.errors import RequestError, cause
from pipeline.core.regular_files import check_unpacked, open_regular
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
            start = 1
            for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=names):
                columns = [batch.column(name) for name in names]
                texts = list(zip(*map(_values, columns[: len(cells)]), strict=True)) or [()] * len(batch)
                vectors = _vectors(columns[len(cells) :]) if numbers else [None] * len(batch)
                for number, (row, vector) in enumerate(zip(texts, vectors, strict=True), start):
                    yield Row(f"{self.file}, row {number}", row, vector)
                start += len(batch)

    @contextlib.contextmanager
    def _open(self) -> Iterator[pyarrow.parquet.ParquetFile]:
        try:
            with open_regular(self.file) as stream, pyarrow.parquet.ParquetFile(stream) as parquet:
                yield parquet
        except (OSError, ValueError, pa.ArrowException) as error:
            if isinstance(error, RequestError):
                raise
            raise RequestError(f"{self.file}: cannot be read ({cause(error)}).") from error

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
    if pa.types.is_fixed_size_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    values, ends = as_vector(_numbers(column.values)), column.offsets.to_numpy()
    present = column.is_valid().to_pylist()
    return [values[ends[row] : ends[row + 1]] if present[row] else None for row in range(len(column))]


def _numbers(column: pa.Array) -> np.ndarray:
    """The numbers of a column, with NaN for null."""
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    return column.to_numpy(zero_copy_only=False)
