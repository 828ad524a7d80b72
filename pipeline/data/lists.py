"""Lists of images: `.txt`, `.csv` and `.parquet` files with paths, labels, splits, groups and targets."""

import itertools
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import RequestError, cause
from pipeline.core.locations import PREFIXES, is_bucket_url
from pipeline.core.wording import counted
from pipeline.data.table_files import read_table
from pipeline.data.tables import as_vector, cell_text, check_finite, find_column
from pipeline.data.text_files import check_utf8, read_lines

SUFFIXES = (".txt", ".csv", ".parquet")
WEB = ("http://", "https://")
COLUMNS = ("label", "split", "group", "target")


def read_list(file: Path, root: Path) -> tuple[list[str], dict[str, Any]]:
    """Read a list of images.

    Args:
        file: A `.txt` (one path per line), or a `.csv` or `.parquet` with a column `path` and, optionally, `label`,
            `split`, `group` and `target` (lists of numbers).
        root: The base folder for relative paths.

    Returns:
        The paths, relative to `root` if they are in it, or URLs of objects in buckets, sorted and unique; and the other
        columns in the same order, by their names in an `ImageSet`: `labels` (None for an image without a label in the
        list), and `splits`, `groups` and `targets` if the list has them. If an image is listed several times with
        different targets, its target is their mean, and `repeats` has all targets of each image, shape (R, D).

    Raises:
        RequestError: The file cannot be read, names no image, or has two different labels, groups or splits for one
            image.
    """
    rows: dict[str, dict] = {}
    measurements: dict[str, list] = {}
    for where, cell, row in _entries(file):
        if isinstance(cell, str) and cell.lower().startswith(WEB):
            raise RequestError(f"{where}: {cell!r} is a URL. {how_to_download(file, 'path')}")
        path = _path(cell, root, where)
        measurements.setdefault(path, []).append(row.pop("target"))
        earlier = rows.setdefault(path, row)
        if earlier != row:
            raise RequestError(f"{where}: {path!r} is already listed with another {_differing(earlier, row)}.")
    if not rows:
        raise RequestError(f"{file}: this list contains no images.")
    paths = sorted(rows)
    return paths, columns_of(file, {path: rows[path] for path in paths}, measurements)


def how_to_download(file: Path | str, column: str) -> str:
    """The command that downloads images.

    Args:
        file: A list of their URLs.
        column: The column with the URLs, unless the list is a `.txt`.
    """
    kind = Path(file).suffix.lower().removeprefix(".")
    columns = "" if kind == "txt" else f"--input_format {kind} --url_col {shlex.quote(column)} "
    return (
        "Download the images first: pip install img2dataset && "
        f"img2dataset --url_list {shlex.quote(str(file))} {columns}"
        "--resize_mode no --output_format webdataset --output_folder photos; then name the folder photos."
    )


def columns_of(
    file: Path | str, rows: Mapping[str, Mapping[str, Any]], measurements: Mapping[str, Sequence[np.ndarray | None]]
) -> dict[str, Any]:
    """The columns of images, by their names in an `ImageSet`; see `read_list`.

    Args:
        file: The list, for messages.
        rows: Path -> `label`, `group` and `split`, with None if missing.
        measurements: Path -> its targets, or [None].

    Raises:
        RequestError: Some images have no target, or one of another dimension.
    """
    columns: dict[str, Any] = {"labels": [row["label"] for row in rows.values()]}
    for name in ("group", "split"):
        values = [row[name] for row in rows.values()]
        if any(value is not None for value in values):
            columns[f"{name}s"] = values
    return columns | _targets(file, list(rows), measurements)


def _differing(earlier: dict, row: dict) -> str:
    return next(name for name in COLUMNS if earlier.get(name) != row.get(name))


