"""Lists of images: `.txt`, `.csv` and `.parquet` files that name images and what is known of each."""

import csv
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pipeline.core.errors import RequestError, cause
from pipeline.core.wording import counted
from pipeline.data.csv_files import open_text, read_csv
from pipeline.data.images import BUCKETS, as_text, is_bucket_url

SUFFIXES = (".txt", ".csv", ".parquet")
COLUMNS = ("path", "label", "split", "group", "target")


def read_list(file: Path) -> tuple[list[str], dict[str, Any]]:
    """Read a list of images.

    Args:
        file: A `.txt` (a path on each line), or a `.csv` or `.parquet` with a column `path` and, where there, `label`,
            `split`, `group` and `target` (lists of numbers).

    Returns:
        The paths, relative to the list's folder, or URLs of objects in buckets, sorted, each once; and the other
        columns in the same order, by their names in an `ImageSet`: `labels` (with None for an image that the list gives
        no label), and `splits`, `groups` and `targets` where the list has them. An image that is listed several times
        with different targets has their mean; then `repeats` holds all targets of each image, shape (R, D).

    Raises:
        RequestError: The file cannot be read, names no image, a path leaves the list's folder, or one image has two
            different labels, groups or splits.
    """
    rows: dict[str, dict] = {}
    measured: dict[str, list] = {}
    for number, row in enumerate(_entries(file)):
        path = _inside(row.pop("path"), file)
        measured.setdefault(path, []).append(row.pop("target", None))
        known = rows.setdefault(path, row)
        if known != row:
            raise RequestError(
                f"{file}, entry {number + 1}: {path!r} is listed before with another {_differing(known, row)}."
            )
    if not rows:
        raise RequestError(f"{file}: this list names no images.")
    paths = sorted(rows)
    columns: dict[str, Any] = {"labels": [rows[path].get("label") for path in paths]}
    for name in ("group", "split"):
        values = [rows[path].get(name) for path in paths]
        if any(value is not None for value in values):
            columns[f"{name}s"] = values
    return paths, columns | _targets(file, paths, measured)


def _targets(file: Path, paths: list[str], measured: dict[str, list]) -> dict[str, Any]:
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


def _differing(known: dict, row: dict) -> str:
    return next(name for name in COLUMNS if known.get(name) != row.get(name))


def _entries(file: Path) -> Iterator[dict]:
    """The entries of a list, in its order: "path" and those of the other columns that it has."""
    try:
        columns, rows = _read_rows(file)
    except (OSError, ValueError, csv.Error) as error:
        raise RequestError(f"{file}: cannot be read as a list of images ({cause(error)}).") from error
    if rows and "path" not in columns:
        raise RequestError(f"{file}: this list has no column 'path' (it has {', '.join(map(repr, columns))}).")
    for number, row in enumerate(rows):
        entry = {name: row[name] for name in COLUMNS if row.get(name) is not None}
        for name in ("label", "group", "split"):
            if name in entry:
                entry[name] = as_text(str(entry[name]))
        if isinstance(entry.get("target"), str):
            entry["target"] = _numbers(file, number, entry["target"])
        yield {"path": None, **entry}


def _read_rows(file: Path) -> tuple[list[str], list[dict]]:
    """The names of the columns, and the rows."""
    if file.suffix.lower() == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(file)
        return table.column_names, table.select([name for name in table.column_names if name in COLUMNS]).to_pylist()
    if file.suffix.lower() == ".txt":
        with open_text(file) as text:
            return ["path"], [{"path": line} for line in text.read().splitlines() if line.strip()]
    columns, *rows = [cells for _, cells in read_csv(file)] or [[]]
    return columns, [dict(zip(columns, cells, strict=False)) for cells in rows]


def _numbers(file: Path, number: int, text: str) -> list[float]:
    try:
        return [float(value) for value in json.loads(text)]
    except (ValueError, TypeError) as error:
        raise RequestError(
            f"{file}, entry {number + 1}: the target is not a list of numbers such as [0.5, 1.25]."
        ) from error


def _stacked(file: Path, paths: list[str], targets: list) -> np.ndarray:
    """The targets of a list as one array."""
    rows = []
    for path, target in zip(paths, targets, strict=True):
        try:
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
                rows.append(np.array([] if target is None else target, np.float32))
        except (TypeError, ValueError) as error:
            raise RequestError(f"{file}: the target of {path!r} is not a list of numbers.") from error
        if rows[-1].ndim != 1 or not rows[-1].size or rows[-1].shape != rows[0].shape:
            given = f"a target of {counted(rows[-1].size, 'number')}" if rows[-1].size else "no target"
            raise RequestError(f"{file}: {path!r} has {given}, but {paths[0]!r} one of {rows[0].size}.")
        if not np.isfinite(rows[-1]).all():
            raise RequestError(f"{file}: the target of {path!r} holds NaN, infinite or too large values.")
    return np.stack(rows)


def _inside(path: object, file: Path) -> str:
    """A listed path, normalised; refused where it leads out of the list's folder. URLs of buckets stay as they are."""
    if not isinstance(path, str | None) or "\0" in (path or ""):
        raise RequestError(f"{file}: {path!r} is not a path; is this list in UTF-8?")
    if path and is_bucket_url(path):
        return path
    if path and "://" in path:
        raise RequestError(f"{file}: {path!r} is at an address that is not read; {', '.join(BUCKETS)} are.")
    plain = PurePosixPath(os.path.normpath(path)) if path else PurePosixPath()
    if not path or plain.is_absolute() or plain.parts[:1] == ("..",) or plain == PurePosixPath("."):
        raise RequestError(f"{file}: the path {path!r} is not inside the list's folder; make it relative to it.")
    return plain.as_posix()
