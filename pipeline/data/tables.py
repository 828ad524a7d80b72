"""Tables of any format: named columns of cells and numbers, and the rules for both.

The same rules apply to lists of images and to target embeddings.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from pipeline.core.errors import RequestError
from pipeline.data.text_files import check_utf8, nfc

SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
KEYS = ("path", "label")
LARGEST = 1e15  # largest absolute value, so that sums of squares stay finite in float32
# Names of the columns that pandas writes for an unnamed index.
INDEX = re.compile(r"|index|level_\d+|unnamed: [\d.]+|__index_level_\d+__", re.IGNORECASE)


NAMED = re.compile(r"(?P<file>.+\.(?:mat|h5|hdf5|npz|parquet|lance)):(?P<name>.+)", re.IGNORECASE | re.DOTALL)


def split_name(file: Path) -> tuple[Path, str | None]:
    """Split FILE:NAME into a table and a variable or column of it, unless a file of that full name exists.

    Returns:
        The file, and the name or None.
    """
    match = None if file.exists() else NAMED.fullmatch(str(file))
    return (Path(match["file"]), match["name"].strip("/")) if match else (file, None)


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


def find_column(table: Table, name: str) -> int | None:
    """The position of the column called `name` (lower case), ignoring case in the table; None if missing."""
    return next((number for number, column in enumerate(table.columns) if column.name.lower() == name), None)


def cell_text(value: object, where: str) -> str | None:
    """Convert a cell to text in NFC: integers without ".0", bytes from UTF-8; None if it is empty, null or NaN.

    Raises:
        RequestError: The cell is not in UTF-8, or is a list.
    """
    if isinstance(value, list | tuple | dict | np.ndarray):
        raise RequestError(f"{where}: this cell is a list; it must be text or a number.")
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    elif isinstance(value, float) and value.is_integer():  # integers in a column with nulls
        value = int(value)
    text = "" if value is None or value != value else str(value)
    return nfc(check_utf8(text, where)) if text.strip() else None


def without_dot(key: str) -> str:
    """A path without the leading "./" that `find` writes."""
    return re.sub(r"^(\./+)+", "", key) or key


def as_vector(values: Any) -> np.ndarray:
    """Convert numbers to a float32 array; numbers that are too large become infinite, without a warning.

    Raises:
        TypeError, ValueError, OverflowError: The values are not numbers.
    """
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float32)


def check_finite(vector: np.ndarray, name: str) -> None:
    """Refuse numbers that are not finite or would overflow float32 arithmetic; `name` is for the message.

    Raises:
        RequestError: A number is NaN, infinite, or larger than LARGEST in absolute value.
    """
    if not (np.abs(vector) <= LARGEST).all():
        raise RequestError(f"{name} contains NaN or infinite values, or numbers above {LARGEST:g}.")


def check_names(names: Sequence[str], where: str) -> None:
    """Refuse duplicate column names; for `path` and `label`, case is ignored.

    Raises:
        RequestError: A name occurs twice.
    """
    counts = Counter(name.lower() if name.lower() in KEYS else name for name in names)
    if doubled := [name for name, count in counts.items() if count > 1]:
        raise RequestError(f"{where}: the column {doubled[0]!r} occurs twice.")
