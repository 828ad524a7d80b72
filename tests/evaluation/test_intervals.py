from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation.intervals import Interval, across, corrected_resampled_interval, within

Simulation = Callable[[list[int], float], tuple[np.ndarray, np.ndarray, np.ndarray, float]]
REPLICATIONS = 2000
SCENARIOS = {  # sizes of the labels, intraclass correlation
    "10 x 30 (0.3)": ([30] * 10, 0.3),
    "10 x 30 (0.6)": ([30] * 10, 0.6),
    "16 x 2 (0.6)": ([2] * 16, 0.6),
    "50 x 4 (0.6)": ([4] * 50, 0.6),
    "1 to 20 (0.3)": (list(range(1, 21)), 0.3),
    "1 to 20 (0.6)": (list(range(1, 21)), 0.6),
    "singletons and pairs (0.6)": ([1] * 10 + [2] * 10, 0.6),
    "independent, 10 x 10": ([10] * 10, 0.0),
}


def normal(sizes: list[int], correlation: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Labels, values (replications, images), expectation of each image's label, and that of all labels."""
    random, labels = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    means = random.normal(size=(REPLICATIONS, len(sizes)), scale=np.sqrt(correlation))[:, labels]
    noise = random.normal(size=means.shape, scale=np.sqrt(1 - correlation))
    return labels, means + noise, means, 0.0


def skewed(sizes: list[int], correlation: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Like `normal`, but between 0 and 1, skewed, and noisier in some labels than in others, as cosines are."""
    random, labels = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    a, b = 5, 2
    means = random.beta(a, b, size=(REPLICATIONS, len(sizes)))[:, labels]
    # Beta(k mean, k (1 - mean)) around a Beta(a, b) mean has the correlation (k + 1) / (a + b + k + 1).
    k = (a + b) * correlation / (1 - correlation) - 1
    return labels, random.beta(k * means, k * (1 - means)), means, a / (a + b)


def covered(intervals: list[Interval], truths: np.ndarray) -> float:
    return float(np.mean([each.low <= truth <= each.high for each, truth in zip(intervals, truths, strict=True)]))


@pytest.mark.parametrize(
    ("simulate", "name"),
    # Skewed labels have different means, so independent images are simulated by the other alone.
    [(normal, name) for name in SCENARIOS] + [(skewed, name) for name in SCENARIOS if SCENARIOS[name][1]],
)
def test_both_intervals_cover_what_they_claim(simulate: Simulation, name: str) -> None:
    labels, values, means, expectation = simulate(*SCENARIOS[name])
    assert 0.92 <= covered([across(row, labels) for row in values], np.full(len(values), expectation)) <= 0.98
    assert 0.92 <= covered([within(row, labels) for row in values], means.mean(axis=1)) <= 0.98


@pytest.mark.parametrize("images", [12, 100])
def test_independent_images_are_covered(images: int) -> None:
    values = np.random.default_rng(0).beta(5, 2, size=(REPLICATIONS, images))
    alone, together = np.arange(images), np.zeros(images)
    assert 0.92 <= covered([across(row, alone) for row in values], np.full(len(values), 5 / 7)) <= 0.98
    assert 0.92 <= covered([within(row, together) for row in values], np.full(len(values), 5 / 7)) <= 0.98


@pytest.mark.parametrize("name", ["10 x 30 (0.3)", "10 x 30 (0.6)", "16 x 2 (0.6)", "50 x 4 (0.6)"])
def test_a_bootstrap_of_images_would_not_cover_new_labels(name: str) -> None:
    _, values, _, expectation = normal(*SCENARIOS[name])
    random, images = np.random.default_rng(1), values.shape[1]
    hits = 0
    for row in values[:300]:
        means = random.choice(row, (300, images)).mean(axis=1)
        low, high = np.percentile(means, [2.5, 97.5])
        hits += low <= expectation <= high
    assert hits / 300 < 0.9


def test_the_two_questions_have_different_answers() -> None:
    labels, values, _, _ = normal(*SCENARIOS["10 x 30 (0.6)"])
    widths = np.array([[each.high - each.low for each in (within(row, labels), across(row, labels))] for row in values])
    assert np.all(widths[:, 0] < widths[:, 1])


def test_images_without_company_have_students_interval() -> None:
    values = np.random.default_rng(0).normal(size=30)
    student = stats.ttest_1samp(values, 0).confidence_interval()
    for found in (across(values, np.arange(30)), within(values, ["cat"] * 30)):
        assert (found.low, found.high) == pytest.approx((student.low, student.high))
        assert (found.mean, found.degrees_of_freedom) == pytest.approx((values.mean(), 29))


def test_labels_of_equal_size_have_students_interval_of_their_means() -> None:
    means = np.random.default_rng(0).normal(size=8)
    labels = np.repeat(list("abcdefgh"), 5)
    values = np.repeat(means, 5) + np.tile([-2, -1, 0, 1, 2], 8)
    student = stats.ttest_1samp(means, 0).confidence_interval()
    found = across(values, labels)
    assert (found.low, found.high, found.degrees_of_freedom) == pytest.approx((student.low, student.high, 7))


def test_across_is_the_cr2_variance_with_its_degrees_of_freedom() -> None:
    sizes = np.array([1, 1, 2, 3, 5, 8])
    rows, n = np.repeat(np.arange(6), sizes), sizes.sum()
    values = np.random.default_rng(0).normal(size=n)
    design, within_cluster = np.ones((n, 1)), rows[:, None] == rows
    residual_maker = np.eye(n) - design @ design.T / n
    vectors = []
    for cluster in range(6):
        own = rows == cluster
        eigenvalues, basis = np.linalg.eigh(residual_maker[np.ix_(own, own)])
        root = basis @ np.diag(eigenvalues**-0.5) @ basis.T
        vectors.append(residual_maker[:, own] @ root @ design[own, 0] / n)
    g = np.array(vectors).T
    variance = np.square(g.T @ values).sum()
    covariance = g.T @ within_cluster @ g
    freedom = np.trace(covariance) ** 2 / np.trace(covariance @ covariance)
    found = across(values, rows)
    assert found.degrees_of_freedom == pytest.approx(freedom)
    assert (found.high - found.low) / 2 == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt(variance))
    assert freedom < 5


def test_within_adds_each_labels_own_variance_and_lends_it_to_single_images() -> None:
    a, b = np.array([1.0, 2.0, 4.0]), np.array([5.0, 9.0])
    found = within(np.concatenate([a, b, [7]]), list("aaabbc"))
    pooled = (2 * a.var(ddof=1) + b.var(ddof=1)) / 3
    variance = (3 * a.var(ddof=1) + 2 * b.var(ddof=1) + pooled) / 36
    half = stats.t.ppf(0.975, found.degrees_of_freedom) * np.sqrt(variance)
    assert (found.high - found.low) / 2 == pytest.approx(half)
    assert 1 <= found.degrees_of_freedom <= 3


def test_bounds_are_cut_where_no_mean_can_be() -> None:
    wide = across(np.array([0.9, -0.9]), list("ab"))
    assert wide.low < -1 < 1 < wide.high
    assert wide.bounds(1) == (-1, 1)
    narrow = across(np.array([0.1, 0.2, 0.3]), list("abc"))
    assert narrow.bounds(1) == (narrow.low, narrow.high)


def test_undefined_intervals_are_none() -> None:
    assert across(np.ones(0), []) is None
    assert across(np.arange(4), ["a"] * 4) is None
    assert within(np.ones(0), []) is None
    assert within(np.arange(4), list("abcd")) is None
    assert corrected_resampled_interval(np.ones(1), 8, 2) is None


def test_equal_values_have_an_interval_without_width() -> None:
    zeros = np.zeros(6)
    for found in (across(zeros, list("aabbcc")), within(zeros, list("aabbcc"))):
        assert (found.low, found.high) == (0, 0)
        assert all(type(number) is float for number in asdict(found).values())


def test_overlapping_splits_are_covered_once_corrected() -> None:
    """The squared error of the training mean, over ten random splits of 60 images into 45 and 15."""
    random, images, train, splits = np.random.default_rng(0), 60, 45, 10
    order = np.argsort(random.random((1000, splits, images)), axis=2)
    values = np.take_along_axis(random.normal(size=(1000, 1, images)), order, axis=2)
    errors = np.square(values[..., train:] - values[..., :train].mean(axis=2, keepdims=True)).mean(axis=2)
    truths = np.full(len(errors), 1 + 1 / train)
    corrected = [corrected_resampled_interval(row, train, images - train) for row in errors]
    assert 0.92 <= covered(corrected, truths) <= 0.98
    assert covered([across(row, np.arange(splits)) for row in errors], truths) < 0.8
    naive = across(errors[0], np.arange(splits))
    ratio = (corrected[0].high - corrected[0].low) / (naive.high - naive.low)
    assert ratio == pytest.approx(np.sqrt(1 + splits * 15 / 45))
