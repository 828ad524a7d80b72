"""Where images come from: folders, lists, and TensorFlow data sets."""

import csv
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.core.errors import RequestError
from pipeline.data.images import ImageSet, as_text, file_ref
from pipeline.data.tfds import find_examples

log = logging.getLogger(__name__)

SUFFIXES = (
    *(".avif", ".bmp", ".dib", ".gif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
LISTS = (".txt", ".csv", ".parquet")
COLUMNS = ("path", "label", "split", "group", "target")


def find_images(source: str | Path, data_dir: Path | None = None) -> ImageSet:
    """Find the images of a folder (recursively), of a list, or of a TensorFlow data set.

    Args:
        source: A folder; or a list, whose paths are relative to the list's own folder and stay inside it: a `.txt` (a
            path a line), or a `.csv` or `.parquet` with a column `path` and, where there, `label`, `split`, `group` and
            `target` (lists of numbers); or `tfds:NAME[/CONFIG]:SPLIT`. Names that begin with a dot are passed over.
        data_dir: Where tensorflow-datasets keeps its data; None for its own default.

    Returns:
        The images in path order, each path once.

    Raises:
        RequestError: There is no such folder, list or data set, it names no image, a path leaves the list's folder, or
            a list gives one image two different labels, groups, splits or targets.
    """
    if str(source).startswith("tfds:"):
        return find_examples(str(source), data_dir)
    root = Path(source)
    if root.is_dir():
        paths = sorted(_walk(root))
        if not paths:
            raise RequestError(f"{source}: no images in this folder or below (looked for {_suffix_list()}).")
        return _image_set(source, root, paths, [None] * len(paths))
    if root.suffix.lower() in LISTS and root.is_file():
        return _listed_images(root)
    if not root.exists():
        raise RequestError(
            f"{source}: no such folder or list. IMAGES is a folder of images, a {_list_kinds()} list, or "
            "tfds:NAME[/CONFIG]:SPLIT."
        )
    raise RequestError(f"{source}: neither a folder nor a {_list_kinds()} list of images.")


def _image_set(source: str | Path, root: Path, paths: list[str], labels: list[str | None], **columns) -> ImageSet:
    texts = [as_text(path) for path in paths]
    escaped = [text for text, path in zip(texts, paths, strict=True) if text != path]
    if escaped:
        log.warning("Bytes that are no UTF-8 appear escaped in %d of %d names, as in %s.",
                    len(escaped), len(texts), escaped[0])  # fmt: skip
    own = [PurePosixPath(path).parent.name for path in texts]
    labels = [name if label is None else label for label, name in zip(labels, own, strict=True)]
    return ImageSet(str(source), texts, [file_ref(root / path) for path in paths], labels, **columns)


def _suffix_list() -> str:
    return " ".join(SUFFIXES)


def _list_kinds() -> str:
    return ", ".join(LISTS)


def _walk(root: Path) -> Iterator[str]:
    """The images below a folder, relative to it; links are followed, a folder that links lead back to is not."""
    seen = set()
    unreadable = lambda error: log.warning("skipped the folder %s: %s", error.filename, error.strerror)  # noqa: E731
    for folder, subfolders, names in os.walk(root, onerror=unreadable, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


def _listed_images(file: Path) -> ImageSet:
    """The images of a list, with what its other columns say."""
    rows: dict[str, dict] = {}
    for number, row in enumerate(_listed(file)):
        path = _inside(row.pop("path"), file)
        known = rows.setdefault(path, row)
        if known != row:
            raise RequestError(
                f"{file}, entry {number + 1}: {path!r} is listed before with another {_differing(known, row)}."
            )
    if not rows:
        raise RequestError(f"{file}: this list names no images.")
    paths = sorted(rows)
    columns = {name: [rows[path].get(name) for path in paths] for name in ("label", "group", "split", "target")}
    optional = {
        f"{name}s": values
        for name, values in columns.items()
        if name != "label" and any(value is not None for value in values)
    }
    if "targets" in optional:
        optional["targets"] = _stacked(file, paths, optional["targets"])
    return _image_set(file, file.parent, paths, columns["label"], **optional)


def _differing(known: dict, row: dict) -> str:
    return next(name for name in COLUMNS if known.get(name) != row.get(name))


def _listed(file: Path) -> Iterator[dict]:
    """The entries of a list, in its order: "path" and those of the other columns that it has."""
    try:
        if file.suffix.lower() == ".parquet":
            import pyarrow.parquet

            table = pyarrow.parquet.read_table(file)
            rows = table.select([name for name in table.column_names if name in COLUMNS]).to_pylist()
        else:
            with open(file, newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
                if file.suffix.lower() == ".txt":
                    rows = [{"path": line} for line in lines.read().splitlines() if line.strip()]
                else:
                    rows = list(csv.DictReader(lines, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise RequestError(f"{file}: cannot be read as a list of images ({error}).") from error
    if rows and "path" not in rows[0]:
        raise RequestError(f"{file}: this list has no column 'path' (it has {', '.join(map(repr, rows[0]))}).")
    for number, row in enumerate(rows):
        entry = {name: row[name] for name in COLUMNS if row.get(name) is not None}
        for name in ("label", "group", "split"):
            if name in entry:
                entry[name] = as_text(str(entry[name]))
        if isinstance(entry.get("target"), str):
            entry["target"] = _numbers(file, number, entry["target"])
        yield {"path": None, **entry}


def _numbers(file: Path, number: int, text: str) -> list[float]:
    try:
        return [float(value) for value in json.loads(text)]
    except (ValueError, TypeError) as error:
        raise RequestError(f"{file}, entry {number + 1}: the target is no list of numbers like [0.5, 1.25].") from error


def _stacked(file: Path, paths: list[str], targets: list) -> np.ndarray:
    """The targets of a list as one array."""
    rows = []
    for path, target in zip(paths, targets, strict=True):
        try:
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
                rows.append(np.array([] if target is None else target, np.float32))
        except (TypeError, ValueError) as error:
            raise RequestError(f"{file}: the target of {path!r} is no list of numbers.") from error
        if rows[-1].ndim != 1 or not rows[-1].size or rows[-1].shape != rows[0].shape:
            given = f"a target of {rows[-1].size} numbers" if rows[-1].size else "no target"
            raise RequestError(f"{file}: {path!r} has {given}, but {paths[0]!r} one of {rows[0].size}.")
        if not np.isfinite(rows[-1]).all():
            raise RequestError(f"{file}: the target of {path!r} holds NaN, infinite or too large values.")
    return np.stack(rows)


def _inside(path: object, file: Path) -> str:
    """A listed path, normalised; refused where it leads out of the list's folder."""
    if not isinstance(path, str | None) or "\0" in (path or ""):
        raise RequestError(f"{file}: {path!r} is no path; is this a list in UTF-8?")
    plain = PurePosixPath(os.path.normpath(path)) if path else PurePosixPath()
    if not path or plain.is_absolute() or plain.parts[:1] == ("..",) or plain == PurePosixPath("."):
        raise RequestError(f"{file}: the path {path!r} does not lie in the list's folder; make it relative to it.")
    return plain.as_posix()
