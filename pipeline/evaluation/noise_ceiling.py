"""Noise ceilings: the score of a perfect prediction where targets are measured with noise.

Repeated measurements of an image's target show how much of it is noise. All functions assume that the noise of repeats
is independent of the signal and between repeats, has mean zero and the same distribution for all images, and that
predictions are compared with the mean over all repeats of an image. Dimensions may be correlated, in signal and noise.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit
from scipy.stats import false_discovery_control
from scipy.stats import gamma as gamma_distribution

from pipeline.core.vectors import unit
from pipeline.evaluation.dimensions import correlations

SPLITS = 100
FALSE_DISCOVERIES = 0.05  # the largest expected share among dimensions that count as reliable
FEWEST_IMAGES = 10
CLEAR = 6.0  # standard errors by which the signal must exceed 0; with fewer, chance alone raises the ceiling
MOST_IMAGES = 2000  # for estimating the ceiling of the cosine; a sample is used if there are more
GROUPS = 20  # of images; the interval leaves out each in turn
LEVEL = 0.95
QUANTILES = (np.arange(24) + 0.5) / 24
GRID = 64  # signals for which the expected cosine is tabulated


@dataclass(frozen=True)
class CosineCeiling:
    """The noise ceiling of a mean cosine.

    Attributes:
        cosine: The highest expected mean cosine of any prediction.
        low: The lower end of its 95 % interval over images.
        high: The upper end.
    """

    cosine: float
    low: float
    high: float


def split_half_reliability(repeats: Sequence[np.ndarray], splits: int = SPLITS, seed: int = 0) -> np.ndarray:
    """Reliability of each dimension of the mean targets, by split halves with the Spearman-Brown correction.

    The repeats of each image are split into random halves; r is the correlation over images between the halves' means,
    averaged over splits. A half has fewer repeats than the whole, so Spearman-Brown's k r / (1 + (k - 1) r) corrects r
    (Spearman 1910; Brown 1910). k is 2 for even numbers of repeats; in general it is the ratio of the two mean noise
    variances, mean(1 / half) / mean(1 / all), which also holds for odd and for unequal numbers of repeats.

    A dimension counts as reliable if r is significantly above 0: one-sided, with at most 5 % false discoveries among
    all dimensions (Benjamini and Hochberg 1995). Without this, the reliability of pure noise, clipped at 0, would be
    above 0 on average.

    Args:
        repeats: Targets of each image, shape (R_i, D), R_i >= 2.
        splits: The number of random splits.
        seed: Random seed of the splits.

    Returns:
        Shape (D,), float64, from 0 to 1: the share of the variance over images that is signal. NaN where it is not
        shown to be above 0.

    Raises:
        ValueError: An image has fewer than two repeats.
    """
    counts = _counts(repeats)
    halves = np.array([correlations(first.T, second.T) for first, second in _halves(repeats, splits, seed)])
    defined = (~np.isnan(halves)).sum(axis=0)
    r = np.divide(np.nansum(halves, axis=0), defined, out=np.full(len(defined), np.nan), where=defined > 0)
    corrected = _spearman_brown(r, (1 / (counts // 2)).mean() / (1 / counts).mean())
    return np.where(_above_zero(r, len(counts)), corrected, np.nan)


def _above_zero(r: np.ndarray, images: int) -> np.ndarray:
    """Whether each correlation is significantly above 0, by Fisher's z; shape (D,), bool."""
    above, tested = np.zeros(len(r), bool), ~np.isnan(r)
    if images > 3 and tested.any():
        with np.errstate(divide="ignore"):
            z = np.arctanh(r[tested]) * np.sqrt(images - 3)
        above[tested] = false_discovery_control(ndtr(-z)) <= FALSE_DISCOVERIES
    return above


def correlation_ceiling(reliability: np.ndarray) -> np.ndarray:
    """The noise ceiling of Pearson's r: the expected r of the noise-free target with the measured one.

    It is the root of the reliability (correction for attenuation; Spearman 1904).

    Args:
        reliability: The reliability of each dimension, shape (D,), from `split_half_reliability`.

    Returns:
        Shape (D,); NaN where the reliability is not above 0.
    """
    ceiling: np.ndarray = np.sqrt(np.where(reliability > 0, reliability, np.nan))
    return ceiling


