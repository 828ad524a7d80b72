"""Dimensions and patterns: which parts of a target are predicted, and whether predictions tell images apart.

A cosine shows neither. Here a dimension is scored over images, a pattern (the z-scored dimensions of one image) over
dimensions, and a set of predictions by the number of dimensions that it effectively uses.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.core.nearest import TIE
from pipeline.core.vectors import unit

BINS = 20
VALUES = 2**22  # correlations compared at a time, in float64
FEWEST_FOR_R = 3  # two values always correlate by 1 or -1


@dataclass(frozen=True)
class DimensionScores:
    """How well each dimension is predicted.

    Attributes:
        pearson: Correlation over images, shape (D,), float64; NaN where prediction or target is constant, and if there
            are fewer than three images (in every fold).
        r2: Coefficient of determination, shape (D,), float64; NaN where the target is constant.
    """

    pearson: np.ndarray
    r2: np.ndarray


@dataclass(frozen=True)
class Distribution:
    """Quartiles and a histogram of values.

    Attributes:
        lower_quartile: The lower quartile; None if no value is defined.
        median: The median; None if no value is defined.
        upper_quartile: The upper quartile; None if no value is defined.
        edges: The edges of the histogram's bins, one more than `counts`.
        counts: The number of values in each bin; values beyond the edges are in the first and the last bin.
        undefined: The number of undefined values (NaN), which are left out.
    """

    lower_quartile: float | None
    median: float | None
    upper_quartile: float | None
    edges: list[float]
    counts: list[int]
    undefined: int


def distribution(values: np.ndarray, low: float = -1.0, high: float = 1.0) -> Distribution:
    """Summarise values, such as a score for each dimension or image.

    Args:
        values: Shape (N,); NaN where undefined.
        low: The histogram's lower end.
        high: Its upper end.
    """
    defined = values[~np.isnan(values)]
    edges = np.linspace(low, high, BINS + 1)
    counts, _ = np.histogram(defined.clip(low, high), edges)
    lower, median, upper = np.percentile(defined, [25, 50, 75]).tolist() if len(defined) else (None, None, None)
    undefined = len(values) - len(defined)
    return Distribution(lower, median, upper, edges.round(12).tolist(), counts.tolist(), undefined)


def dimension_scores(predictions: np.ndarray, targets: np.ndarray, folds: np.ndarray | None = None) -> DimensionScores:
    """Score each dimension over images.

    Predictions by the decoders of several folds differ in their means: a fold with high held-out targets was trained on
    lower ones. Over all folds together, Pearson's r would be biased downwards (with leave-one-out, the mean baseline
    has -1). So r is computed within each fold of three images or more and averaged, weighted by fold size.

    Args:
        predictions: Shape (N, D).
        targets: Shape (N, D).
        folds: The fold in which each image was held out, shape (N,), int; None without folds.
    """
    targets = np.asarray(targets, np.float64)
    errors = np.square(targets - predictions).sum(axis=0)
    spread = np.square(targets - targets.mean(axis=0)).sum(axis=0)
    constant = _constant(targets.T)
    r2 = 1 - np.divide(errors, spread, out=np.full(len(spread), np.nan), where=~constant)
    return DimensionScores(_correlations_within(np.asarray(predictions), targets, folds), r2)


def _correlations_within(predictions: np.ndarray, targets: np.ndarray, folds: np.ndarray | None) -> np.ndarray:
    """Pearson's r of each dimension, shape (D,): over all images, or within folds, averaged by fold size."""
    if folds is None:
        folds = np.zeros(len(targets), int)
    sums, images = np.zeros((2, targets.shape[1]))
    for fold in np.unique(folds):
        rows = folds == fold
        if (size := rows.sum()) >= FEWEST_FOR_R:
            r = correlations(predictions[rows].T, targets[rows].T)
            sums += size * np.nan_to_num(r)
            images += size * ~np.isnan(r)
    mean: np.ndarray = np.divide(sums, images, out=np.full(len(sums), np.nan), where=images > 0)
    return mean


