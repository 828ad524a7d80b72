"""Which columns of a table are the key and the target embedding: one rule for all formats."""

import fnmatch
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.errors import Parameter, RequestError
from pipeline.data.tables import KEYS, Table, find_column

log = logging.getLogger(__name__)

NEVER = ("path", "label", "split", "group")  # known columns, which are no part of an embedding
LIKELY = ("embedding", "embeddings", "vector", "vectors", "target", "targets", "features", "predictions")
CHOICE = Parameter("target_columns", "NAMES")
NAMED = 10  # how many columns a message names


@dataclass(frozen=True)
class TargetColumns:
    """The columns of target embeddings.

    Attributes:
        key: The position of the column of paths or labels.
        numbers: The positions of the embedding: one column of lists, or any of numbers.
        names: Their names; empty where the table has no header.
    """

    key: int
    numbers: Sequence[int]
    names: Sequence[str]


def choose_columns(table: Table, chosen: str | None = None) -> TargetColumns:
    """Find the key and the embedding of a table.

    The key is the column `path`, else `label`, else the first of a CSV file. The embedding is the only column of lists,
    or the only such one with a name of LIKELY; where there is none, it is all columns of numbers, and any column of
    something else is refused. The columns NEVER and the index of a data frame are no part of it.

    Args:
        table: The table.
        chosen: Names or patterns (`d*`) of the embedding's columns, separated by commas; None for that rule.

    Raises:
        RequestError: There is no key or no embedding, or it may be one or another.
    """
    key = _key(table)
    rest = [number for number in range(len(table.columns)) if number != key]
    if chosen:
        numbers = _matching(table, rest, chosen)
    else:
        possible = [number for number in rest if _may_be_target(table, number)]
        numbers = _lists(table, possible) or possible
        if left := [number for number in possible if number not in numbers]:
            log.info("%s: left out the columns %s.", table.file, _named(table, left))
    kinds = {table.columns[number].kind for number in numbers}
    if "list" in kinds and len(numbers) > 1:
        raise RequestError(
            f"{table.file}: the embedding is one column of lists, or columns of numbers; {_named(table, numbers)} are "
            "not. Choose with ",
            CHOICE,
            ".",
        )
    if other := [number for number in numbers if table.columns[number].kind in ("text", "other")]:
        raise RequestError(
            f"{table.file}: the columns {_named(table, other)} hold neither numbers nor lists of numbers. Leave them "
            "out of the table, or choose with ",
            CHOICE,
            ".",
        )
    if not numbers:
        raise RequestError(
            f"{table.file}: no numbers beside the {KEYS[0]} or {KEYS[1]}; is the table separated by commas?"
        )
    return TargetColumns(key, numbers, [table.columns[number].name for number in numbers])


def _key(table: Table) -> int:
    key = next((found for name in KEYS if (found := find_column(table, name)) is not None), None)
    if key is not None:
        return key
    if table.columns and table.columns[0].kind == "any":
        return 0
    if not table.columns:
        raise RequestError(f"{table.file}: this table holds no targets.")
    raise RequestError(f"{table.file}: no column 'path' or 'label'; it has {_named(table, range(len(table.columns)))}.")


def _may_be_target(table: Table, number: int) -> bool:
    column = table.columns[number]
    return not column.is_index and column.name.lower() not in NEVER


def _lists(table: Table, possible: Sequence[int]) -> list[int]:
    """The column of lists; none where there are only numbers."""
    lists = [number for number in possible if table.columns[number].kind == "list"]
    likely = [number for number in lists if table.columns[number].name.lower() in LIKELY]
    if len(lists) > 1 and len(likely) != 1:
        raise RequestError(
            f"{table.file}: the columns {_named(table, lists)} hold lists of numbers. Choose the embedding with ",
            CHOICE,
            ".",
        )
    return likely if len(lists) > 1 else lists


def _matching(table: Table, rest: Sequence[int], chosen: str) -> list[int]:
    """The columns whose names match, in the order of the patterns."""
    numbers: dict[int, None] = {}
    for pattern in filter(None, map(str.strip, chosen.split(","))):
        found = [number for number in rest if fnmatch.fnmatchcase(table.columns[number].name, pattern)]
        if not found:
            raise RequestError(
                f"{table.file}: no column {pattern!r} beside the key; it has {_named(table, rest) or 'none'}."
            )
        numbers |= dict.fromkeys(found)
    return list(numbers)


def _named(table: Table, numbers: Sequence[int]) -> str:
    names = [repr(table.columns[number].name) for number in numbers]
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
