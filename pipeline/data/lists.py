"""Lists of images: `.txt`, `.csv` and `.parquet` files that name images and what is known of each."""

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import RequestError, cause
from pipeline.core.wording import counted
from pipeline.data.images import BUCKETS, is_bucket_url
from pipeline.data.tables import as_vector, cell_text, check_finite, find_column, read_table
from pipeline.data.text_files import check_utf8, read_lines

SUFFIXES = (".txt", ".csv", ".parquet")
COLUMNS = ("label", "split", "group", "target")


def read_list(file: Path, root: Path) -> tuple[list[str], dict[str, Any]]:
    """Read a list of images.

    Args:
        file: A `.txt` (a path on each line), or a `.csv` or `.parquet` with a column `path` and, where there, `label`,
            `split`, `group` and `target` (lists of numbers).
        root: The folder that relative paths start from.

    Returns:
        The paths, relative to `root` if they are in it, or URLs of objects in buckets, sorted, each once; and the other
        columns in the same order, by their names in an `ImageSet`: `labels` (with None for an image that the list gives
        no label), and `splits`, `groups` and `targets` where the list has them. An image that is listed several times
        with different targets has their mean; then `repeats` holds all targets of each image, shape (R, D).

    Raises:
        RequestError: The file cannot be read, names no image, or one image has two different labels, groups or splits.
    """
    rows: dict[str, dict] = {}
    measured: dict[str, list] = {}
    for where, cell, row in _entries(file):
        path = _path(cell, root, where)
        measured.setdefault(path, []).append(row.pop("target"))
        known = rows.setdefault(path, row)
        if known != row:
            raise RequestError(f"{where}: {path!r} is listed before with another {_differing(known, row)}.")
    if not rows:
        raise RequestError(f"{file}: this list names no images.")
    paths = sorted(rows)
    columns: dict[str, Any] = {"labels": [rows[path]["label"] for path in paths]}
    for name in ("group", "split"):
        values = [rows[path][name] for path in paths]
        if any(value is not None for value in values):
            columns[f"{name}s"] = values
    return paths, columns | _targets(file, paths, measured)


def _differing(known: dict, row: dict) -> str:
    return next(name for name in COLUMNS if known.get(name) != row.get(name))


def _entries(file: Path) -> Iterator[tuple[str, object, dict[str, Any]]]:
    """Where each entry of a list stands, its path as it is, and its other columns; None for what it lacks."""
    if file.suffix.lower() == ".txt":
        nothing = dict.fromkeys(COLUMNS)
        yield from ((where, path, dict(nothing)) for where, path in _lines(file))
        return
    table = read_table(file, has_header=True)
    path = find_column(table, "path")
    if path is None:
        if not table.columns:
            raise RequestError(f"{file}: this list names no images.")
        names = ", ".join(repr(column.name) for column in table.columns)
        raise RequestError(f"{file}: this list has no column 'path' (it has {names}).")
    places = {name: place for name in COLUMNS if (place := find_column(table, name)) is not None}
    numbers = [places.pop("target")] if "target" in places and table.columns[places["target"]].kind == "list" else []
    for row in table.rows([path, *places.values()], numbers):
        entry: dict[str, Any] = dict.fromkeys(COLUMNS) | {"target": row.vector}
        for name, cell in zip(places, row.cells[1:], strict=True):
            text = cell_text(cell, row.where)
            entry[name] = _numbers(text, row.where) if name == "target" and text else text
        yield row.where, row.cells[0], entry


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """The lines of a `.txt`, without empty ones, and where each stands."""
    try:
        for number, line in enumerate(read_lines(file), 1):
            if path := line.rstrip("\r\n"):
                yield f"{file}, line {number}", path
    except (OSError, UnicodeError) as error:
        raise RequestError(f"{file}: cannot be read ({cause(error)}).") from error


def _numbers(text: str, where: str) -> np.ndarray:
    """The numbers of a list as JSON writes it."""
    try:
        values = json.loads(text)
        if isinstance(values, list) and all(type(value) in (int, float) for value in values):
            return as_vector(np.array(values, np.float64))
    except (ValueError, OverflowError, RecursionError):
        pass
    raise RequestError(f"{where}: the target is not a list of numbers such as [0.5, 1.25].")


def _targets(file: Path, paths: Sequence[str], measured: dict[str, list]) -> dict[str, Any]:
    """The columns `targets` and `repeats`, where the list has targets; measured: path -> its targets."""
    if all(target is None for targets in measured.values() for target in targets):
        return {}
    names = [path for path in paths for _ in measured[path]]
    values = _stacked(file, names, [target for path in paths for target in measured[path]])
    starts = np.cumsum([0, *(len(measured[path]) for path in paths)])
    repeats = [np.unique(values[begin:end], axis=0) for begin, end in itertools.pairwise(starts)]
    if all(len(each) == 1 for each in repeats):
        return {"targets": np.concatenate(repeats)}
    repeats = [values[begin:end] for begin, end in itertools.pairwise(starts)]
    return {"targets": np.stack([each.mean(axis=0) for each in repeats]), "repeats": repeats}


def _stacked(file: Path, paths: Sequence[str], targets: Sequence[np.ndarray | None]) -> np.ndarray:
    """The targets of a list as one array."""
    rows: list[np.ndarray] = []
    for path, target in zip(paths, targets, strict=True):
        if target is None or not len(target):
            raise RequestError(f"{file}: {path!r} has no target, or one without numbers; others have one.")
        if rows and len(target) != len(rows[0]):
            raise RequestError(
                f"{file}: {path!r} has a target of {counted(len(target), 'number')}, others of {len(rows[0])}."
            )
        check_finite(target, f"{file}: the target of {path!r}")
        rows.append(target)
    return np.stack(rows)


def _path(path: object, root: Path, where: str) -> str:
    """A listed path, normalised: relative to the root if it is in it. URLs of buckets stay as they are."""
    if not isinstance(path, str | None) or "\0" in (path or ""):
        raise RequestError(f"{where}: {path!r} is not a path; is this list in UTF-8?")
    if not path or not path.strip():
        raise RequestError(f"{where}: no path.")
    if is_bucket_url(path):
        return path
    if "://" in path:
        raise RequestError(f"{where}: {path!r} is at an address that is not read; {', '.join(BUCKETS)} are.")
    file = os.path.join(root, path)
    if not os.path.lexists(file):
        check_utf8(path, where)
        if "\\" in path and os.path.lexists(slashed := file.replace("\\", "/")):  # as Windows separates folders
            file = slashed
    base, file = os.path.abspath(root), os.path.abspath(file)
    if os.path.commonpath([base, file]) == base and file != base:
        return Path(os.path.relpath(file, base)).as_posix()
    if file == base:
        raise RequestError(f"{where}: {path!r} is a folder.")
    return Path(file if os.path.isabs(path) else os.path.normpath(path)).as_posix()
