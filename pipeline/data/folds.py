"""Folds: cross-validation that holds out every image once, with detected near-duplicates on one side."""

from collections.abc import Iterator

import numpy as np

from pipeline.core.errors import RequestError
from pipeline.data.images import ImageSet
from pipeline.data.splits import Split, SplitRule, held_out_units


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
