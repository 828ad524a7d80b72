"""Zero-shot scores: accuracy on labels that were not in training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ZeroShot:
    """Class-averaged top-1 accuracy (Xian et al. 2017); None if there are no such images.

    Attributes:
        unseen_among_unseen: For images with unseen labels, with their labels as the only candidates.
        unseen_among_all: For the same images, among all candidates.
        seen_among_all: For images with seen labels, among all candidates.
        harmonic_mean: The harmonic mean of the last two.
    """

    unseen_among_unseen: float | None
    unseen_among_all: float | None
    seen_among_all: float | None
    harmonic_mean: float | None


def class_averaged(values: np.ndarray, labels: Sequence[str] | np.ndarray) -> float:
    """The mean of the labels' means, so that labels with many images do not count more than others.

    Args:
        values: A value for each image, shape (N,), such as whether its rank is 1.
        labels: The label of each image, length N.
    """
    _, rows = np.unique(np.asarray(labels), return_inverse=True)
    return float((np.bincount(rows, values) / np.bincount(rows)).mean())


def zero_shot(
    ranks: np.ndarray, ranks_among_unseen: np.ndarray, labels: Sequence[str] | np.ndarray, seen: np.ndarray
) -> ZeroShot:
    """Score seen and unseen labels, as in Xian et al. (2017), "Zero-shot learning - the good, the bad and the ugly".

    Args:
        ranks: The rank of each image's own target among all candidates, shape (N,).
        ranks_among_unseen: The rank among the unseen candidates alone, for the images with unseen labels in order,
            shape (U,).
        labels: The label of each image, length N.
        seen: For each image, whether its target was in training, shape (N,), bool.
    """
    labels = np.asarray(labels)
    unseen_among_all = _accuracy(ranks[~seen], labels[~seen])
    seen_among_all = _accuracy(ranks[seen], labels[seen])
    return ZeroShot(
        unseen_among_unseen=_accuracy(ranks_among_unseen, labels[~seen]),
        unseen_among_all=unseen_among_all,
        seen_among_all=seen_among_all,
        harmonic_mean=_harmonic_mean(seen_among_all, unseen_among_all),
    )


def _accuracy(ranks: np.ndarray, labels: np.ndarray) -> float | None:
    return class_averaged(ranks < 1.5, labels) if len(ranks) else None


def _harmonic_mean(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return None
    return 2 * first * second / (first + second) if first + second else 0.0