def _entries(file: Path) -> Iterator[tuple[str, object, dict[str, Any]]]:
    """The entries of a list: position in the file, unparsed path, and the other columns, with None if missing."""
    if file.suffix.lower() == ".txt":
        nothing = dict.fromkeys(COLUMNS)
        yield from ((where, path, dict(nothing)) for where, path in _lines(file))
        return
    table = read_table(file, has_header=True)
    path = find_column(table, "path")
    if path is None:
        if not table.columns:
            raise RequestError(f"{file}: this list contains no images.")
        names = ", ".join(repr(column.name) for column in table.columns)
        url = find_column(table, "url")
        advice = "" if url is None else f" {how_to_download(file, table.columns[url].name)}"
        raise RequestError(f"{file}: this list has no column 'path' (it has {names}).{advice}")
    positions = {name: position for name in COLUMNS if (position := find_column(table, name)) is not None}
    numbers = (
        [positions.pop("target")] if "target" in positions and table.columns[positions["target"]].kind == "list" else []
    )
    for row in table.rows([path, *positions.values()], numbers):
        entry: dict[str, Any] = dict.fromkeys(COLUMNS) | {"target": row.vector}
        for name, cell in zip(positions, row.cells[1:], strict=True):
            text = cell_text(cell, row.where)
            entry[name] = _numbers(text, row.where) if name == "target" and text else text
        yield row.where, row.cells[0], entry


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """The non-empty lines of a `.txt`, each with its position in the file."""
    try:
        for number, line in enumerate(read_lines(file), 1):
            if path := line.rstrip("\r\n"):
                yield f"{file}, line {number}", path
    except (OSError, UnicodeError) as error:
        raise RequestError(f"{file}: cannot be read ({cause(error)}).") from error


def _numbers(text: str, where: str) -> np.ndarray:
    """Parse a JSON list of numbers."""
    try:
        values = json.loads(text)
        if isinstance(values, list) and all(type(value) in (int, float) for value in values):
            return as_vector(np.array(values, np.float64))
    except (ValueError, OverflowError, RecursionError):
        pass
    raise RequestError(f"{where}: the target is not a list of numbers such as [0.5, 1.25].")


def _targets(
    file: Path | str, paths: Sequence[str], measurements: Mapping[str, Sequence[np.ndarray | None]]
) -> dict[str, Any]:
    """The columns `targets` and `repeats`, if the list has targets; `measurements`: path -> its targets."""
    if all(target is None for targets in measurements.values() for target in targets):
        return {}
    names = [path for path in paths for _ in measurements[path]]
    values = _stack(file, names, [target for path in paths for target in measurements[path]])
    starts = np.cumsum([0, *(len(measurements[path]) for path in paths)])
    repeats = [np.unique(values[begin:end], axis=0) for begin, end in itertools.pairwise(starts)]
    if all(len(rows) == 1 for rows in repeats):
        return {"targets": np.concatenate(repeats)}
    repeats = [values[begin:end] for begin, end in itertools.pairwise(starts)]
    return {"targets": np.stack([rows.mean(axis=0) for rows in repeats]), "repeats": repeats}


def _stack(file: Path | str, paths: Sequence[str], targets: Sequence[np.ndarray | None]) -> np.ndarray:
    """The targets of a list as one array."""
    rows: list[np.ndarray] = []
    for path, target in zip(paths, targets, strict=True):
        if target is None or not len(target):
            raise RequestError(f"{file}: {path!r} has no target, or an empty one, but other images have targets.")
        if rows and len(target) != len(rows[0]):
            raise RequestError(
                f"{file}: {path!r} has a target of {counted(len(target), 'number')}, others of {len(rows[0])}."
            )
        check_finite(target, f"{file}: the target of {path!r}")
        rows.append(target)
    return np.stack(rows)


def _path(path: object, root: Path, where: str) -> str:
    """Normalise a path from a list: relative to the root if it is inside. Bucket URLs are not changed."""
    if not isinstance(path, str | None) or "\0" in (path or ""):
        raise RequestError(f"{where}: {path!r} is not a path; is this list in UTF-8?")
    if not path or not path.strip():
        raise RequestError(f"{where}: the path is empty.")
    if is_bucket_url(path):
        return path
    if "://" in path:
        raise RequestError(f"{where}: {path!r} is at an address that is not read; {', '.join(PREFIXES)} are.")
    file = os.path.join(root, path)
    if not os.path.lexists(file):
        check_utf8(path, where)
        if "\\" in path and os.path.lexists(slashed := file.replace("\\", "/")):  # a Windows path
            file = slashed
    base, target = Path(os.path.abspath(root)), Path(os.path.abspath(file))
    if target == base:
        raise RequestError(f"{where}: {path!r} is a folder.")
    if target.is_relative_to(base):  # False across Windows drives
        return target.relative_to(base).as_posix()
    return (target if os.path.isabs(path) else Path(os.path.normpath(path))).as_posix()
