"""Noise ceilings: what a perfect prediction would score where targets are measured, and measured with noise.

Repeated measurements of one image's target say how much of it is noise. All functions assume that the noise of
repeats is independent, and that predictions are compared with the mean over all repeats of an image.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.core.vectors import unit
from pipeline.evaluation.dimensions import correlations

SPLITS = 100


def split_half_reliability(repeats: Sequence[np.ndarray], splits: int = SPLITS, seed: int = 0) -> np.ndarray:
    """Reliability of each dimension of the mean targets, by split halves with the Spearman-Brown correction.

    The repeats of each image are split into random halves; r is the correlation over images of the halves' means,
    averaged over splits. A half has fewer repeats than the whole, so Spearman-Brown's k r / (1 + (k - 1) r) corrects it
    (Spearman 1910; Brown 1910). k is 2 for even numbers of repeats; in general it is the ratio of the two mean noise
    variances, mean(1 / half) / mean(1 / all), which also holds for odd and for unequal numbers of repeats.

    Args:
        repeats: Targets of each image, shape (R_i, D), R_i >= 2.
        splits: How many random splits.
        seed: Seeds the splits.

    Returns:
        Shape (D,), float64, from 0 to 1: the share of the variance over images that is signal. NaN where a half is
        constant over images in every split.

    Raises:
        ValueError: An image has fewer than two repeats.
    """
    counts = _counts(repeats)
    halves = np.array([correlations(first.T, second.T) for first, second in _halves(repeats, splits, seed)])
    defined = (~np.isnan(halves)).sum(axis=0)
    r = np.divide(np.nansum(halves, axis=0), defined, out=np.full(len(defined), np.nan), where=defined > 0)
    return _spearman_brown(r, (1 / (counts // 2)).mean() / (1 / counts).mean())


def correlation_ceiling(reliability: np.ndarray) -> np.ndarray:
    """The noise ceiling of Pearson's r: the expected r of the noise-free target with the measured one.

    It is the root of the reliability (correction for attenuation; Spearman 1904).

    Args:
        reliability: Of each dimension, shape (D,), from `split_half_reliability`.

    Returns:
        Shape (D,); NaN where the reliability is not above 0.
    """
    ceiling: np.ndarray = np.sqrt(np.where(reliability > 0, reliability, np.nan))
    return ceiling


def noise_corrected(pearson: np.ndarray, reliability: np.ndarray) -> np.ndarray:
    """Pearson's r divided by its noise ceiling; by chance it may exceed 1.

    Args:
        pearson: r of each dimension, shape (D,).
        reliability: Of each dimension, shape (D,).

    Returns:
        Shape (D,); NaN where the reliability is not above 0.
    """
    corrected: np.ndarray = pearson / correlation_ceiling(reliability)
    return corrected


def cosine_ceiling(repeats: Sequence[np.ndarray], splits: int = SPLITS, seed: int = 0) -> float | None:
    """The noise ceiling of the mean cosine: the highest that any prediction can expect.

    For one image let u be the direction of the mean of some repeats. No prediction can expect a higher cosine to it
    than the length of E[u], and the noise-free target reaches that where the noise has no preferred direction. Of two
    halves with independent noise, E[u1 . u2] = E[u1] . E[u2] = length^2: the cosine q of the halves' means estimates
    the square of the ceiling for half of the repeats. Since signal^2 / (signal^2 + noise^2 / R) has the form of a
    reliability, Spearman-Brown takes q from the half to all R repeats; for few dimensions this is an approximation.

    The ceiling is the mean of the roots, and a root of noisy q is too low. So the q of all images are drawn towards
    their mean until their variance is the true one, which is the covariance of q between two random halves of the
    dimensions, as the errors of these are independent where the noise of dimensions is.

    In simulations with 5 to 100 dimensions and 2 to 6 repeats it is right to 0.02, where images have more or less
    signal, too.

    Args:
        repeats: Targets of each image, shape (R_i, D), R_i >= 2.
        splits: How many random splits.
        seed: Seeds the splits.

    Returns:
        From 0 to 1; None for fewer than two images.

    Raises:
        ValueError: An image has fewer than two repeats.
    """
    counts = _counts(repeats)
    if len(counts) < 2:
        return None
    random = np.random.default_rng(seed)
    squares, variance = np.zeros(len(counts)), 0.0
    for first, second in _halves(repeats, splits, seed):
        squares += _cosines(first, second) / splits
        order = random.permutation(first.shape[1])
        some, others = order[::2], order[1::2]
        parts = np.cov(_cosines(first[:, some], second[:, some]), _cosines(first[:, others], second[:, others]))
        variance += parts[0, 1] / splits
    observed = squares.var(ddof=1)
    shrunk = np.sqrt(np.clip(variance / observed, 0, 1)) if observed > 0 else 1.0
    squares = (squares.mean() + shrunk * (squares - squares.mean())).clip(0, 1)
    return float(np.sqrt(_spearman_brown(squares, counts / (counts // 2))).mean())


def _counts(repeats: Sequence[np.ndarray]) -> np.ndarray:
    counts = np.array([len(each) for each in repeats])
    if (counts < 2).any():
        raise ValueError(f"repeats[{(counts < 2).argmax()}] holds fewer than two targets: a noise ceiling needs two.")
    return counts


def _halves(repeats: Sequence[np.ndarray], splits: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The means of two random halves of each image's repeats, shape (N, D) each; one repeat of an odd number rests."""
    random, counts = np.random.default_rng(seed), _counts(repeats)
    groups = [np.flatnonzero(counts == count) for count in np.unique(counts)]
    stacks = [np.stack([repeats[row] for row in rows.tolist()]).astype(np.float64) for rows in groups]
    for _ in range(splits):
        first, second = (np.empty((len(counts), stacks[0].shape[2])) for _ in range(2))
        for rows, stack in zip(groups, stacks, strict=True):
            images, count, _ = stack.shape
            order = random.permuted(np.tile(np.arange(count), (images, 1)), axis=1)[..., None]
            half = count // 2
            first[rows] = np.take_along_axis(stack, order[:, :half], axis=1).mean(axis=1)
            second[rows] = np.take_along_axis(stack, order[:, half : 2 * half], axis=1).mean(axis=1)
        yield first, second


def _spearman_brown(reliability: np.ndarray, longer: np.ndarray | float) -> np.ndarray:
    """The reliability of a measurement that is longer by a factor."""
    # Halves disagree by chance alone, and the formula has a pole below 0.
    reliability = np.maximum(reliability, 0)
    corrected: np.ndarray = longer * reliability / (1 + (longer - 1) * reliability)
    return corrected


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.einsum("nd,nd->n", unit(first), unit(second))
    return found
