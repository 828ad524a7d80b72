"""`train --permutations`: ridge regression trained again on permuted targets."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import pdist
from splits_in_memory import split_of

from pipeline.commands.retraining_test import _coordinates, check_memory, retraining_test
from pipeline.commands.training_options import ExampleOptions, FoldOptions, TrainOptions
from pipeline.core.errors import RequestError
from pipeline.core.vectors import cosines
from pipeline.data.splits import assign_folds
from pipeline.decoders.ridge import RidgeFolds
from pipeline.evaluation.retraining import RetrainingTest
from pipeline.features.options import ExtractionOptions

FEATURES = 8
QUIET = ExtractionOptions(progress=False)


def options_of(count: int, seed: int = 0, folds: int | None = None, **more: object) -> TrainOptions:
    cross_validation = FoldOptions(folds) if folds else None
    return TrainOptions(
        permutations=count, examples=ExampleOptions(seed=seed), folds=cross_validation, extraction=QUIET, **more
    )


def simulated(dim: int, signal: float, random: np.random.Generator, folds: int | None = None) -> RetrainingTest:
    """Labels of unequal sizes that features tell apart; the targets of labels depend on the features by a signal."""
    sizes = np.tile([1, 2, 3, 4, 6, 8], 3)
    label = np.repeat(np.arange(len(sizes)), sizes)
    centres, weights = random.normal(size=(len(sizes), FEATURES)), random.normal(size=(FEATURES, dim))
    x = centres[label] + random.normal(size=(len(label), FEATURES)) / 2
    y = (random.normal(size=(len(sizes), dim)) + signal * centres @ weights)[label]
    split = split_of(x, y, label, 48, "classes")  # the last six labels are held out
    test = retraining_test(split, options_of(20, int(random.integers(2**31 - 1)), folds))
    assert test is not None
    return test


def test_the_score_is_that_of_ridge_regression() -> None:
    random = np.random.default_rng(0)
    x, label = random.normal(size=(60, FEATURES)), np.arange(60) % 12
    y = x @ random.normal(size=(FEATURES, 20)) + 50
    split = split_of(x, y, label, 45)
    test = retraining_test(split, options_of(30))
    x, y = x.astype(np.float32), y.astype(np.float32)
    best = RidgeFolds(x[:45], y[:45], assign_folds(y[:45], np.arange(45), 0, 5)).best()
    mean = y[:45].mean(axis=0)
    expected = cosines(x[45:] @ best.coefficients + best.intercept - mean, y[45:] - mean).mean()
    assert test.score == pytest.approx(expected, abs=1e-5)
    assert test.p == pytest.approx(1 / 31)
    assert test.chance < 0.5 < expected
    how = test.permutations
    assert (how.count, how.kind, how.clusters, how.whole) == (30, "image", 45, False)
    assert test.sentence().startswith(
        "Ridge regression, trained again on 30 permutations of the targets among 45 image"
    )
    assert len(test.section().tables[0].rows) == 3


def test_one_dimension_is_scored_by_r() -> None:
    random = np.random.default_rng(0)
    x, label = random.normal(size=(60, FEATURES)).astype(np.float32), np.arange(60) % 12
    y = (x @ random.normal(size=(FEATURES, 1)) + random.normal(size=(60, 1))).astype(np.float32)
    test = retraining_test(split_of(x, y, label, 45), options_of(30))
    best = RidgeFolds(x[:45], y[:45], assign_folds(y[:45], np.arange(45), 0, 5)).best()
    expected = stats.pearsonr((x[45:] @ best.coefficients)[:, 0], y[45:, 0]).statistic
    assert (test.statistic, test.score) == ("r", pytest.approx(expected, abs=1e-5))
    assert test.p == pytest.approx(1 / 31)


@pytest.mark.parametrize(("different", "dim"), [(12, 2000), (60, 2000), (60, 7), (1, 5)])
def test_coordinates_keep_distances(different: int, dim: int) -> None:
    random = np.random.default_rng(0)
    targets = (5 + random.normal(size=(different, dim)).astype(np.float32))[np.arange(60) % different]
    coordinates = _coordinates(targets)
    assert coordinates.shape == (60, min(different - (different <= dim), dim))
    assert pdist(coordinates) == pytest.approx(pdist(targets), rel=1e-5)


def test_too_few_labels_give_no_p_value() -> None:
    random = np.random.default_rng(0)
    label = np.repeat([0, 1, 2, 3], [8, 8, 8, 6])
    split = split_of(random.normal(size=(30, 4)), random.normal(size=(4, 5))[label], label, 24, "classes")
    test = retraining_test(split, options_of(20))
    assert test.p is None
    assert "among 3 labels gives 6 different results" in test.sentence()
    assert test.section().tables == []


@pytest.mark.parametrize("folds", [None, 4])
@pytest.mark.parametrize(("rule", "kind"), [("random", "image"), ("classes", "label")])
def test_targets_are_permuted_among_labels_only_if_labels_are_held_out(rule: str, kind: str, folds: int | None) -> None:
    """Labels that are on both sides can be learned with permuted targets, too: permuting them would show nothing."""
    random = np.random.default_rng(0)
    label = random.permutation(np.arange(80) % 16) if rule == "random" else np.arange(80) // 5
    x = random.normal(size=(16, FEATURES))[label] + random.normal(size=(80, FEATURES)) / 2
    y = random.normal(size=(16, 20))[label]
    test = retraining_test(split_of(x, y, label, 60, rule), options_of(30, folds=folds))
    assert test.permutations.kind == kind
    assert (test.p == pytest.approx(1 / 31)) == (rule == "random")
    assert (test.score > test.chance_p95 + 0.1) == (rule == "random")


@pytest.mark.parametrize(("dim", "folds"), [(1, None), (20, None), (20, 3)])
def test_it_is_rarely_significant_without_a_signal(dim: int, folds: int | None) -> None:
    random, times = np.random.default_rng(dim), 100 if folds is None else 60
    p = np.array([simulated(dim, 0, random, folds).p for _ in range(times)])
    assert (p <= 1 / 21).sum() <= stats.binom.ppf(0.999, times, 1 / 21)
    assert 0.3 < p.mean() < 0.7


@pytest.mark.parametrize("folds", [None, 3])
def test_it_is_rarely_significant_if_features_tell_nothing_about_labels_of_unequal_sizes(folds: int | None) -> None:
    random, p = np.random.default_rng(2), []
    for _ in range(100):
        label = random.permutation(np.repeat(np.arange(14), random.integers(1, 14, 14, endpoint=True)))
        x, y = random.normal(size=(len(label), FEATURES)), random.normal(size=(14, 20))[label]
        split = split_of(x, y, label, len(x) * 4 // 5)
        p.append(retraining_test(split, options_of(20, int(random.integers(2**31 - 1)), folds)).p)
    assert (np.array(p) <= 1 / 21).sum() <= stats.binom.ppf(0.999, len(p), 1 / 21)
    assert 0.4 < np.mean(p) < 0.6


@pytest.mark.parametrize("folds", [None, 3])
def test_it_is_significant_with_a_signal(folds: int | None) -> None:
    random = np.random.default_rng(1)
    assert np.mean([simulated(20, 1, random, folds).p <= 0.05 for _ in range(10)]) >= 0.9


def test_too_little_memory_is_an_error_before_training() -> None:
    split = split_of(np.zeros((2000, 1000)), np.zeros((2000, 2)), np.arange(2000), 1500)
    check_memory(split, options_of(20))
    with pytest.raises(RequestError, match=r"takes about 0.2 GB, more than the memory budget of 0.1 GB. Raise memory"):
        check_memory(split, options_of(20, memory=100_000_000))
