from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation.intervals import (
    FEWEST_CLUSTERS,
    FEWEST_IMAGES,
    Interval,
    across,
    over_folds,
    share_across,
    share_within,
    within,
)

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
    """Labels, values (replications, images), the expectation of each image's label, and the overall expectation."""
    random, labels = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    means = random.normal(size=(REPLICATIONS, len(sizes)), scale=np.sqrt(correlation))[:, labels]
    noise = random.normal(size=means.shape, scale=np.sqrt(1 - correlation))
    return labels, means + noise, means, 0.0


def skewed(sizes: list[int], correlation: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Like `normal`, but between 0 and 1, skewed, and noisier in some labels than in others, like cosines."""
    random, labels = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    a, b = 5, 2
    means = random.beta(a, b, size=(REPLICATIONS, len(sizes)))[:, labels]
    # Beta(k mean, k (1 - mean)) around a Beta(a, b) mean has the correlation (k + 1) / (a + b + k + 1).
    k = (a + b) * correlation / (1 - correlation) - 1
    return labels, random.beta(k * means, k * (1 - means)), means, a / (a + b)


def covered(intervals: list[Interval | None], truths: np.ndarray) -> float:
    """The share of intervals that cover the truth."""
    pairs = [(interval, truth) for interval, truth in zip(intervals, truths, strict=True) if interval]
    return float(np.mean([interval.low <= truth <= interval.high for interval, truth in pairs]))


@pytest.mark.parametrize(
    ("simulate", "name"),
    # Skewed labels have different means, so independent images are simulated with `normal` only.
    [(normal, name) for name in SCENARIOS] + [(skewed, name) for name in SCENARIOS if SCENARIOS[name][1]],
)
def test_both_intervals_cover_what_they_claim(simulate: Simulation, name: str) -> None:
    labels, values, means, expectation = simulate(*SCENARIOS[name])
    assert 0.92 <= covered([across(row, labels) for row in values], np.full(len(values), expectation)) <= 0.98
    assert 0.92 <= covered([within(row, labels) for row in values], means.mean(axis=1)) <= 0.98


@pytest.mark.parametrize("images", [FEWEST_IMAGES, 100])
def test_independent_images_are_covered(images: int) -> None:
    values = np.random.default_rng(0).beta(5, 2, size=(REPLICATIONS, images))
    alone, together = np.arange(images), np.zeros(images)
    assert 0.92 <= covered([across(row, alone) for row in values], np.full(len(values), 5 / 7)) <= 0.98
    assert 0.92 <= covered([within(row, together) for row in values], np.full(len(values), 5 / 7)) <= 0.98


@pytest.mark.parametrize("name", ["10 x 30 (0.3)", "10 x 30 (0.6)", "16 x 2 (0.6)", "50 x 4 (0.6)"])
def test_a_bootstrap_over_images_would_not_cover_new_labels(name: str) -> None:
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
    pairs = [(within(row, labels), across(row, labels)) for row in values[:300]]
    widths = np.array([[interval.high - interval.low for interval in pair] for pair in pairs if all(pair)])
    assert len(widths) > 200
    assert np.all(widths[:, 0] < widths[:, 1])


def test_labels_with_single_images_give_students_interval() -> None:
    values = np.random.default_rng(0).normal(size=30)
    student = stats.ttest_1samp(values, 0).confidence_interval()
    for interval in (across(values, np.arange(30)), within(values, ["cat"] * 30)):
        assert (interval.low, interval.high) == pytest.approx((student.low, student.high))
        assert (interval.mean, interval.degrees_of_freedom) == pytest.approx((values.mean(), 29))


def test_labels_of_equal_size_give_students_interval_of_their_means() -> None:
    means = np.random.default_rng(0).normal(size=12)
    labels = np.repeat(list("abcdefghijkl"), 5)
    values = np.repeat(means, 5) + np.tile([-2, -1, 0, 1, 2], 12)
    student = stats.ttest_1samp(means, 0).confidence_interval()
    interval = across(values, labels)
    assert (interval.low, interval.high, interval.degrees_of_freedom) == pytest.approx((student.low, student.high, 11))


def test_across_uses_the_cr2_variance_with_its_degrees_of_freedom() -> None:
    sizes = np.array([1, 1, 1, 1, 1, 1, 2, 3, 5, 13])
    rows, n = np.repeat(np.arange(10), sizes), sizes.sum()
    values = np.random.default_rng(0).normal(size=n)
    design, within_cluster = np.ones((n, 1)), rows[:, None] == rows
    residual_maker = np.eye(n) - design @ design.T / n
    vectors = []
    for cluster in range(10):
        own = rows == cluster
        eigenvalues, basis = np.linalg.eigh(residual_maker[np.ix_(own, own)])
        root = basis @ np.diag(eigenvalues**-0.5) @ basis.T
        vectors.append(residual_maker[:, own] @ root @ design[own, 0] / n)
    g = np.array(vectors).T
    variance = np.square(g.T @ values).sum()
    covariance = g.T @ within_cluster @ g
    freedom = np.trace(covariance) ** 2 / np.trace(covariance @ covariance)
    interval = across(values, rows)
    assert interval.degrees_of_freedom == pytest.approx(freedom)
    assert (interval.high - interval.low) / 2 == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt(variance))
    assert freedom < 5


def test_within_pools_variance_for_labels_with_single_images() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=20), random.normal(size=15)
    interval = within(np.concatenate([a, b, [0.5]]), list("a" * 20 + "b" * 15 + "c"))
    pooled = (19 * a.var(ddof=1) + 14 * b.var(ddof=1)) / 33
    variance = (20 * a.var(ddof=1) + 15 * b.var(ddof=1) + pooled) / 36**2
    half = stats.t.ppf(0.975, interval.degrees_of_freedom) * np.sqrt(variance)
    assert (interval.high - interval.low) / 2 == pytest.approx(half)
    assert 14 <= interval.degrees_of_freedom <= 33


def two_valued(random: np.random.Generator, chances: np.ndarray) -> np.ndarray:
    """1 for images that are found, 0 for others."""
    return (random.random(len(chances)) < chances).astype(float)


def failing(random: np.random.Generator, chances: np.ndarray) -> np.ndarray:
    """About 0.9 for images on which a decoder works, about 0 for those on which it fails."""
    return 0.9 * two_valued(random, chances) + 0.03 * random.normal(size=len(chances))


@pytest.mark.parametrize("draw", [two_valued, failing])
@pytest.mark.parametrize(
    "sizes", [[2], [10], [20], [50], [100], [200], [20] * 2, [10] * 5, [2] * 16, [1, 2] * 40, [30] * 10], ids=str
)
def test_intervals_rarely_miss_if_one_image_in_ten_fails(draw: Callable, sizes: list[int]) -> None:
    """A plain t interval would miss in 81 % of evaluations with 2 images, in 35 % with 10, in 12 % with 50."""
    random, labels = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    images = np.arange(len(labels))
    truth, missed = 0.9 if draw is two_valued else 0.81, np.zeros(3)
    for _ in range(400):
        values = draw(random, np.full(len(labels), 0.9))
        intervals = (within(values, labels), across(values, labels), across(values, images))
        missed += [bool(interval) and not interval.low <= truth <= interval.high for interval in intervals]
    assert missed.max() / 400 <= 0.09


@pytest.mark.parametrize("draw", [two_valued, failing])
def test_many_images_have_an_interval_if_one_in_ten_fails(draw: Callable) -> None:
    random, images = np.random.default_rng(0), np.arange(400)
    intervals = [across(draw(random, np.full(400, 0.9)), images) for _ in range(300)]
    assert sum(map(bool, intervals)) >= 295
    assert covered(intervals, np.full(300, 0.9 if draw is two_valued else 0.81)) >= 0.92


def test_there_is_no_interval_for_too_few_images() -> None:
    values = np.random.default_rng(0).normal(size=40)
    for images in (FEWEST_IMAGES - 1, FEWEST_IMAGES):
        is_enough = images == FEWEST_IMAGES
        assert bool(across(values[:images], np.arange(images))) is is_enough
        assert bool(within(values[:images], ["cat"] * images)) is is_enough
    for clusters in (FEWEST_CLUSTERS - 1, FEWEST_CLUSTERS):
        assert bool(across(values, np.arange(40) % clusters)) is (clusters == FEWEST_CLUSTERS)
    alone = np.minimum(np.arange(40), 30)  # ten images of the last label, so nine degrees of freedom
    assert within(values, alone) is None
    assert within(values, np.minimum(alone, 29)) is not None


def test_equal_values_have_no_interval() -> None:
    for values in (np.zeros(60), np.full(60, 0.1)):
        assert across(values, np.arange(60) % 20) is within(values, np.arange(60) % 20) is None


def test_bounds_are_clipped_to_possible_means() -> None:
    wide = across(np.tile([0.99, -0.99], 20), np.arange(40))
    assert wide.bounds(0.1) == (-0.1, 0.1)
    narrow = across(np.random.default_rng(0).normal(0.5, 0.1, 40), np.arange(40))
    assert narrow.bounds(1) == (narrow.low, narrow.high)


def test_undefined_intervals_are_none() -> None:
    assert across(np.ones(0), []) is None
    assert across(np.arange(40), ["a"] * 40) is None
    assert within(np.ones(0), []) is None
    assert within(np.arange(40), np.arange(40)) is None
    assert over_folds(np.ones(1), 1, 40) is None
    assert over_folds(np.arange(4), 4, FEWEST_IMAGES - 1) is None


def test_the_correction_gives_coverage_for_overlapping_splits() -> None:
    """The squared error of the training mean, over ten random splits of 60 images into 45 and 15."""
    random, images, train, splits = np.random.default_rng(0), 60, 45, 10
    order = np.argsort(random.random((1000, splits, images)), axis=2)
    values = np.take_along_axis(random.normal(size=(1000, 1, images)), order, axis=2)
    errors = np.square(values[..., train:] - values[..., :train].mean(axis=2, keepdims=True)).mean(axis=2)
    truths = np.full(len(errors), 1 + 1 / train)
    corrected = [over_folds(row, images // (images - train), images) for row in errors]
    students = [stats.ttest_1samp(row, 0).confidence_interval() for row in errors]
    assert 0.92 <= covered(corrected, truths) <= 0.98
    assert covered(students, truths) < 0.8
    naive = students[0]
    ratio = (corrected[0].high - corrected[0].low) / (naive.high - naive.low)
    assert ratio == pytest.approx(np.sqrt(1 + splits * 15 / 45))


def test_the_interval_of_a_share_of_independent_images_is_wilsons() -> None:
    values = np.arange(4000) < 320
    wilson = stats.binomtest(320, 4000).proportion_ci(method="wilson")
    interval = share_across(values, np.arange(4000))
    assert (interval.low, interval.high) == pytest.approx(wilson, rel=1e-3)
    assert share_within(values, np.zeros(4000)).low == pytest.approx(wilson[0], rel=1e-3)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("sizes", [[1] * 29, [1] * 60, [3] * 10, [5] * 12, [3] * 20, list(range(1, 21))], ids=str)
def test_intervals_of_shares_cover_even_near_0_and_1(sizes: list[int], share: float) -> None:
    """A t interval would be given for 7 % of samples of 29 images with a share of 0.1, a Wilson interval for 96 %."""
    random, labels = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    chances = random.beta(4 * share, 4 * (1 - share), size=(800, len(sizes)))[:, labels]  # correlation 0.2
    values = random.random(chances.shape) < chances
    across_labels = [share_across(row, labels) for row in values]
    assert 0.92 <= covered(across_labels, np.full(len(values), share)) <= 0.995
    assert np.mean([bool(interval) for interval in across_labels]) > 0.35
    if max(sizes) > 1:
        within_labels = [share_within(row, labels) for row in values]
        assert 0.92 <= covered(within_labels, chances.mean(axis=1)) <= 0.995


def test_a_share_has_no_interval_if_the_rarer_outcome_is_too_rare() -> None:
    labels = np.repeat(np.arange(20), 5)
    two, three = np.isin(np.arange(100), (0, 1, 5)), np.isin(np.arange(100), (0, 5, 10))
    assert share_across(two, labels) is share_across(~two, labels) is None
    assert share_across(three, labels) is not None
    assert share_across(~three, labels) is not None
    assert share_across(two, np.arange(100)) is not None
    for values in (np.zeros(100), np.ones(100)):
        assert share_across(values, labels) is share_within(values, labels) is None
    assert share_across(three[:28], np.arange(28)) is None
    assert share_across(three, labels // 5) is None
