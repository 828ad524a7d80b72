"""Intervals: how far the mean over a sample of images may be from the mean over the population of images.

Images that share a label or a group resemble each other, so they carry less information than the same number of
independent images. The interval of a mean depends on the question: new images of the same labels (`within`), or other
labels or groups (`across`). Both take any value per image: a cosine, or the difference between two models' cosines on
the same images. Under cross-validation each fold has its own decoder, so intervals are over folds (`over_folds`) and
also hold for a newly trained decoder.

**When there is no interval.** A t interval needs enough units for the mean to be nearly normal, and values that show
their spread. A mean over fewer than 29 images (`FEWEST_IMAGES`) has no interval: a problem with one image in ten
shows up among 29 images in 95 % of cases (0.9^29 = 0.05), among 10 images in 65 %. `across` needs 10 clusters
(`FEWEST_CLUSTERS`), `within` 10 degrees of freedom. For skewed values, such as many near 1 and some near 0, coverage
depends on n / skewness^2, where n is the number of units (Cochran 1977, "Sampling Techniques", section 2.15: 25 for an
error below 6 %); 10 (`SKEWNESS`) keeps it above 92 %. If there are only two values, that is about ten images with the
rarer one. Equal values show no spread at all.

**Shares** such as top-1 and identification are often near 0 or 1, where this rule leaves few intervals. `share_across`
and `share_within` use score intervals instead, which suit skewed shares. In simulations with 29 to 200 images, at most
7 % of evaluations showed an interval of top-1 that did not cover, and 10 % one of identification.

In simulations (`tests/evaluation/test_intervals.py`) with 10 to 100 clusters of 1 to 30 images, at least 92 % of the
intervals cover for normal and skewed scores; if scores have only two values, or one image in ten fails, at most 9 % of
evaluations show an interval that does not cover, instead of 12 to 80 %. Intervals cannot show failures that are too
rare to occur among the evaluated images, or how a newly trained decoder would differ, because the decoder is fixed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95
FEWEST_IMAGES = 29
FEWEST_CLUSTERS = 10  # also the fewest degrees of freedom within labels
SKEWNESS = 10  # the fewest units for each unit of squared skewness
FEWEST_WITH_RARER = 3  # clusters of several images in which the rarer of two values occurs
SATURATED = 0.01  # a share that is nearer to 0 or 1 has no interval
EQUAL = 1e-12  # a smaller spread is a rounding error


@dataclass(frozen=True)
class Interval:
    """A 95 % t interval of a mean.

    Attributes:
        mean: The mean over images.
        low: The lower end.
        high: The upper end.
        degrees_of_freedom: Degrees of freedom of the t distribution; with few, the interval rests on little data.
    """

    mean: float
    low: float
    high: float
    degrees_of_freedom: float

    def bounds(self, largest: float, smallest: float | None = None) -> tuple[float, float]:
        """Both ends, clipped to the range of possible means: from -largest, or `smallest`, to largest."""
        return max(self.low, -largest if smallest is None else smallest), min(self.high, largest)


def within(values: np.ndarray, labels: Sequence[str] | np.ndarray) -> Interval | None:
    """The interval of a mean for new images of the same labels: a stratified t interval.

    The estimand is the mean of the labels' expectations, weighted by their numbers of images. A label's variance is
    estimated from its images or, for a label with one image, from all other labels together. The degrees of
    freedom are Welch's (1947, "The generalization of 'Student's' problem", Biometrika 34), which also suit labels
    with two images; Satterthwaite's are too few there.

    Args:
        values: A value for each image, shape (N,).
        labels: The label of each image, length N.

    Returns:
        The interval; None if the values are too few, too skewed or all equal; see the top of the module.
    """
    values, rows, sizes = _grouped(values, labels)
    if len(values) < FEWEST_IMAGES or (sizes - 1).sum() < FEWEST_CLUSTERS:
        return None
    means = np.bincount(rows, values) / sizes
    deviations = values - means[rows]
    # Deviations within pairs are symmetrical; their skewness only shows in the deviations from the overall mean.
    if not (_is_nearly_normal(deviations) and _is_nearly_normal(values - values.mean())):
        return None
    return _t_interval(values.mean(), *_variance_within(deviations, rows, sizes))


def _variance_within(deviations: np.ndarray, rows: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """The stratified variance of a mean, and its degrees of freedom; see `within`."""
    repeated = sizes > 1
    squares = np.bincount(rows, np.square(deviations))[repeated]
    freedom = sizes[repeated] - 1
    weights = (sizes[repeated] / freedom + (~repeated).sum() / freedom.sum()) / len(deviations) ** 2
    parts = weights * squares
    return parts.sum(), _welch(parts, freedom)


def _welch(parts: np.ndarray, freedom: np.ndarray) -> float:
    """Degrees of freedom of a sum of estimated variances, from the degrees of freedom of each."""
    uncertainty = (np.square(parts) / (freedom + 2)).sum()
    if uncertainty == 0:
        return float(freedom.sum())
    return float(np.clip(parts.sum() ** 2 / uncertainty - 2, freedom.min(), freedom.sum()))


def across(values: np.ndarray, clusters: Sequence[str] | np.ndarray) -> Interval | None:
    """The interval of a mean for other labels or groups: a cluster-robust t interval.

    It holds for labels like those of the images: for new labels if the decoder was not trained on the images' labels,
    and for other training labels if it was.

    The variance is the CR2 estimate of Bell and McCaffrey (2002); see Cameron and Miller (2015), "A Practitioner's
    Guide to Cluster-Robust Inference", Journal of Human Resources 50, section VI. The degrees of freedom are also Bell
    and McCaffrey's, for values that are equal within a cluster, the cautious assumption of Carter, Schnepel and
    Steigerwald (2017). G clusters of equal size have G - 1, clusters of unequal size fewer. If each image is its own
    cluster, this is Student's interval.

    Args:
        values: A value for each image, shape (N,).
        clusters: The label or group of each image, length N.

    Returns:
        The interval; None if the values are too few, too skewed or all equal; see the top of the module.
    """
    values, rows, sizes = _grouped(values, clusters)
    if len(values) < FEWEST_IMAGES or len(sizes) < FEWEST_CLUSTERS:
        return None
    sums = np.bincount(rows, values - values.mean())
    if not _is_nearly_normal(sums):
        return None
    return _t_interval(values.mean(), *_variance_across(sums, sizes))


def _variance_across(sums: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """The cluster-robust variance of a mean from the clusters' sums of deviations, and its degrees of freedom."""
    images = sizes.sum()
    shares = sizes / images
    variance = (np.square(sums) / (1 - shares)).sum() / images**2
    return variance, _bell_mccaffrey(shares)


