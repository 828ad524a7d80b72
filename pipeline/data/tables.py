"""Tables with named columns, from Parquet files, arrays, and CSV files as written by spreadsheets and pandas.

The same rules apply to lists of images and to target embeddings.
"""

import contextlib
import csv
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from pipeline.core.errors import RequestError, cause
from pipeline.core.wording import counted
from pipeline.data.text_files import as_text, check_utf8, nfc, read_lines

TEXT = (".csv", ".tsv")
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
KEYS = ("path", "label")
LARGEST = 1e15  # largest absolute value, so that sums of squares stay finite in float32
# Names of the columns that pandas writes for an unnamed index.
INDEX = re.compile(r"|index|level_\d+|unnamed: [\d.]+|__index_level_\d+__", re.IGNORECASE)
NUMBER_LIKE = re.compile(r"\s*[-+]?\.?\d")


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        name: Its name as written.
        kind: The kind of its cells: a number, a list of numbers, text, or something else; "any" in a CSV file.
        is_index: Whether it is the index of a data frame.
    """

    name: str
    kind: Literal["number", "list", "text", "other", "any"]
    is_index: bool = False


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        where: The file and the position of the row in it, for messages.
        cells: The requested cells, unconverted.
        vector: The numbers in the requested columns of numbers, shape (D,), float32; None if the cell has no list.
    """

    where: str
    cells: Sequence[Any]
    vector: np.ndarray | None


class Table(Protocol):
    """A table that is read row by row."""

    @property
    def file(self) -> Path:
        """The file of the table."""
        ...

    @property
    def columns(self) -> Sequence[Column]:
        """The columns; they have no names in a CSV file without a header."""
        ...

    def rows(self, cells: Sequence[int], numbers: Sequence[int]) -> Iterator[Row]:
        """Read the rows.

        Args:
            cells: The columns to read unconverted.
            numbers: The columns to read as numbers: one column of lists, or any number of columns of numbers.

        Raises:
            RequestError: The file cannot be read, or a cell has the wrong kind.
        """
        ...


def read_table(file: Path, has_header: bool | None = None) -> Table:
    """Open a table of any format: `.csv`, `.tsv`, `.parquet` or `.npz`.

    Args:
        file: The table.
        has_header: Whether the first row of a CSV file is a header; None to determine it with `is_header`.

    Raises:
        RequestError: The file cannot be read, has a column twice, or declares more data than fits in memory.
    """
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        from pipeline.data.parquet_tables import ParquetTable

        return ParquetTable(file)
    if suffix == ".npz":
        from pipeline.data.array_files import NpzTable

        return NpzTable(file)
    return CsvTable(file, has_header)


def find_column(table: Table, name: str) -> int | None:
    """The position of the column with a name (in lower case), ignoring case in the table; None if missing."""
    return next((number for number, column in enumerate(table.columns) if column.name.lower() == name), None)


def cell_text(value: object, where: str) -> str | None:
    """Convert a cell to text in NFC: integers without ".0", bytes from UTF-8; None if it is empty, null or NaN.

    Raises:
        RequestError: The cell is not in UTF-8, or is a list.
    """
    if isinstance(value, list | tuple | dict | np.ndarray):
        raise RequestError(f"{where}: text or a number is due here, not a list.")
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    elif isinstance(value, float) and value.is_integer():  # integers in a column with nulls
        value = int(value)
    text = "" if value is None or value != value else str(value)
    return nfc(check_utf8(text, where)) if text.strip() else None


def as_vector(values: Any) -> np.ndarray:
    """Convert numbers to a float32 array; numbers that are too large become infinite, without a warning.

    Raises:
        TypeError, ValueError, OverflowError: The values are not numbers.
    """
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float32)


def check_finite(vector: np.ndarray, name: str) -> None:
    """Refuse numbers with which float32 arithmetic would not stay finite; `name` is for the message.

    Raises:
        RequestError: A number is NaN, infinite, or larger than LARGEST in absolute value.
    """
    if not (np.abs(vector) <= LARGEST).all():
        raise RequestError(f"{name} holds NaN or infinite values, or numbers above {LARGEST:g}.")


