"""CSV files as people have them: with commas, semicolons or tabs, in UTF-8 or UTF-16."""

import codecs
import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@contextlib.contextmanager
def open_text(file: Path) -> Iterator[TextIO]:
    """Open a text file in UTF-8, or in UTF-16 where its byte order mark says so.

    Args:
        file: The file.

    Yields:
        The opened file, line ends as they are; bytes that are not UTF-8 become surrogates, as in file names.

    Raises:
        OSError: The file cannot be read.
    """
    with open(file, "rb") as opened:
        wide = opened.read(2) in UTF_16
    encoding, errors = ("utf-16", "strict") if wide else ("utf-8-sig", "surrogateescape")
    with open(file, newline="", encoding=encoding, errors=errors) as text:
        yield text


def read_csv(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Read the rows of a CSV file.

    Args:
        file: The file; a `.tsv` is separated by tabs, any other by commas, or by semicolons where its first line
            is. With semicolons, a comma in a number is the decimal point.

    Yields:
        The number of the line and the cells, empty lines left out.

    Raises:
        OSError, ValueError, csv.Error: The file cannot be read.
    """
    with open_text(file) as text:
        delimiter = "\t" if file.suffix.lower() == ".tsv" else _delimiter(text.readline())
        text.seek(0)
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        for cells in reader:
            if cells:
                yield reader.line_num, [_with_point(cell) for cell in cells] if delimiter == ";" else cells


def is_number(cell: str) -> bool:
    """Whether a cell holds a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _delimiter(line: str) -> str:
    cells = line.strip().split(";")
    plain = (cell for cell in cells if "," in cell and not cell.startswith('"'))
    return ";" if len(cells) > 1 and all(is_number(_with_point(cell)) for cell in plain) else ","


def _with_point(cell: str) -> str:
    """A cell with a decimal point, if it is a number with a decimal comma."""
    pointed = cell.replace(",", ".")
    return pointed if is_number(pointed) else cell
