"""Dimensions and patterns: which parts of a target are predicted, and whether predictions tell images apart.

A cosine shows neither. Here a dimension is scored over images, a pattern (the z-scored dimensions of one image) over
dimensions, and a set of predictions by the number of dimensions that it effectively uses.
"""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.core.nearest import TIE
from pipeline.core.vectors import Vectors, slices, unit

BINS = 20
VALUES = 2**24  # vectors and correlations compared at a time, in float64
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
    pearson, r2 = np.full((2, targets.shape[1]), np.nan)
    for block in slices(targets.shape[1], len(targets)):
        predicted, truth = np.asarray(predictions[:, block]), np.asarray(targets[:, block], np.float64)
        errors = np.square(truth - predicted).sum(axis=0)
        spread = np.square(truth - truth.mean(axis=0)).sum(axis=0)
        r2[block] = 1 - np.divide(errors, spread, out=r2[block], where=~_constant(truth.T))
        pearson[block] = _correlations_within(predicted, truth, folds)
    return DimensionScores(pearson, r2)


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


@dataclass(frozen=True)
class ZScored:
    """Vectors that are z-scored when they are read, a block at a time; see `z_scores`.

    Attributes:
        vectors: Predictions or targets, shape (N, D).
        mean: Mean of the training targets, shape (D,).
        deviation: Standard deviation of the training targets, shape (D,).
    """

    vectors: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D')."""
        return len(self.vectors), int((np.asarray(self.deviation) > 0).sum())

    @property
    def dtype(self) -> np.dtype:
        """float64."""
        return np.dtype(np.float64)

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return z_scores(self.vectors[rows], self.mean, self.deviation)


def correlations(first: Vectors, second: Vectors) -> np.ndarray:
    """Pearson correlation of each row with the same row of another matrix.

    For z-scored predictions and targets this is the pattern correlation of each image (Horikawa and Kamitani
    2017, "Generic decoding of seen and imagined objects using hierarchical visual features", Nature Communications 8).

    Args:
        first: Shape (N, D).
        second: Shape (N, D).

    Returns:
        Shape (N,), float64, from -1 to 1; NaN where either row is constant.
    """
    r = np.empty(len(first))
    for rows in slices(len(first), first.shape[1]):
        one, other = first[rows], second[rows]
        r[rows] = np.einsum("nd,nd->n", _deviations(one), _deviations(other)).clip(-1, 1)
        r[rows][_constant(one) | _constant(other)] = np.nan
    return r


def identification(predictions: Vectors, targets: Vectors, own_rows: np.ndarray | None = None) -> np.ndarray:
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


def identify(predictions: Vectors, targets: Vectors, own_rows: np.ndarray | None = None) -> Identification:
    """Pairwise identification by two definitions, and how each image influences the mean of the first.

    An image takes part in the mean twice: by its own prediction, and as an alternative for other images. Both vary
    between samples of images, so an interval of the mean is that of the mean of the influences, not of the accuracies.

    Args:
        predictions: See `identification`.
        targets: See `identification`.
        own_rows: See `identification`.

    """
    first, own, images = _distinct(targets)
    own = own if own_rows is None else own[own_rows]
    (below, strictly), beaten = np.zeros((2, len(predictions))), np.zeros(len(first))
    alternatives = len(targets) - images[own]
    weights = 1 / np.maximum(alternatives, 1)
    for rows in slices(len(predictions), predictions.shape[1], VALUES):
        directions = _deviations(predictions[rows])
        to_own = np.einsum("nd,nd->n", directions, _deviations(targets[first[own[rows]]]))
        for block in slices(len(first), max(predictions.shape[1], len(directions)), VALUES):
            margins = to_own[:, None] - directions @ _deviations(targets[first[block]]).T
            right = (margins > TIE) + (np.abs(margins) <= TIE) / 2
            strictly[rows] += (margins > TIE) @ images[block]
            below[rows] += right @ images[block]
            beaten[block] += weights[rows] @ right
    below -= images[own] / 2  # the tie with its own target
    undefined = np.full(len(alternatives), np.nan)
    accuracy: np.ndarray = np.divide(below, alternatives, out=undefined, where=alternatives > 0)
    # For each target, the accuracies that it adds to as an alternative, relative to what an average one would add.
    of_own = np.bincount(own, weights * (0.5 - accuracy), len(first))
    as_alternative = beaten - of_own - weights @ accuracy
    others = len(targets) - 1
    bdpy = strictly / others if others else np.full(len(predictions), np.nan)
    return Identification(accuracy, accuracy + as_alternative[own], bdpy)


def large_dimensions(vectors: np.ndarray, share: float = 0.9) -> int:
    """The number of dimensions, largest first, that make up a share of the squared length of vectors (N, D)."""
    squares = np.sort(np.einsum("nd,nd->d", vectors, vectors, dtype=np.float64))[::-1]
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
    if _constant(vectors.T).all():
        return None
    values = _singular_values(vectors)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _singular_values(vectors: np.ndarray) -> np.ndarray:
    """The singular values of vectors (N, D) minus their mean; if D > N, from N x N products, which take less memory."""
    if vectors.shape[1] <= len(vectors):
        vectors = np.asarray(vectors, np.float64)
        values: np.ndarray = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False)
        return values
    products = np.zeros((len(vectors), len(vectors)))
    for block in slices(vectors.shape[1], len(vectors)):
        part = np.asarray(vectors[:, block], np.float64)
        part = part - part.mean(axis=0)
        products += part @ part.T
    squares = np.linalg.eigvalsh(products)
    return np.sqrt(np.where(squares > len(squares) * np.finfo(np.float64).eps * squares[-1], squares, 0))


def _distinct(rows: Vectors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first of each of the M different rows, (M,), the number of each row, (N,), and the counts, (M,)."""
    numbers: dict[bytes, int] = {}
    own = np.empty(len(rows), np.intp)
    for block in slices(len(rows), rows.shape[1]):
        values = np.asarray(rows[block], np.float64) + 0.0  # -0.0 equals 0.0
        digests = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in values]
        own[block] = [numbers.setdefault(digest, len(numbers)) for digest in digests]
    _, first, counts = np.unique(own, return_index=True, return_counts=True)
    return first, own, counts


def _constant(rows: np.ndarray) -> np.ndarray:
    """Whether all values of a row are equal, shape (N,); compared exactly, because a mean may be rounded."""
    same: np.ndarray = (rows == rows[:, :1]).all(axis=1)
    return same


def _deviations(rows: np.ndarray) -> np.ndarray:
    """Each row minus its mean, scaled to length 1; constant rows become zero."""
    rows = np.asarray(rows, np.float64)
    means = rows.sum(axis=1, keepdims=True) / max(rows.shape[1], 1)  # rows may have no dimensions
    return unit(np.where(_constant(rows)[:, None], 0, rows - means))
