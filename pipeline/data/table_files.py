"""Opening of tables: CSV files as written by spreadsheets and pandas here, others in `binary_tables.py`."""

import contextlib
import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.core.errors import RequestError, cause
from pipeline.core.wording import counted
from pipeline.data.tables import INDEX, KEYS, Column, Row, Table, as_vector, check_names
from pipeline.data.text_files import as_text, check_utf8, nfc, read_lines

HDF5 = (".h5", ".hdf5")
SUFFIXES = (".csv", ".tsv", ".parquet", ".lance", ".npz", ".mat", *HDF5)
NUMBER_LIKE = re.compile(r"\s*[-+]?\.?\d")


def read_table(file: Path, has_header: bool | None = None) -> Table:
    """Open a table of any format, see SUFFIXES.

    Args:
        file: The table.
        has_header: Whether the first row of a CSV file is a header; None to determine it with `is_header`.

    Raises:
        RequestError: The file cannot be read, has a column twice, or declares more data than fits in memory.
    """
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        from pipeline.data.binary_tables import ParquetTable

        return ParquetTable(file)
    if suffix == ".npz":
        from pipeline.data.binary_tables import NpzTable

        return NpzTable(file)
    if suffix == ".lance":
        from pipeline.data.binary_tables import LanceTable

        return LanceTable(file)
    if suffix in HDF5:
        from pipeline.data.hdf5_tables import hdf5_table

        return hdf5_table(file)
    if suffix == ".mat":
        from pipeline.data.matlab_files import matlab_table

        return matlab_table(file)
    return CsvTable(file, has_header)


class CsvTable:
    """A CSV file; the separator is a tab in a `.tsv` file, else a semicolon if the first line uses it, else a comma.

    With semicolons, a comma in a number is the decimal point. Empty rows, and empty columns at the end, are ignored;
    all rows have as many cells as the first, which may be a header.

    Args:
        file: The file.
        has_header: Whether its first row is a header; None to determine it with `is_header`.

    Raises:
        RequestError: The file cannot be read, has a column twice, or it is unclear whether its first row is a header.
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
                    f"{where}: {counted(len(row), 'cell')}, but line {self._line} has {self._width}; all rows need "
                    "the same number, and a cell with a comma in it needs quotes."
                )
            if row == self._header:
                raise RequestError(f"{where}: this line repeats the header; remove it.")
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


def is_header(cells: Sequence[str], following: Sequence[str]) -> bool | None:
    """Whether the first row of a CSV file is a header.

    It is a header if one of its cells is `path` or `label`; if none of the cells after the first is a number or begins
    like one; or if those cells count 0, 1, 2, ..., as in pandas.

    Args:
        cells: The first row.
        following: The second row.

    Returns:
        Whether it is a header; None if it is ambiguous: its cells count up, but so might a row of integers.
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


def is_number(cell: str) -> bool:
    """Whether the text of a cell is a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _delimiter(line: str) -> str:
    """The delimiter of a line; a semicolon only if commas in the cells after the first are decimal points or quoted."""
    _, *rest = line.strip().split(";")
    plain = (cell for cell in rest if "," in cell and not cell.startswith('"'))
    return ";" if rest and all(is_number(cell.replace(",", ".")) for cell in plain) else ","