def is_number(cell: str) -> bool:
    """Whether the text of a cell is a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


class CsvTable:
    """A CSV file, separated by tabs if it ends in `.tsv`, else by semicolons if its first line is, else by commas.

    With semicolons, a comma in a number is the decimal point. Empty rows, and empty columns at the end, are ignored;
    all rows have as many cells as the first, which may be a header.

    Args:
        file: The file.
        has_header: Whether its first row is a header; None to determine it with `is_header`.

    Raises:
        RequestError: The file cannot be read, has a column twice, or its first row may or may not be a header.
    """

    def __init__(self, file: Path, has_header: bool | None = None) -> None:
        self.file = file
        self._rows = self._read()
        first = list(itertools.islice(self._rows, 2))
        self._line, cells = first[0] if first else (1, [])
        self._width = len(cells)
        if has_header is None:
            has_header = is_header(cells, first[1][1] if len(first) > 1 else [])
        if has_header is None:
            raise RequestError(
                f"{file}, line {self._line}: this may be a header or a row; name its first column 'label' or 'path', "
                "or write the numbers of a row as 0.0."
            )
        self._header = cells if has_header else []
        self.columns = self._named_columns(cells) if has_header else [Column("", "any")] * len(cells)
        self._rows = itertools.chain(first[1:] if has_header else first, self._rows)

    def rows(self, cells: Sequence[int], numbers: Sequence[int]) -> Iterator[Row]:
        """See `Table.rows`."""
        for line, row in self._rows:
            where = f"{self.file}, line {line}"
            if len(row) != self._width:
                raise RequestError(
                    f"{where}: {counted(len(row), 'cell')}, but line {self._line} has {self._width}; all rows must "
                    "have as many, and a cell with a comma in it needs quotes."
                )
            if row == self._header:
                raise RequestError(f"{where}: the header again; leave this line out.")
            yield Row(where, [row[number] for number in cells], self._vector(row, numbers, where) if numbers else None)

    def _read(self) -> Iterator[tuple[int, list[str]]]:
        """Line numbers and cells, without empty rows and without empty cells beyond the width of the first row."""
        try:
            delimiter = "\t" if self.file.suffix.lower() == ".tsv" else _delimiter(next(read_lines(self.file), ""))
            self._decimal = "," if delimiter == ";" else "."
            reader, width = csv.reader(read_lines(self.file), delimiter=delimiter, strict=True), 0
            for cells in reader:
                filled = max((number for number, cell in enumerate(cells, 1) if cell.strip()), default=0)
                width = width or filled
                if filled:
                    yield reader.line_num, cells[: max(filled, width)]
        except (OSError, UnicodeError, csv.Error) as error:
            raise RequestError(f"{self.file}: cannot be read ({cause(error)}).") from error

    def _named_columns(self, header: Sequence[str]) -> list[Column]:
        where = f"{self.file}, line {self._line}"
        names = [nfc(check_utf8(cell.strip(), where)) for cell in header]
        check_names(names, where)
        return [
            Column(name, "any", bool(INDEX.fullmatch(name)) and (number == 0 or bool(name)))
            for number, name in enumerate(names)
        ]

    def _vector(self, row: Sequence[str], numbers: Sequence[int], where: str) -> np.ndarray:
        cells = [row[number].replace(self._decimal, ".") for number in numbers]
        if not any("_" in cell for cell in cells):
            with contextlib.suppress(ValueError):
                return as_vector(np.array(cells, np.float64))
        wrong = next(number for number, cell in zip(numbers, cells, strict=True) if not is_number(cell))
        named = f" in the column {self.columns[wrong].name!r}" if self._header else ""
        if not row[wrong].strip():
            raise RequestError(f"{where}: an empty cell{named}.")
        hint = "; a list needs a column for each of its numbers" if "[" in row[wrong] else ""
        if not self._header:
            hint += "; if this is a header, name its first column 'label' or 'path'"
        raise RequestError(f"{where}: not a number{named}: {as_text(row[wrong])!r}{hint}.")


def check_names(names: Sequence[str], where: str) -> None:
    """Refuse duplicate column names; for `path` and `label`, case is ignored.

    Raises:
        RequestError: A name occurs twice.
    """
    counts = Counter(name.lower() if name.lower() in KEYS else name for name in names)
    if doubled := [name for name, count in counts.items() if count > 1]:
        raise RequestError(f"{where}: the column {doubled[0]!r} is there twice.")


def is_header(cells: Sequence[str], following: Sequence[str]) -> bool | None:
    """Whether the first row of a CSV file is a header.

    It is a header if one of its cells is `path` or `label`; if none of the cells after the first is a number or begins
    like one; or if those cells count 0, 1, 2, ..., as in pandas.

    Args:
        cells: The first row.
        following: The second row.

    Returns:
        Whether it is a header; None if it is ambiguous, because the cells count, but a row of integers may, too.
    """
    first, *rest = [cell.strip().lower() for cell in cells] or [""]
    if first in KEYS or any(name in KEYS for name in rest):
        return True
    if rest == [str(number) for number in range(len(rest))]:
        if not rest or INDEX.fullmatch(first):
            return bool(rest)
        integers = all(re.fullmatch(r"\s*-?\d+\s*", cell) for cell in following[1:])
        return len(rest) > 1 and (None if integers else True)
    return not any(is_number(name) or NUMBER_LIKE.match(name) for name in rest)


def _delimiter(line: str) -> str:
    """The delimiter of a line; a semicolon only if commas in the cells after the first are decimal points or quoted."""
    _, *rest = line.strip().split(";")
    plain = (cell for cell in rest if "," in cell and not cell.startswith('"'))
    return ";" if rest and all(is_number(cell.replace(",", ".")) for cell in plain) else ","
