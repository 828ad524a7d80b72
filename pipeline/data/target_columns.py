"""Choice of a table's columns for the key and the target embedding, by one rule for all formats."""

import fnmatch
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.errors import Parameter, RequestError
from pipeline.core.wording import examples
from pipeline.data.table_files import HDF5
from pipeline.data.tables import KEYS, Table, find_column

log = logging.getLogger(__name__)

EXCLUDED = ("path", "label", "split", "group")  # known columns that are not part of an embedding
LIKELY_NAMES = ("embedding", "embeddings", "vector", "vectors", "target", "targets", "features", "predictions")
OPTION = Parameter("target_columns", "NAMES")
SHOWN = 10  # column names in a message


@dataclass(frozen=True)
class TargetColumns:
    """The columns of target embeddings.

    Attributes:
        key: The position of the column of paths or labels; None if rows are in path order.
        numbers: The positions of the embedding's columns: one column of lists, or any number of columns of numbers.
        names: The names of these columns; empty strings if the table has no header.
    """

    key: int | None
    numbers: Sequence[int]
    names: Sequence[str]


def choose_columns(table: Table, patterns: str | None = None) -> TargetColumns:
    """Find the key and the embedding of a table.

    The key is the column `path`, else `label`, else the first column of a CSV file. In MATLAB and HDF5 files, it is
    otherwise the only column of text, with any name; without text, rows are in path order. The embedding is the
    only column of lists, or the only one with a name in LIKELY_NAMES; without columns of lists, it is all columns of
    numbers, and columns of any other kind are refused. The columns EXCLUDED and the index of a data frame are not part
    of it.

    Args:
        table: The table.
        patterns: Names or patterns (`d*`) of the embedding's columns, separated by commas; None for the rule above.

    Raises:
        RequestError: There is no key or no embedding, or the embedding is ambiguous.
    """
    key = _key(table)
    numbers = choose_numbers(table, key, patterns)
    return TargetColumns(key, numbers, [table.columns[number].name for number in numbers])


def choose_numbers(
    table: Table,
    key: int | None,
    patterns: str | None = None,
    likely: Sequence[str] = LIKELY_NAMES,
    choice: Sequence[object] = (" with ", OPTION),
) -> list[int]:
    """Find the embedding of a table; see `choose_columns`.

    Args:
        table: The table.
        key: The position of the key; None without a key.
        patterns: See `choose_columns`.
        likely: Names that identify the embedding among several columns of lists.
        choice: How to choose the columns, for messages.

    Raises:
        RequestError: There is no embedding, or it is ambiguous.
    """
    rest = [number for number in range(len(table.columns)) if number != key]
    if patterns:
        numbers = _matching(table, rest, patterns)
    else:
        candidates = [number for number in rest if _may_be_target(table, number)]
        if table.file.suffix.lower() in (".mat", *HDF5):  # these may contain more than a table
            candidates = [number for number in candidates if table.columns[number].kind in ("number", "list")]
        numbers = _lists(table, candidates, likely, choice) or candidates
        if unused := [number for number in candidates if number not in numbers]:
            log.info("%s: left out the columns %s.", table.file, _names(table, unused))
    kinds = {table.columns[number].kind for number in numbers}
    if "list" in kinds and len(numbers) > 1:
        raise RequestError(
            f"{table.file}: the embedding must be one column of lists, or columns of numbers, not "
            f"{_names(table, numbers)}. Choose",
            *choice,
            ".",
        )
    if invalid := [number for number in numbers if table.columns[number].kind in ("text", "other")]:
        raise RequestError(
            f"{table.file}: the columns {_names(table, invalid)} hold neither numbers nor lists of numbers. Leave them "
            "out of the table, or choose",
            *choice,
            ".",
        )
    if not numbers:
        raise RequestError(
            f"{table.file}: no columns of numbers besides the {KEYS[0]} or {KEYS[1]}; is the table separated by commas?"
        )
    return numbers


def _key(table: Table) -> int | None:
    key = next((number for name in KEYS if (number := find_column(table, name)) is not None), None)
    if key is not None:
        return key
    if table.file.suffix.lower() in (".mat", *HDF5):
        return only_text(table)
    if table.columns and table.columns[0].kind == "any":
        return 0
    if not table.columns:
        raise RequestError(f"{table.file}: this table contains no targets.")
    raise RequestError(f"{table.file}: no column 'path' or 'label'; it has {_names(table, range(len(table.columns)))}.")


def only_text(table: Table) -> int | None:
    """The position of the only column of text with a name that is not in EXCLUDED; None if there is no text.

    Raises:
        RequestError: There are several.
    """
    texts = [
        number
        for number, column in enumerate(table.columns)
        if column.kind == "text" and column.name.lower() not in EXCLUDED
    ]
    if len(texts) > 1:
        raise RequestError(f"{table.file}: {_names(table, texts)} contain text; call one of them 'path' or 'label'.")
    return texts[0] if texts else None


def _may_be_target(table: Table, number: int) -> bool:
    column = table.columns[number]
    return not column.is_index and column.name.lower() not in EXCLUDED


def _lists(table: Table, candidates: Sequence[int], names: Sequence[str], choice: Sequence[object]) -> list[int]:
    """The column of lists; none if there are only numbers."""
    lists = [number for number in candidates if table.columns[number].kind == "list"]
    likely = [number for number in lists if table.columns[number].name.lower() in names]
    if len(lists) > 1 and len(likely) != 1:
        raise RequestError(
            f"{table.file}: the columns {_names(table, lists)} hold lists of numbers. Choose the embedding",
            *choice,
            ".",
        )
    return likely if len(lists) > 1 else lists


def _matching(table: Table, rest: Sequence[int], patterns: str) -> list[int]:
    """The columns with matching names, in the order of the patterns."""
    numbers: dict[int, None] = {}
    for pattern in filter(None, map(str.strip, patterns.split(","))):
        matches = [number for number in rest if table.columns[number].name == pattern]
        matches = matches or [number for number in rest if fnmatch.fnmatchcase(table.columns[number].name, pattern)]
        if not matches:
            raise RequestError(
                f"{table.file}: no column matches {pattern!r}; besides the key, the table has "
                f"{_names(table, rest) or 'none'}."
            )
        numbers |= dict.fromkeys(matches)
    return list(numbers)


def _names(table: Table, numbers: Sequence[int]) -> str:
    return examples([table.columns[number].name for number in numbers], SHOWN)
