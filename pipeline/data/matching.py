"""Matching: which target belongs to which image."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.errors import RequestError
from pipeline.data.images import ImageSet
from pipeline.data.targets import TargetTable

log = logging.getLogger(__name__)

NAMED = 5  # how many examples a message names


@dataclass(frozen=True)
class MatchedTargets:
    """The images that have a target.

    Attributes:
        rows: Their row numbers among all images, in path order, shape (N,).
        keys: The key of the target table that each was matched by: its path or its label.
        targets: Their target embeddings, shape (N, D), float32.
    """

    rows: np.ndarray
    keys: Sequence[str]
    targets: np.ndarray


def match_targets(images: ImageSet, table: TargetTable, on_missing: str = "error") -> MatchedTargets:
    """Give each image its target: the table's row for its path, or else the row for its label.

    Args:
        images: The images.
        table: The target embeddings.
        on_missing: What to do with images that have no target: "error", or "skip" them, counted.

    Returns:
        The images that have a target, in path order.

    Raises:
        RequestError: Images have no target and `on_missing` is "error", or no image has one.
    """
    keys = [
        next((key for key in (path, label) if key in table.rows), None)
        for path, label in zip(images.paths, images.labels, strict=True)
    ]
    matched = [key for key in keys if key is not None]
    missing = [path for path, key in zip(images.paths, keys, strict=True) if key is None]
    if not matched:
        raise RequestError(
            f"{table.file} has no target for any of the {len(keys)} images, neither by path ({images.paths[0]!r}) "
            f"nor by label ({images.labels[0]!r}). Its keys begin with {_examples(list(table.rows))}."
        )
    if missing and on_missing == "error":
        raise RequestError(
            f"{table.file} has no target for {len(missing)} of {len(keys)} images: {_examples(missing)}. "
            "Add their rows, or leave these images out with --on-missing skip."
        )
    if missing:
        log.warning("%d images without a target were left out: %s.", len(missing), _examples(missing))
    unused = sorted(set(table.rows) - set(matched))
    if unused:
        log.info("%d targets of %s belong to no image: %s.", len(unused), table.file, _examples(unused))
    rows = np.array([row for row, key in enumerate(keys) if key is not None], np.intp)
    return MatchedTargets(rows, matched, table.vectors[[table.rows[key] for key in matched]])


def _examples(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:NAMED])) + (", ..." if len(names) > NAMED else "")
