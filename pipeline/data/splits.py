"""Splits and folds: which images are held out, and which stay together, such as detected near-duplicates."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.errors import RequestError
from pipeline.core.vectors import number_equal
from pipeline.core.wording import counted
from pipeline.data.images import ImageSet

log = logging.getLogger(__name__)

KINDS = ("random", "group", "classes", "column")
FRACTION = 0.2
SIDES = {"train": "train", "training": "train"} | dict.fromkeys(
    ("validation", "valid", "val", "dev", "test", "held-out"), "held out"
)


@dataclass(frozen=True)
class SplitRule:
    """Which images to hold out.

    Attributes:
        kind: "random" (the same share of each label, if labels repeat), "group" (whole groups), "classes" (whole
            labels, for zero-shot evaluation) or "column" (the column `split` of a list).
        fraction: The share of images (or labels) to hold out; None for FRACTION. Not used by "column" and folds.
    """

    kind: str = "random"
    fraction: float | None = None

    @property
    def share(self) -> float:
        """The share of images (or labels) to hold out."""
        return FRACTION if self.fraction is None else self.fraction

    @classmethod
    def parse(cls, text: str) -> "SplitRule":
        """Parse a rule such as `random:0.2`, `group`, `classes:0.3` or `column`.

        Raises:
            RequestError: The rule is unknown, or the share is not between 0 and 1.
        """
        kind, _, share = text.partition(":")
        try:
            fraction = float(share) if share else None
        except ValueError:
            fraction = 0.0
        if kind in KINDS and fraction and not 0 < fraction < 1:
            raise RequestError(f"The split {text!r} names a share of {share}; it is between 0 and 1, as in {kind}:0.2.")
        if kind not in KINDS or not 0 < cls(kind, fraction).share < 1 or (kind == "column" and share):
            raise RequestError(
                f"The split {text!r} is unknown; choose random:SHARE, group:SHARE, classes:SHARE (a share between 0 "
                "and 1, 0.2 if left out) or column."
            )
        return cls(kind, fraction)

    def __str__(self) -> str:
        return self.kind if self.kind == "column" else f"{self.kind}:{self.share:g}"


@dataclass(frozen=True)
class Split:
    """The two sides of a split.

    Attributes:
        train: Row numbers of the training images, sorted.
        validation: Row numbers of the held-out images, sorted.
        moved: Row numbers of images that the rule would hold out, but that have a near-duplicate among the training
            images: "column" moves them there, "classes" drops them.
    """

    train: np.ndarray
    validation: np.ndarray
    moved: np.ndarray


def split_images(images: ImageSet, rule: SplitRule, duplicates: np.ndarray, seed: int) -> Split:
    """Split images into training and held-out images; detected near-duplicates are on one side.

    Args:
        images: The images.
        rule: Which images to hold out.
        duplicates: A number for each image, shape (N,), int; images with the same number are near-duplicates.
        seed: Random seed.

    Returns:
        The split.

    Raises:
        RequestError: One of the sides would be empty, or the images lack the labels, groups or column that the rule
            needs.
    """
    if len(np.unique(duplicates)) < 2:
        raise RequestError(
            "Training needs at least two different images with targets, one to train on and one to hold out; "
            f"here is only {images.paths[0]!r}, and near-duplicates of it where there are more."
        )
    if rule.kind == "random":
        held_out = _random(np.array(images.labels), duplicates, rule.share, seed)
    elif rule.kind == "group":
        held_out = _groups(merge_groups(images, duplicates), rule.share, seed)
    elif rule.kind == "classes":
        held_out = _classes(np.array(images.labels), rule.share, seed)
    else:
        held_out = _listed(images)
    moved = held_out & np.isin(duplicates, duplicates[~held_out])
    validation = held_out & ~moved
    train = ~held_out | moved if rule.kind == "column" else ~held_out
    if not train.any() or not validation.any():
        raise RequestError(f"The split {rule} leaves no image {'to train on' if validation.any() else 'to hold out'}.")
    if moved.any():
        paths = [images.paths[row] for row in np.flatnonzero(moved).tolist()]
        log.warning(
            "The split %s would hold out %s with a near-duplicate among the training images. %s: %s%s",
            rule,
            counted(len(paths), "image"),
            "Moved there" if rule.kind == "column" else "Left out",
            ", ".join(map(repr, paths[:5])),
            ", ..." if len(paths) > 5 else ".",
        )
    return Split(np.flatnonzero(train), np.flatnonzero(validation), np.flatnonzero(moved))


def fold_images(images: ImageSet, rule: SplitRule, duplicates: np.ndarray, folds: int, seed: int) -> Iterator[Split]:
    """Split images into folds (scikit-learn's StratifiedGroupKFold).

    Args:
        images: The images.
        rule: What a fold holds out: "random" images (stratified by label), whole "group"s, or whole "classes". Its
            share is not used.
        duplicates: A number for each image, shape (N,), int; images with the same number are near-duplicates.
        folds: The number of folds, at least 2.
        seed: Random seed.

    Yields:
        The split of each fold. Detected near-duplicates of held-out images are left out of its training images.

    Raises:
        RequestError: There are fewer distinct images, groups or labels than folds, or the rule is "column".
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if rule.kind == "column":
        raise RequestError("Folds hold out images, groups or classes; the split 'column' says itself what to hold out.")
    units = held_out_units(images, rule, duplicates)
    count = len(np.unique(units))
    if count < folds:
        raise RequestError(f"{folds} folds need at least as many different units to hold out; the images have {count}.")
    labels = np.array(images.labels) if rule.kind == "random" else np.zeros(len(images), int)
    _, label, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    label = np.where(sizes[label] >= folds, label, -1)  # labels with too few images are pooled
    if (label == -1).sum() < folds:
        label = np.where(label == -1, label.max(), label)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, held_out in splitter.split(units, label, units):
        clean = train[~np.isin(duplicates[train], duplicates[held_out])]
        yield Split(np.sort(clean), np.sort(held_out), np.array([], np.intp))


def assign_folds(y: np.ndarray, units: np.ndarray, seed: int, count: int) -> np.ndarray:
    """Assign training images to folds, spreading the images of each target evenly.

    Args:
        y: Targets, shape (N, D).
        units: A number for each image, shape (N,), int; images with the same number share a fold, unless all images
            have the same number.
        seed: Random seed.
        count: The number of folds; fewer if there are fewer different images.

    Returns:
        The fold of each image, shape (N,), int.
    """
    if len(np.unique(units)) == 1:  # for example a single label, whose images have to be split
        units = np.arange(len(units))
    _, first, image = np.unique(units, return_index=True, return_inverse=True)
    in_order = np.array_equal(first, np.arange(len(y)))  # then a copy, which may be large, is not needed
    target = number_equal(y if in_order else y[first])
    random = np.random.default_rng([seed, 0])
    order = random.permutation(len(first))
    rank = random.permutation(target.max() + 1)[target]
    order = order[np.argsort(rank[order], kind="stable")]  # target by target; targets and their images are shuffled
    fold = np.empty(len(first), int)
    fold[order] = np.arange(len(first)) % min(count, len(first))
    return fold[image]


def check_split_column(images: ImageSet, rule: SplitRule) -> None:
    """Refuse a rule if the images lack its column, before any work is done.

    Raises:
        RequestError: The column is missing.
    """
    column = {"group": images.groups, "column": images.splits}.get(rule.kind, ())
    if column is None:
        _column(None, "group" if rule.kind == "group" else "split", rule.kind)


def _random(labels: np.ndarray, duplicates: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Hold out a share of the distinct images, stratified by label; labels with a single image are pooled."""
    from sklearn.model_selection import train_test_split

    different, first, of_image = np.unique(duplicates, return_index=True, return_inverse=True)
    _, label, sizes = np.unique(labels[first], return_inverse=True, return_counts=True)
    label = np.where(sizes[label] > 1, label, -1)
    kinds, sizes = np.unique(label, return_counts=True)
    count = min(max(1, round(fraction * len(different))), len(different) - 1)
    possible = sizes.min() > 1 and len(kinds) <= min(count, len(different) - count)
    _, held_out = train_test_split(
        np.arange(len(different)), test_size=count, random_state=seed, stratify=label if possible else None
    )
    return np.isin(of_image, held_out)


def held_out_units(images: ImageSet, rule: SplitRule, duplicates: np.ndarray) -> np.ndarray:
    """Number the units that a rule holds out as a whole: near-duplicates, groups or labels.

    Args:
        images: The images.
        rule: The rule.
        duplicates: A number for each image, shape (N,), int; images with the same number are near-duplicates.

    Returns:
        Shape (N,), int.

    Raises:
        RequestError: The rule is "group" and an image has no group.
    """
    if rule.kind == "group":
        return merge_groups(images, duplicates)
    if rule.kind == "classes":
        return np.unique(images.labels, return_inverse=True)[1]
    return duplicates


def merge_groups(images: ImageSet, duplicates: np.ndarray) -> np.ndarray:
    """Number the groups of images; groups that share a near-duplicate count as one.

    Args:
        images: The images, with groups.
        duplicates: A number for each image, shape (N,), int; images with the same number are near-duplicates.

    Returns:
        Shape (N,), int.

    Raises:
        RequestError: An image has no group.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, group = np.unique(_column(images.groups, "group", "group"), return_inverse=True)
    _, duplicate = np.unique(duplicates, return_inverse=True)
    nodes = group.max() + duplicate.max() + 2
    links = coo_array((np.ones(len(group)), (group, duplicate + group.max() + 1)), shape=(nodes, nodes))
    return connected_components(links, directed=False)[1][group]


def _groups(unit: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Hold out whole groups until their images reach the share."""
    units, sizes = np.unique(unit, return_counts=True)
    if len(units) < 2:
        raise RequestError("The split 'group' needs at least two groups that share no near-duplicates.")
    order = np.random.default_rng(seed).permutation(len(units))[:-1]
    enough = 1 + int(np.searchsorted(np.cumsum(sizes[order]), fraction * len(unit)))
    return np.isin(unit, units[order[:enough]])


def _classes(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    different = np.unique(labels)
    if len(different) < 2:
        raise RequestError("The split 'classes' needs images of at least two labels.")
    count = min(max(1, round(fraction * len(different))), len(different) - 1)
    return np.isin(labels, np.random.default_rng(seed).choice(different, count, replace=False))


def _listed(images: ImageSet) -> np.ndarray:
    column = _column(images.splits, "split", "column")
    sides = np.array([SIDES.get(value.strip().lower(), "") for value in column])
    if (sides == "").any():
        path, value = images.paths[int((sides == "").argmax())], column[int((sides == "").argmax())]
        raise RequestError(f"The split of {path!r} is {str(value)!r}; it must be one of {', '.join(SIDES)}.")
    return sides == "held out"


def first_empty(values: Sequence[str | None]) -> int | None:
    """The row of the first missing or blank cell of a column; None if all have a value."""
    return next((row for row, value in enumerate(values) if not (value or "").strip()), None)


def _column(values: Sequence[str | None] | None, column: str, rule: str) -> np.ndarray:
    if values is None or first_empty(values) is not None:
        raise RequestError(
            f"The split {rule!r} needs the column {column!r} for all images, in a .csv or .parquet list or a table of "
            "vectors."
        )
    return np.array(values)
