"""Rows of Parquet and Arrow files, read in order and a few at a time, so that large row groups need little memory."""

import bisect
import contextlib
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet

from pipeline.core.errors import ImageError, PipelineError, first_line
from pipeline.core.locations import is_bucket_url
from pipeline.core.regular_files import EXPANSION, UNPACKED
from pipeline.data.bucket_files import ObjectStream
from pipeline.data.images import open_image, version_of

SUFFIXES = (".parquet", ".arrow")
BATCH = 16  # rows in memory while images are read
BUFFER, REMOTE_BUFFER = 2**20, 2**23  # bytes that one access to a disk, or one request to a bucket, reads
ARROW_FILE = b"ARROW1"  # the first bytes of Arrow's file format, but not of its stream format


class Rows(Protocol):
    """The rows of a file.

    Attributes:
        version: The version of the file.
        schema: Its Arrow schema.
    """

    version: str | None
    schema: pa.Schema

    def count(self) -> int:
        """The number of rows.

        Raises:
            Damaged: The file declares more rows than it can contain.
        """
        ...

    def batches(self, columns: Sequence[str], row: int, size: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Read rows.

        Args:
            columns: Names of the columns, or of parts of structs ("image.path").
            row: The row to start at.
            size: The largest number of rows of a batch.

        Yields:
            The number of a batch's first row, and the batch; the first batch may begin before `row`.
        """
        ...

    def end(self, row: int) -> int:
        """The end (exclusive) of the rows that cannot be read without reading this one."""
        ...


def open_rows(file: str) -> Rows:
    """Open a Parquet or Arrow file.

    Args:
        file: Its path or URL.

    Raises:
        ImageError: It cannot be read, or is damaged.
        PipelineError: The bucket's server does not answer.
    """
    if is_bucket_url(file):
        stream = ObjectStream(file)
        size, version, source = stream.size, stream.version, pa.PythonFile(io.BufferedReader(stream), "r")
    else:
        with open_image(file) as (_, status):  # no pipe or device
            size, version = status.st_size, version_of(status)
        source = pa.memory_map(file) if size else pa.BufferReader(b"")
    with damage_named():
        kind: Any = ArrowRows if os.path.splitext(file)[1].lower() == ".arrow" else ParquetRows
        rows: Rows = kind(source, size, version)
        list(rows.schema.names)  # raises an error if they are not UTF-8
        return rows


class Damaged(ImageError):
    """A file is damaged, at least after some row."""


@contextlib.contextmanager
def damage_named() -> Iterator[None]:
    """Convert errors of pyarrow.

    Raises:
        Damaged: The file is damaged.
    """
    try:
        yield
    except (PipelineError, MemoryError):
        raise
    except Exception as error:  # pyarrow raises many types for damaged files
        raise Damaged(f"it is damaged ({first_line(error)})") from error


class ParquetRows:
    """The rows of a Parquet file; see `Rows`.

    Args:
        source: The file, open.
        size: Its size, in bytes.
        version: Its version.
    """

    def __init__(self, source: Any, size: int, version: str | None) -> None:
        buffer = REMOTE_BUFFER if isinstance(source, pa.PythonFile) else BUFFER
        self._file = pyarrow.parquet.ParquetFile(source, buffer_size=buffer, pre_buffer=False)
        self.version, self.schema = version, self._file.schema_arrow
        metadata = self._file.metadata
        self._groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        self._ends = list(itertools.accumulate(group.num_rows for group in self._groups))
        self._size = size

    def count(self) -> int:
        """See `Rows.count`."""
        if (unpacked := sum(group.total_byte_size for group in self._groups)) > max(UNPACKED, EXPANSION * self._size):
            raise Damaged(f"it unpacks to {unpacked:,} bytes, but has {self._size:,}")
        return _checked_count((self._ends or [0])[-1], self._size)

    def batches(self, columns: Sequence[str], row: int, size: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """See `Rows.batches`."""
        group = bisect.bisect_right(self._ends, row)
        first = self._ends[group - 1] if group else 0
        for number in range(group, len(self._ends)):  # so that damage in one row group does not affect the next
            for batch in self._file.iter_batches(size, row_groups=[number], columns=columns, use_threads=False):
                yield first, batch
                first += len(batch)

    def end(self, row: int) -> int:
        """See `Rows.end`; rows of a row group are read in order."""
        return self._ends[bisect.bisect_right(self._ends, row)]


class ArrowRows:
    """The rows of an Arrow file, in the file format or in the stream format; see `Rows`.

    Args:
        source: The file, open.
        size: Its size, in bytes.
        version: Its version.
    """

    def __init__(self, source: Any, size: int, version: str | None) -> None:
        self._source, self.version = source, version
        source.seek(0)
        self._is_file = source.read(len(ARROW_FILE)) == ARROW_FILE
        self.schema = self._open().schema
        self._size = size

    def count(self) -> int:
        """See `Rows.count`."""
        return _checked_count(sum(len(batch) for _, batch in self.batches((), 0, 0)), self._size)

    def _open(self) -> Any:
        self._source.seek(0)
        return pa.ipc.open_file(self._source) if self._is_file else pa.ipc.open_stream(self._source)

    def batches(self, columns: Sequence[str], row: int, size: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """See `Rows.batches`; batches are those of the file, whatever `size`, and memory-mapped."""
        names = list(dict.fromkeys(name if name in self.schema.names else name.rpartition(".")[0] for name in columns))
        reader, first = self._open(), 0
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches)) if self._is_file else reader
        for batch in batches:
            if row < first + len(batch):
                yield first, batch.select(names)
            first += len(batch)

    def end(self, row: int) -> int:
        """See `Rows.end`; rows can be read in any order."""
        return row + 1


def _checked_count(count: int, size: int) -> int:
    if count > size:
        raise Damaged(f"it declares {count:,} rows in {size:,} bytes")
    return count


class ImageColumn:
    """A column of images; reading is fast in row order.

    Args:
        file: The path or URL of the table.
        column: The column.

    Raises:
        ImageError: The table cannot be read.
    """

    def __init__(self, file: str, column: str) -> None:
        self._rows, self._column = open_rows(file), column
        self._batches: Iterator[tuple[int, pa.RecordBatch]] = iter(())
        self._images: Any = None
        self._first = self._end = self._rows_end = 0
        self._damaged, self._damage = range(0), ""

    def read(self, row: int) -> bytes:
        """Read an image.

        Raises:
            ImageError: The row is damaged, or has no bytes.
        """
        if row in self._damaged:
            raise ImageError(self._damage)
        try:
            with damage_named():
                value = self._value(row)
        except Damaged as error:
            self._damaged, self._damage = range(row, self._rows.end(row)), str(error)
            self._first = self._end = self._rows_end = 0
            raise
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if data is None:
            raise ImageError(f"the row has no image{f', only the path {path!r}' if path else ''}")
        return bytes(data)

    def _value(self, row: int) -> Any:
        if not self._first <= row < self._end:  # not in the current batch
            if not self._end <= row < self._rows_end:
                self._batches = self._rows.batches([self._column], row, BATCH)
                self._rows_end = self._rows.end(row)
            self._first, batch = next(pair for pair in self._batches if row < pair[0] + len(pair[1]))
            batch.validate()
            self._images = batch.column(self._column)
            self._end = self._first + len(self._images)
        cell = self._images.slice(row - self._first, 1)
        cell.validate(full=True)
        return cell[0].as_py()