def z_scores(vectors: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Z-score each dimension by the training images, so that all dimensions count equally, whatever their scale.

    Args:
        vectors: Predictions or targets, shape (N, D).
        mean: Mean of the training targets, shape (D,).
        deviation: Standard deviation of the training targets, shape (D,).

    Returns:
        Shape (N, D'), float64, without the dimensions whose deviation is 0.
    """
    varies = np.asarray(deviation) > 0
    z: np.ndarray = (np.asarray(vectors, np.float64)[:, varies] - mean[varies]) / deviation[varies]
    return z


def correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson correlation of each row with the same row of another matrix.

    For z-scored predictions and targets this is the pattern correlation of each image (Horikawa and Kamitani
    2017, "Generic decoding of seen and imagined objects using hierarchical visual features", Nature Communications 8).

    Args:
        first: Shape (N, D).
        second: Shape (N, D).

    Returns:
        Shape (N,), float64, from -1 to 1; NaN where either row is constant.
    """
    r: np.ndarray = np.einsum("nd,nd->n", _deviations(first), _deviations(second)).clip(-1, 1)
    r[_constant(first) | _constant(second)] = np.nan
    return r


def identification(predictions: np.ndarray, targets: np.ndarray, own_rows: np.ndarray | None = None) -> np.ndarray:
    """Pairwise identification accuracy of each image; chance is 0.5.

    The share of other images whose targets correlate less with the prediction than the image's own target does; a tie
    counts half (Horikawa and Kamitani 2017). Images with the same target are not alternatives and are left out; images
    that share a different target all count. The result is exact, and computed in blocks.

    Args:
        predictions: Shape (P, D), usually z-scored.
        targets: Shape (N, D), usually z-scored.
        own_rows: The row of each prediction's own target, shape (P,), int; None if predictions and targets are in the
            same order.

    Returns:
        Shape (P,), float64; NaN where all images have the same target. A constant prediction has no correlation, which
        counts as a tie with every target.
    """
    return identify(predictions, targets, own_rows).accuracy


class Identification(NamedTuple):
    """Pairwise identification of each image.

    Attributes:
        accuracy: See `identification`; shape (P,).
        influence: The accuracy plus the influence of the image's target as an alternative, shape (P,); without
            `own_rows`, the mean is that of the accuracies.
        bdpy: The accuracy by the definition of bdpy's `pairwise_identification`, shape (P,): the share of all other
            images whose targets correlate less. A tie is wrong, and so is every other image with the same target, so
            it is lower where targets repeat. NaN for a single image.
    """

    accuracy: np.ndarray
    influence: np.ndarray
    bdpy: np.ndarray


def identify(predictions: np.ndarray, targets: np.ndarray, own_rows: np.ndarray | None = None) -> Identification:
    """Pairwise identification by two definitions, and how each image influences the mean of the first.

    An image takes part in the mean twice: by its own prediction, and as an alternative for other images. Both vary
    between samples of images, so an interval of the mean is that of the mean of the influences, not of the accuracies.

    Args:
        predictions: See `identification`.
        targets: See `identification`.
        own_rows: See `identification`.

    """
    different, own, images = np.unique(targets, axis=0, return_inverse=True, return_counts=True)
    own = own if own_rows is None else own[own_rows]
    directions, candidates = _deviations(predictions), _deviations(different)
    similarity_to_own = np.einsum("nd,nd->n", directions, candidates[own])
    (below, strictly), beaten = np.empty((2, len(directions))), np.zeros(len(candidates))
    alternatives = len(targets) - images[own]
    weights = 1 / np.maximum(alternatives, 1)
    step = max(1, VALUES // len(candidates))
    for start in range(0, len(directions), step):
        rows = slice(start, start + step)
        margins = similarity_to_own[rows, None] - directions[rows] @ candidates.T
        right = (margins > TIE) + (np.abs(margins) <= TIE) / 2
        strictly[rows] = (margins > TIE) @ images
        below[rows] = right @ images
        beaten += weights[rows] @ right
    below -= images[own] / 2  # the tie with its own target
    undefined = np.full(len(alternatives), np.nan)
    accuracy: np.ndarray = np.divide(below, alternatives, out=undefined, where=alternatives > 0)
    # For each target, the accuracies that it adds to as an alternative, relative to what an average one would add.
    of_own = np.bincount(own, weights * (0.5 - accuracy), len(candidates))
    as_alternative = beaten - of_own - weights @ accuracy
    others = len(targets) - 1
    bdpy = strictly / others if others else np.full(len(directions), np.nan)
    return Identification(accuracy, accuracy + as_alternative[own], bdpy)


def large_dimensions(vectors: np.ndarray, share: float = 0.9) -> int:
    """The number of dimensions, largest first, that make up a share of the squared length of vectors (N, D)."""
    squares = np.sort(np.square(np.asarray(vectors, np.float64)).sum(axis=0))[::-1]
    return int(np.searchsorted(np.cumsum(squares), share * squares.sum() * (1 - TIE))) + 1


def effective_rank(vectors: np.ndarray) -> float | None:
    """The number of dimensions that vectors effectively use, from 1 to D.

    The exponential of the entropy of the singular values' shares (Roy and Vetterli 2007, "The effective rank: a
    measure of effective dimensionality", EUSIPCO), here for the vectors minus their mean.

    Args:
        vectors: Shape (N, D).

    Returns:
        The effective rank; None if all vectors are equal.
    """
    vectors = np.asarray(vectors, np.float64)
    if _constant(vectors.T).all():
        return None
    values = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _constant(rows: np.ndarray) -> np.ndarray:
    """Whether all values of a row are equal, shape (N,); compared exactly, because a mean may be rounded."""
    same: np.ndarray = (rows == rows[:, :1]).all(axis=1)
    return same


def _deviations(rows: np.ndarray) -> np.ndarray:
    """Each row minus its mean, scaled to length 1; constant rows become zero."""
    rows = np.asarray(rows, np.float64)
    means = rows.sum(axis=1, keepdims=True) / max(rows.shape[1], 1)  # rows may have no dimensions
    return unit(np.where(_constant(rows)[:, None], 0, rows - means))
