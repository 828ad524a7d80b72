"""Target embeddings: read a table of them, pair it with images, and split the pairs into training and validation."""

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import RequestError
from pipeline.features import Features

log = logging.getLogger(__name__)

NAMED = 5  # how many examples a message names


@dataclass(frozen=True)
class TargetTable:
    """A table of target embeddings.

    Attributes:
        file: Where it was read from.
        rows: Key (an image's path, or a label) -> row number in `vectors`.
        vectors: The embeddings, shape (rows, D), float32.
    """

    file: str
    rows: dict[str, int]
    vectors: np.ndarray


@dataclass(frozen=True)
class Pairs:
    """Images with their targets.

    Attributes:
        features: The images' features.
        keys: The key of the target table that each image was matched to: its path or its label.
        targets: The target embeddings, shape (N, D), float32, in path order.
    """

    features: Features
    keys: list[str]
    targets: np.ndarray


def read_targets(file: str | Path) -> TargetTable:
    """Read a `.csv` or `.tsv` table of target embeddings.

    Each row holds a key (a path relative to the image folder, or a label) and then the D numbers of its embedding. A
    first row that begins with `path` or `label`, or whose second cell is no number, is a header.

    Args:
        file: The table.

    Returns:
        The table; D is the same for all rows and every number is finite.

    Raises:
        RequestError: The file is missing, empty or of another kind; a row is ragged, not numeric, NaN or infinite; or
            two rows give one key different vectors. The message names the line.
    """
    path = Path(file)
    if path.suffix.lower() not in (".csv", ".tsv"):
        raise RequestError(f"{file}: targets are read from .csv or .tsv files (a path or label, then D numbers).")
    rows: dict[str, int] = {}
    lines: list[int] = []
    vectors: list[np.ndarray] = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as opened:
            reader = csv.reader(opened, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            for cells in reader:
                if not cells or (not vectors and reader.line_num == 1 and _is_header(cells)):
                    continue
                where = f"{file}, line {reader.line_num}"
                vector = _vector(cells, where)
                if vectors and len(vector) != len(vectors[0]):
                    raise RequestError(
                        f"{where}: {len(vector)} numbers, but line {lines[0]} has {len(vectors[0])}; "
                        "all targets must have the same dimension."
                    )
                known = rows.setdefault(cells[0], len(vectors))
                if known < len(vectors) and not np.array_equal(vectors[known], vector):
                    raise RequestError(f"{where}: {cells[0]!r} has another vector already on line {lines[known]}.")
                if known == len(vectors):
                    vectors.append(vector)
                    lines.append(reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(
            f"{file}: the targets cannot be read ({getattr(error, 'strerror', None) or error})."
        ) from error
    if not vectors:
        raise RequestError(f"{file}: this table holds no targets.")
    return TargetTable(str(file), rows, np.stack(vectors))


def _is_header(cells: Sequence[str]) -> bool:
    """Whether a first row names columns: `path` or `label` first, or a second cell that is no number."""
    return cells[0].strip().lower() in ("path", "label") or (len(cells) > 1 and not _is_number(cells[1]))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _vector(cells: Sequence[str], where: str) -> np.ndarray:
    if len(cells) < 2:
        raise RequestError(f"{where}: {cells[0]!r} is followed by no numbers; is the table separated by commas?")
    try:
        vector = np.array(cells[1:], dtype=np.float32)
    except ValueError as error:
        raise RequestError(f"{where}: not a number ({error}).") from error
    if not np.isfinite(vector).all():
        raise RequestError(f"{where}: the target of {cells[0]!r} holds NaN or infinite values.")
    return vector


def pair(features: Features, table: TargetTable, on_missing: str = "error") -> Pairs:
    """Give each image its target: the table's row for its path, or else the row for its label.

    Args:
        features: The images' features.
        table: The target embeddings.
        on_missing: What to do with images that have no target: "error", or "skip" them, counted.

    Returns:
        The images that have a target, in path order.

    Raises:
        RequestError: Images have no target and `on_missing` is "error", or no image has one.
    """
    keys = [
        next((key for key in (path, label) if key in table.rows), None)
        for path, label in zip(features.paths, features.labels, strict=True)
    ]
    kept = [number for number, key in enumerate(keys) if key is not None]
    missing = [path for path, key in zip(features.paths, keys, strict=True) if key is None]
    if not kept:
        raise RequestError(
            f"{table.file} has a target for none of the {len(keys)} images, neither by path ({features.paths[0]!r}) "
            f"nor by label ({features.labels[0]!r}). Its keys begin with {_examples(list(table.rows))}."
        )
    if missing and on_missing == "error":
        raise RequestError(
            f"{table.file} has no target for {len(missing)} of {len(keys)} images: {_examples(missing)}. "
            "Add their rows, or leave these images out with --on-missing skip."
        )
    if missing:
        log.warning("%d images without a target were left out: %s.", len(missing), _examples(missing))
    unused = sorted(set(table.rows) - set(keys))
    if unused:
        log.info("%d targets of %s belong to no image: %s.", len(unused), table.file, _examples(unused))
    matched = [keys[number] for number in kept]
    return Pairs(features.take(kept), matched, table.vectors[[table.rows[key] for key in matched]])


def _examples(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:NAMED])) + (", ..." if len(names) > NAMED else "")


def split(pairs: Pairs, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a share of the images for validation, at random, the same share of each label where labels repeat.

    Images with the same content are kept together, so that none stands on both sides.

    Args:
        pairs: The images.
        fraction: The share to hold out, between 0 and 1.
        seed: Another seed gives another split.

    Returns:
        The row numbers of the training and of the validation images, each sorted.

    Raises:
        RequestError: There are fewer than two different images.
    """
    from sklearn.model_selection import train_test_split

    contents, of_content = np.unique(pairs.features.digests, return_inverse=True)
    if len(contents) < 2:
        raise RequestError(
            "Training needs at least two images of different content with targets, one to learn from and one to hold "
            f"out; {pairs.features.paths[0]!r} is all there is."
        )
    key_of_content = np.empty(len(contents), object)
    key_of_content[of_content] = pairs.keys
    held_out = min(max(1, round(fraction * len(contents))), len(contents) - 1)
    labels, counts = np.unique(key_of_content.astype(str), return_counts=True)
    repeats = counts.min() > 1 and len(labels) <= min(held_out, len(contents) - held_out)
    _, validation = train_test_split(
        np.arange(len(contents)), test_size=held_out, random_state=seed, stratify=key_of_content if repeats else None
    )
    is_validation = np.isin(of_content, validation)
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