def share_within(values: np.ndarray, labels: Sequence[str] | np.ndarray) -> Interval | None:
    """The interval of a share for new images of the same labels: a score interval with the variance of `within`.

    Args:
        values: See `share_across`.
        labels: The label of each image, length N.

    Returns:
        The interval; None if the values are too few or all equal, or the share is within 1 % of 0 or 1.
    """
    values, rows, sizes = _grouped(values, labels)
    if len(values) < FEWEST_IMAGES or (sizes - 1).sum() < FEWEST_CLUSTERS:
        return None
    deviations = values - (np.bincount(rows, values) / sizes)[rows]
    return _score_interval(values.mean(), *_variance_within(deviations, rows, sizes))


def share_across(values: np.ndarray, clusters: Sequence[str] | np.ndarray) -> Interval | None:
    """The interval of a share, such as hits, for other labels or groups: Wilson's score interval for clusters.

    In Wilson's interval (1927), the number of images is replaced by the number of independent images that would have
    the cluster-robust variance of `across`; see Franco, Little, Louis and Slud (2019), "Comparative Study of Confidence
    Intervals for Proportions in Complex Sample Surveys", Journal of Survey Statistics and Methodology 7.

    Args:
        values: A value for each image, shape (N,): 0 or 1, or numbers with a mean from 0 to 1.
        clusters: The label or group of each image, length N.

    Returns:
        The interval; None if the values are too few or all equal, if the share is within 1 % of 0 or 1, or if the rarer
        of 0 and 1 occurs in fewer than three clusters of several images.
    """
    values, rows, sizes = _grouped(values, clusters)
    if len(values) < FEWEST_IMAGES or len(sizes) < FEWEST_CLUSTERS:
        return None
    mean, most = values.mean(), np.inf
    if np.isin(values, (0, 1)).all():
        most = len(values)  # with less variance, zeros and ones would be spread more evenly than by chance
        rarer = values == (mean <= 0.5)
        if len(sizes) < len(values) and len(np.unique(rows[rarer])) < FEWEST_WITH_RARER:
            return None
    sums = np.bincount(rows, values - mean)
    return _score_interval(mean, *_variance_across(sums, sizes), most)


def _score_interval(mean: float, variance: float, freedom: float, most: float = np.inf) -> Interval | None:
    """Wilson's interval for a share with this variance; as for at most this number of independent images."""
    if variance <= EQUAL**2 or not SATURATED <= mean <= 1 - SATURATED:
        return None
    images = min(mean * (1 - mean) / variance, most)
    t = float(stdtrit(freedom, (1 + LEVEL) / 2))
    centre = (mean + t**2 / (2 * images)) / (1 + t**2 / images)
    half = t / (1 + t**2 / images) * np.sqrt(mean * (1 - mean) / images + t**2 / (4 * images**2))
    return Interval(float(mean), float(centre - half), float(centre + half), float(freedom))


