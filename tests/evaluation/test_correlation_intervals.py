import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation import correlation_intervals
from pipeline.evaluation.correlation_intervals import _left_out, fold_interval
from pipeline.evaluation.dimensions import dimension_scores
from pipeline.evaluation.intervals import FEWEST_IMAGES, Interval, jackknife, over_folds

RANDOM = np.random.default_rng(0)
TARGETS = RANDOM.normal(size=(60, 6))
PREDICTED = TARGETS + RANDOM.normal(size=TARGETS.shape)
CLUSTERS = np.repeat(np.arange(12), [1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 5, 5])


def mean_r(predicted: np.ndarray, targets: np.ndarray) -> float:
    return float(np.mean([stats.pearsonr(*columns).statistic for columns in zip(predicted.T, targets.T, strict=True)]))


def intervals_of(
    predicted: np.ndarray, targets: np.ndarray, clusters: np.ndarray
) -> tuple[Interval | None, Interval | None]:
    r = dimension_scores(predicted, targets).pearson
    return correlation_intervals.correlation_intervals(r, predicted, targets, clusters)


def test_r_without_a_cluster_is_that_of_the_other_images() -> None:
    shuffled = RANDOM.permutation(60)
    clusters = CLUSTERS[shuffled]
    predicted, targets = PREDICTED + 1e4, TARGETS * 1e-4  # far from 0: sums of squares would lose digits
    left_out = _left_out(predicted, targets, np.arange(6), clusters)
    expected = [mean_r(predicted[clusters != cluster], targets[clusters != cluster]) for cluster in range(12)]
    assert left_out == pytest.approx(expected, abs=1e-9)


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    values = RANDOM.normal(size=40)
    left_out = (values.sum() - values) / 39
    interval = jackknife(values.mean(), left_out, np.ones(40, int))
    student = stats.ttest_1samp(values, 0).confidence_interval()
    assert (interval.low, interval.high, interval.degrees_of_freedom) == pytest.approx((*student, 39))
    assert jackknife(0.5, np.full(40, 0.5), np.ones(40, int)) is None


@pytest.mark.parametrize("dim", [1, 6])
def test_the_interval_over_images_is_the_jackknife(dim: int) -> None:
    """Of Fisher's z for one dimension, of r for six."""
    predicted, targets = PREDICTED[:, :dim], TARGETS[:, :dim]
    forward, back = (np.arctanh, np.tanh) if dim == 1 else (np.asarray, np.asarray)
    others = [np.delete(np.arange(60), row) for row in range(60)]
    left_out = forward([mean_r(predicted[rows], targets[rows]) for rows in others])
    half = stats.t.ppf(0.975, 59) * np.sqrt(59 / 60 * np.square(left_out - left_out.mean()).sum())
    estimate = forward(mean_r(predicted, targets))
    interval, same = intervals_of(predicted, targets, np.arange(60))
    assert (interval.low, interval.high) == pytest.approx((float(back(estimate - half)), float(back(estimate + half))))
    assert same is None


SCENARIOS = [(29, 29, 1), (60, 60, 1), (60, 60, 20), (60, 12, 20), (60, 20, 20)]


@pytest.mark.parametrize(("images", "labels", "dim"), SCENARIOS)
@pytest.mark.parametrize("r", [0.3, 0.9])
def test_intervals_cover_the_mean_r_of_other_samples(images: int, labels: int, dim: int, r: float) -> None:
    random, noise = np.random.default_rng(1), np.sqrt(1 / r**2 - 1)
    label = np.repeat(np.arange(labels), images // labels)
    bounds, means = [], []
    for _ in range(400):
        targets = random.normal(size=(labels, dim))
        of_labels = (targets + noise * np.sqrt(0.5) * random.normal(size=targets.shape))[label]
        predicted = of_labels + noise * np.sqrt(0.5) * random.normal(size=(images, dim))
        interval, _ = intervals_of(predicted, targets[label], label)
        bounds.append((interval.low, interval.mean, interval.high))
        means.append(interval.mean)
    low, _, high = np.array(bounds).T
    assert 0.92 <= np.mean((low <= np.mean(means)) & (np.mean(means) <= high)) <= 0.985


def test_there_is_no_interval_that_would_not_hold() -> None:
    few = FEWEST_IMAGES - 1
    assert intervals_of(PREDICTED[:few], TARGETS[:few], np.arange(few)) == (None, None)
    over_labels, same_labels = intervals_of(PREDICTED[:, :1], TARGETS[:, :1], CLUSTERS)
    assert over_labels is None  # a single dimension takes 29 labels
    assert same_labels.low < mean_r(PREDICTED[:, :1], TARGETS[:, :1]) < same_labels.high
    over_labels, _ = intervals_of(PREDICTED, TARGETS, CLUSTERS)
    assert over_labels.low < mean_r(PREDICTED, TARGETS) < over_labels.high
    assert intervals_of(PREDICTED, TARGETS, np.minimum(CLUSTERS, 8))[0] is None  # nine labels
    assert intervals_of(TARGETS, TARGETS, CLUSTERS) == (None, None)
    assert intervals_of(np.ones_like(TARGETS), TARGETS, CLUSTERS) == (None, None)
    one_hot = np.eye(12)[CLUSTERS]  # without its label, a dimension is constant
    assert intervals_of(one_hot + PREDICTED[:, :1], one_hot, CLUSTERS)[0] is None


def test_constant_dimensions_have_no_r_and_are_left_out() -> None:
    constant = np.full((60, 1), 0.1)
    with_constant = intervals_of(np.hstack([PREDICTED, constant]), np.hstack([TARGETS, constant]), CLUSTERS)
    assert with_constant == intervals_of(PREDICTED, TARGETS, CLUSTERS)


def test_an_interval_over_folds_is_that_of_their_means() -> None:
    folds = np.arange(60) % 4
    means = np.array([mean_r(PREDICTED[folds == fold], TARGETS[folds == fold]) for fold in range(4)])
    expected, interval = over_folds(means, 4, 60), fold_interval(PREDICTED, TARGETS, folds)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert fold_interval(PREDICTED, TARGETS, np.arange(60) // 2) is None  # pairs of images have no r
