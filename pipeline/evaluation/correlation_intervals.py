"""Intervals of the mean over dimensions of Pearson's r.

r is not a mean over images, so its intervals come from a jackknife: r is computed again with each cluster (a label, a
group or an image) or each image left out. They are for the mean r of another evaluation with as many images and
clusters; over few labels, r tends to be lower than over many.

The mean of five dimensions or more is nearly normal. With fewer, the jackknife is on the scale of Fisher's z, where the
sampling distribution of r is nearly normal, and takes 29 clusters, because skewed targets with fewer were covered in
85 % of simulations.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline.evaluation import dimensions
from pipeline.evaluation.intervals import FEWEST_CLUSTERS, FEWEST_IMAGES, Interval, jackknife, over_folds, within

FEW_DIMENSIONS = 5
AT_ONCE = 256  # dimensions
CONSTANT = 1e-12  # of the variance of all images; a smaller variance is a rounding error


def mean_over_dimensions(r: np.ndarray) -> float | None:
    """The mean of r over the dimensions where it is defined, shape (D,); None if there are none."""
    defined = r[~np.isnan(r)]
    return float(defined.mean()) if len(defined) else None


def correlation_intervals(
    r: np.ndarray, predictions: np.ndarray, targets: np.ndarray, clusters: Sequence[str] | np.ndarray
) -> tuple[Interval | None, Interval | None]:
    """The intervals of the mean r: over clusters, and for new images of the same clusters.

    Args:
        r: Pearson's r of each dimension, shape (D,); NaN where undefined.
        predictions: Shape (N, D).
        targets: Shape (N, D).
        clusters: The label or group of each image, length N.

    Returns:
        The intervals; None for fewer than 29 images, too few clusters, or if r of a dimension is only defined with one
        of the clusters (or images).
    """
    _, numbers, sizes = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
    defined = np.flatnonzero(~np.isnan(r))
    dim, count = len(defined), len(numbers)
    if count < FEWEST_IMAGES or not dim or abs(r[defined].mean()) > 1 - CONSTANT:
        return None, None
    forward, back = (np.arctanh, np.tanh) if dim < FEW_DIMENSIONS else (_same, _same)
    fewest = FEWEST_IMAGES if dim < FEW_DIMENSIONS else FEWEST_CLUSTERS
    mean, over_clusters, same_clusters = float(forward(r[defined].mean())), None, None
    if len(sizes) >= fewest:
        left_out = forward(_left_out(predictions, targets, defined, numbers))
        over_clusters = jackknife(mean, left_out, sizes)
    if len(sizes) < count:
        left_out = forward(_left_out(predictions, targets, defined, np.arange(count)))
        same_clusters = within(mean + (count - 1) * (left_out.mean() - left_out), numbers)
    return _transformed(over_clusters, back), _transformed(same_clusters, back)


def fold_interval(predictions: np.ndarray, targets: np.ndarray, folds: np.ndarray) -> Interval | None:
    """The interval of the mean r for another training and new images.

    Args:
        predictions: Shape (N, D).
        targets: Shape (N, D).
        folds: The fold in which each image was held out, shape (N,), int.

    Returns:
        The interval; None if r is undefined in a fold, or see `over_folds`.
    """
    means = [
        mean_over_dimensions(dimensions.dimension_scores(predictions[rows], targets[rows]).pearson)
        for rows in (folds == fold for fold in np.unique(folds))
    ]
    known = [mean for mean in means if mean is not None]
    return over_folds(np.array(known), len(known), len(folds)) if len(known) == len(means) else None


def _left_out(predictions: np.ndarray, targets: np.ndarray, columns: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """The mean r without the images of each of G clusters, shape (G,); a block of dimensions at a time bounds memory.

    Args:
        predictions: Shape (N, D).
        targets: Shape (N, D).
        columns: The dimensions of the mean, shape (d,), int.
        clusters: The number of each image's cluster, shape (N,).
    """
    sizes = np.bincount(clusters)
    order, starts = np.argsort(clusters, kind="stable"), np.cumsum(sizes) - sizes
    total = np.zeros(len(sizes))
    for start in range(0, len(columns), AT_ONCE):
        block = columns[start : start + AT_ONCE]
        x, y = (np.asarray(vectors[:, block], np.float64)[order] for vectors in (predictions, targets))
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        left = len(x) - sizes
        (covariance, _), (x_variance, x_whole), (y_variance, y_whole) = (
            _products_without(first, second, starts, left) for first, second in ((x, y), (x, x), (y, y))
        )
        defined = (x_variance > CONSTANT * x_whole) & (y_variance > CONSTANT * y_whole)
        variances = np.where(defined, x_variance * y_variance, np.nan)
        total += (covariance / np.sqrt(variances)).clip(-1, 1).sum(axis=1)
    mean: np.ndarray = total / len(columns)
    return mean


def _products_without(
    first: np.ndarray, second: np.ndarray, starts: np.ndarray, left: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The sums of products about the mean: without each cluster, shape (G, d), and of all images, shape (d,).

    Args:
        first: Values about their mean, ordered by cluster, shape (N, d).
        second: The same of another variable.
        starts: The first row of each cluster, shape (G,).
        left: The number of images without each cluster, shape (G,).
    """
    products = first * second
    whole = products.sum(axis=0)
    sums = np.add.reduceat(first, starts) * np.add.reduceat(second, starts)
    return whole - np.add.reduceat(products, starts) - sums / left[:, None], whole


def _same(values: np.ndarray) -> np.ndarray:
    return values


def _transformed(interval: Interval | None, back: Callable[[Any], Any]) -> Interval | None:
    """The interval with its ends on the scale of r; None if they are undefined."""
    if interval is None or np.isnan(interval.low):
        return None
    mean, low, high = (float(back(end)) for end in (interval.mean, interval.low, interval.high))
    return Interval(mean, low, high, interval.degrees_of_freedom)