def _bell_mccaffrey(shares: np.ndarray) -> float:
    """Degrees of freedom of the CR2 variance, tr(C)^2 / tr(C C), from each cluster's share of the images.

    C is the covariance of the clusters' scaled residual sums. With d = shares^2 / (1 - shares) on its diagonal it is
    diag(d) - b a' - a b' + (sum of shares^2) a a'. The matrix is never formed, because there may be as many clusters as
    images.
    """
    scale = 1 / np.sqrt(1 - shares)
    a, b, total = scale * shares, scale * np.square(shares), np.square(shares).sum()
    d = np.square(a)
    aa, ab, bb = a @ a, a @ b, b @ b
    trace = d.sum() - 2 * ab + total * aa
    low_rank = 2 * (aa * bb + ab**2) - 4 * total * aa * ab + (total * aa) ** 2
    mixed = (d * (total * np.square(a) - 2 * a * b)).sum()
    return float(trace**2 / (d @ d + low_rank + 2 * mixed))


def jackknife(estimate: float, left_out: np.ndarray, sizes: np.ndarray) -> Interval | None:
    """The interval of an estimate that is not a mean over images, from its values without each cluster.

    The variance is that of the delete-m jackknife for clusters of unequal size; see Busing, Meijer and van der Leeden
    (1999), "Delete-m jackknife for unequal m", Statistics and Computing 9. Degrees of freedom are those of `across`.

    Args:
        estimate: The estimate from all images.
        left_out: The estimate without each cluster, shape (G,).
        sizes: The number of images of each cluster, shape (G,).

    Returns:
        The interval; None if the values are all equal.
    """
    shares = sizes / sizes.sum()
    pseudo = estimate / shares - (1 / shares - 1) * left_out
    mean = len(left_out) * estimate - ((1 - shares) * left_out).sum()
    variance = (np.square(pseudo - mean) * shares / (1 - shares)).mean()
    if variance <= EQUAL**2:
        return None
    return _t_interval(estimate, variance, _bell_mccaffrey(shares))


def fold_means(values: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """The mean of each fold, shape (K,).

    Args:
        values: A value for each image, shape (N,).
        folds: The fold in which each image was held out, shape (N,), int.
    """
    values, rows, sizes = _grouped(values, folds)
    return np.bincount(rows, values) / sizes


def over_folds(means: np.ndarray, folds: int, images: int) -> Interval | None:
    """The interval of a mean for a new training run and new images: Nadeau and Bengio's corrected resampled t interval.

    Folds share training images, so their scores are not independent; the ratio of held-out to training images, 1 to
    K - 1, corrects for their correlation. See Nadeau and Bengio (2003), "Inference for the Generalization Error",
    Machine Learning 52, and for repeated cross-validation Bouckaert and Frank (2004).

    Args:
        means: The mean score (or paired difference of scores) of each fold in each repeat, shape (K R,).
        folds: The number of folds, K.
        images: The number of images.

    Returns:
        The interval; None for fewer than FEWEST_IMAGES images or fewer than two folds.
    """
    if images < FEWEST_IMAGES or folds < 2:
        return None
    means = np.asarray(means, np.float64)
    variance = (1 / len(means) + 1 / (folds - 1)) * means.var(ddof=1)
    return _t_interval(means.mean(), variance, len(means) - 1)


def both(
    values: np.ndarray, clusters: Sequence[str] | np.ndarray, largest: float
) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """The ends of the intervals of a mean for other clusters (`across`) and for new images of these (`within`).

    Args:
        values: A value for each image, shape (N,).
        clusters: The cluster of each image, length N.
        largest: The largest possible absolute mean.
    """
    intervals = across(values, clusters), within(values, clusters)
    first, second = (interval.bounds(largest) if interval else None for interval in intervals)
    return first, second


def _is_nearly_normal(deviations: np.ndarray) -> bool:
    """Whether the mean of values with these deviations, shape (n,), sum 0, is nearly normal enough for a t interval."""
    variance = np.square(deviations).mean()
    if variance <= EQUAL**2:
        return False
    skewness = (deviations**3).mean() / variance**1.5
    return bool(len(deviations) >= SKEWNESS * skewness**2)


def _grouped(values: np.ndarray, groups: Sequence[str] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The values in float64, the group number of each value, and the groups' sizes."""
    _, rows, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    return np.asarray(values, np.float64), rows, sizes


def _t_interval(mean: float, variance: float, freedom: float) -> Interval:
    half = float(stdtrit(freedom, (1 + LEVEL) / 2) * np.sqrt(variance))
    return Interval(float(mean), float(mean) - half, float(mean) + half, float(freedom))