def noise_corrected(pearson: np.ndarray, reliability: np.ndarray) -> np.ndarray:
    """Pearson's r divided by its noise ceiling; by chance it may exceed 1.

    Args:
        pearson: r of each dimension, shape (D,).
        reliability: The reliability of each dimension, shape (D,).

    Returns:
        Shape (D,); NaN where the reliability is not shown to be above 0.
    """
    corrected: np.ndarray = pearson / correlation_ceiling(reliability)
    return corrected


def cosine_ceiling(repeats: Sequence[np.ndarray], splits: int = SPLITS, seed: int = 0) -> CosineCeiling | None:
    """The noise ceiling of the mean cosine: the expected cosine of the noise-free target with the measured one.

    If one half of the repeats is compared with the other, the expected cosine is the square of the ceiling for half of
    the repeats, image by image, whatever the noise. The ceiling for all repeats follows from three moments, estimated
    from the repeats without assuming independent dimensions: the variance of the noise along the signal, the
    distribution of its squared length, and how much images differ in squared signal (assumed to be lognormal). The mean
    signal is then fitted to the measured cosine of the halves.

    `scripts/simulate_noise_ceiling.py` compares the ceiling with the truth. With 200 images, the error is at most 0.02
    for five dimensions or more and 0.04 for two, where signal and noise are correlated, sparse, or differ from image to
    image. With 30 images and a barely clear signal, the ceilings that pass by chance are 0.02 to 0.04 too high.

    Args:
        repeats: Targets of each image, shape (R_i, D), R_i >= 2.
        splits: The number of random splits.
        seed: Random seed of the splits.

    Returns:
        The ceiling; None for fewer than 10 images, and if the halves' cosine or the signal is less than 6 standard
        errors above 0, because ceilings of such noisy targets are too high by chance.

    Raises:
        ValueError: An image has fewer than two repeats.
    """
    if len(_counts(repeats)) < FEWEST_IMAGES:
        return None
    random = np.random.default_rng(seed)
    if len(repeats) > MOST_IMAGES:
        repeats = [repeats[row] for row in np.sort(random.permutation(len(repeats))[:MOST_IMAGES])]
    moments = _Moments.of(repeats, splits, seed)
    if not moments.are_clear:
        return None
    ceiling, half = moments.ceiling(), moments.half_interval(random)
    return CosineCeiling(ceiling, max(ceiling - half, 0.0), min(ceiling + half, 1.0))


@dataclass(frozen=True)
class _Moments:
    """Estimates for each image from its repeats, shape (N,) each; their means over images are unbiased moments.

    Attributes:
        counts: The number of repeats.
        halves: The cosine between halves of the repeats.
        signal: The squared length of the signal.
        noise: The squared length of the noise of one repeat.
        across_noise: The squared inner product of the noise with other images' noise: tr(C^2), C the covariance.
        across_mean: The squared inner product of the mean target with the noise of other images.
    """

    counts: np.ndarray
    halves: np.ndarray
    signal: np.ndarray
    noise: np.ndarray
    across_noise: np.ndarray
    across_mean: np.ndarray

    @classmethod
    def of(cls, repeats: Sequence[np.ndarray], splits: int, seed: int) -> "_Moments":
        random, counts = np.random.default_rng(seed), _counts(repeats)
        halves = sum(_cosines(first, second) for first, second in _halves(repeats, splits, seed)) / splits
        images = [np.asarray(targets, np.float64) for targets in repeats]
        sums = np.array([targets.sum(axis=0) for targets in images])
        squares = np.array([np.square(targets).sum() for targets in images])
        noise = np.array([_contrast(len(targets), random) @ targets for targets in images])
        return cls(
            counts=counts,
            halves=np.asarray(halves),
            signal=(np.square(sums).sum(axis=1) - squares) / (counts * (counts - 1)),
            noise=np.square(noise).sum(axis=1),
            across_noise=_mean_square_with_others(noise, noise),
            across_mean=_mean_square_with_others(sums / counts[:, None], noise),
        )

    def of_rows(self, rows: np.ndarray) -> "_Moments":
        """The estimates for the images in `rows`."""
        return _Moments(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @property
    def are_clear(self) -> bool:
        """Whether there is clearly a signal."""
        return all(
            values.mean() > CLEAR * (values.std(ddof=1) / np.sqrt(len(values))) for values in (self.halves, self.signal)
        )

    def ceiling(self) -> float:
        """The expected cosine of the signal with the mean of all repeats."""
        signal, noise = self.signal.mean(), self.noise.mean()
        halves = self.halves.mean()
        if signal <= 0 or halves <= 0:
            return 0.0
        if noise <= 0 or halves >= 1:
            return 1.0
        in_halves, in_all = (1 / (self.counts // 2)).mean(), (1 / self.counts).mean()
        signals = signal * self._spread()
        grid = np.geomspace(1e-4 * noise, 1e4 * (noise + signal), GRID)
        table = self._expected_cosines(grid, in_halves)

        def expected(factor: float) -> np.ndarray:
            return np.interp(np.log(factor * signals), np.log(grid), table)

        low, high = 1e-6, 1e6
        for _ in range(40):
            middle = float(np.sqrt(low * high))
            low, high = (middle, high) if np.square(expected(middle)).mean() < halves else (low, middle)
        # The cosine only depends on the ratio of signal to noise, and the mean of all repeats has less noise.
        return float(expected(low * in_halves / in_all).mean())

    def half_interval(self, random: np.random.Generator) -> float:
        """Half the width of the ceiling's 95 % t interval, from a jackknife over groups of images."""
        images = len(self.counts)
        groups = min(GROUPS, images)
        group = random.permutation(np.arange(images) % groups)
        left_out = np.array([self.of_rows(np.flatnonzero(group != number)).ceiling() for number in range(groups)])
        error = np.sqrt((groups - 1) * left_out.var())
        return float(stdtrit(groups - 1, (1 + LEVEL) / 2) * error)

    def _along(self) -> float:
        """The variance of a repeat's noise along the signal, times the squared signal."""
        return max(float(self.across_mean.mean() - self.across_noise.mean() * (1 / self.counts).mean()), 0.0)

    def _spread(self) -> np.ndarray:
        """Quantiles of the squared signal over images, with a mean of 1: lognormal, the noise's variance removed."""
        counts, mean = self.counts, self.signal.mean()
        pairs = (2 / (counts * (counts - 1))).mean()
        by_noise = (4 / counts).mean() * self._along() + pairs * self.across_noise.mean()
        variance = max(float(self.signal.var(ddof=1) - by_noise), 0.0) / mean**2
        sigma = np.sqrt(np.log1p(variance))
        values: np.ndarray = np.exp(sigma * ndtri(QUANTILES))
        return values / values.mean()

    def _expected_cosines(self, signals: np.ndarray, variance: float) -> np.ndarray:
        """The expected cosine of a signal with itself and noise, for squared signals, shape (n,).

        Args:
            signals: Squared lengths of signals.
            variance: The variance of the noise, relative to one repeat's.
        """
        noise = self.noise.mean()
        along = min(self._along() / self.signal.mean(), noise)
        rest = noise - along
        spread = max(self.noise.var(ddof=1) - 2 * along**2, 1e-6 * noise**2)
        across = np.zeros(1)
        if rest > 1e-9 * noise:
            across = gamma_distribution.ppf(QUANTILES, rest**2 / spread) * spread / rest
        parallel = np.sqrt(signals)[:, None, None] + np.sqrt(variance * along) * ndtri(QUANTILES)[:, None]
        lengths = np.sqrt(np.square(parallel) + variance * across)
        expected: np.ndarray = (parallel / lengths).mean(axis=(1, 2))
        return expected


def _contrast(count: int, random: np.random.Generator) -> np.ndarray:
    """Weights for repeats that cancel the signal and leave the noise of one repeat, shape (count,)."""
    weights = random.normal(size=count)
    weights -= weights.mean()
    contrast: np.ndarray = weights / np.linalg.norm(weights)
    return contrast


def _mean_square_with_others(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The mean squared inner product of each vector with the vectors of other rows, shape (N,)."""
    products = np.square(vectors @ others.T)
    means: np.ndarray = (products.sum(axis=1) - np.diag(products)) / (len(vectors) - 1)
    return means


def _counts(repeats: Sequence[np.ndarray]) -> np.ndarray:
    counts = np.array([len(targets) for targets in repeats])
    if (counts < 2).any():
        raise ValueError(f"repeats[{(counts < 2).argmax()}] has fewer than two targets; a noise ceiling needs two.")
    return counts


def _halves(repeats: Sequence[np.ndarray], splits: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The means of two random halves of each image's repeats, shape (N, D) each; an odd repeat is left out."""
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
    # By chance halves may correlate negatively, and the formula has a pole below 0.
    reliability = np.maximum(reliability, 0)
    corrected: np.ndarray = longer * reliability / (1 + (longer - 1) * reliability)
    return corrected


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    cosines: np.ndarray = np.einsum("nd,nd->n", unit(first), unit(second))
    return cosines
