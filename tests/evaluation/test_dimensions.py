import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

from pipeline.evaluation import dimensions
from pipeline.evaluation.dimensions import (
    correlations,
    dimension_scores,
    distribution,
    effective_rank,
    identification,
    identify,
    large_dimensions,
    z_scores,
)
from pipeline.evaluation.intervals import share_across

RANDOM = np.random.default_rng(0)
TARGETS = RANDOM.normal(loc=3, size=(40, 7)).astype(np.float32)
PREDICTIONS = TARGETS + RANDOM.normal(size=TARGETS.shape).astype(np.float32)


def identified(predictions: np.ndarray, targets: np.ndarray) -> list[float]:
    """Pairwise identification, pair by pair."""
    shares = []
    for row, prediction in enumerate(predictions):
        points = []
        own = np.corrcoef(prediction, targets[row])[0, 1]
        for target in targets:
            if not np.array_equal(target, targets[row]):
                other = np.corrcoef(prediction, target)[0, 1]
                points.append(0.5 if abs(own - other) < 1e-9 else float(own > other))
        shares.append(float(np.mean(points)))
    return shares


@pytest.fixture(params=[2**22, 50], ids=["one block", "blocks"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dimensions, "VALUES", request.param)


def test_dimension_scores_match_scipy_and_scikit_learn() -> None:
    scores = dimension_scores(PREDICTIONS, TARGETS)
    assert scores.pearson == pytest.approx(pearsonr(PREDICTIONS.astype(np.float64), TARGETS, axis=0).statistic)
    assert scores.r2 == pytest.approx(r2_score(TARGETS, PREDICTIONS, multioutput="raw_values"), abs=1e-6)


def test_r_is_averaged_over_folds_and_not_pooled() -> None:
    """Over all images, the mean baseline of folds correlates negatively with the targets."""
    folds = np.arange(40) % 8
    means = np.array([TARGETS[folds != fold].mean(axis=0) for fold in range(8)])
    assert dimension_scores(means[folds], TARGETS).pearson.max() < -0.3
    assert np.isnan(dimension_scores(means[folds], TARGETS, folds).pearson).all()
    shifted = PREDICTIONS + 3 * means[folds] * 10
    expected = [
        np.mean([pearsonr(shifted[folds == fold, d], TARGETS[folds == fold, d]).statistic for fold in range(8)])
        for d in range(7)
    ]
    assert dimension_scores(shifted, TARGETS, folds).pearson == pytest.approx(expected, abs=1e-4)
    pairs = dimension_scores(PREDICTIONS, TARGETS, np.arange(40) // 2)
    assert np.isnan(pairs.pearson).all()
    assert not np.isnan(pairs.r2).any()
    assert np.isnan(dimension_scores(PREDICTIONS[:2], TARGETS[:2]).pearson).all()


def test_large_dimensions_are_those_that_dominate_a_cosine() -> None:
    assert large_dimensions(np.eye(10)) == 9
    assert large_dimensions(RANDOM.normal(size=(50, 7)) * [100, 1, 1, 1, 1, 1, 1]) == 1
    assert large_dimensions(np.zeros((3, 2))) == 1


def test_a_constant_dimension_has_no_score() -> None:
    predictions, targets = PREDICTIONS.astype(np.float64), TARGETS.astype(np.float64)
    predictions[:, 0] = targets[:, 1] = 0.1
    scores = dimension_scores(predictions, targets)
    assert np.isnan(scores.pearson).tolist() == [True, True] + [False] * 5
    assert np.isnan(scores.r2).tolist() == [False, True] + [False] * 5
    assert scores.r2[0] < 0


def test_pattern_correlations_match_scipy_after_scikit_learns_scaling() -> None:
    training = RANDOM.normal(loc=3, scale=np.arange(7), size=(50, 7))  # the first dimension is constant
    scaler = StandardScaler().fit(training)
    predicted, true = (z_scores(vectors, training.mean(0), training.std(0)) for vectors in (PREDICTIONS, TARGETS))
    assert predicted == pytest.approx(scaler.transform(PREDICTIONS.astype(np.float64))[:, 1:])
    expected = [pearsonr(first, second).statistic for first, second in zip(predicted, true, strict=True)]
    assert correlations(predicted, true) == pytest.approx(expected)


def test_a_constant_pattern_has_no_correlation() -> None:
    predictions = PREDICTIONS.copy()
    predictions[3] = 0.1
    assert np.flatnonzero(np.isnan(correlations(predictions, TARGETS))).tolist() == [3]


@pytest.mark.usefixtures("_blocks")
def test_identification_matches_a_count_of_all_pairs() -> None:
    assert identification(PREDICTIONS, TARGETS) == pytest.approx(identified(PREDICTIONS, TARGETS))
    assert identification(TARGETS, TARGETS).tolist() == [1] * 40
    assert identification(-TARGETS, TARGETS).tolist() == [0] * 40
    rows = np.array([5, 2, 31])
    assert identification(PREDICTIONS[rows], TARGETS, rows) == pytest.approx(
        np.array(identified(PREDICTIONS, TARGETS))[rows]
    )


def test_identification_differs_from_a_count_of_all_pairs_if_targets_repeat() -> None:
    """bdpy counts an image with the same target as an alternative that is never distinguished."""
    similarity = np.corrcoef(PREDICTIONS, TARGETS)[:40, 40:]
    alternatives = (similarity < np.diag(similarity)[:, None]).sum(axis=1) / 39
    assert identification(PREDICTIONS, TARGETS) == pytest.approx(alternatives)
    repeated = TARGETS[np.arange(40) % 6]
    similarity = np.corrcoef(repeated, repeated)[:40, 40:]
    alternatives = (similarity < np.diag(similarity)[:, None] - 1e-9).sum(axis=1) / 39
    assert (identification(repeated, repeated) == 1).all()
    assert alternatives.max() < 1


@pytest.mark.usefixtures("_blocks")
def test_images_with_the_same_target_are_not_alternatives() -> None:
    repeated = TARGETS[np.arange(40) % 6]
    noisy = repeated + RANDOM.normal(size=repeated.shape, scale=2)
    assert identification(noisy, repeated) == pytest.approx(identified(noisy, repeated))
    assert identification(repeated, repeated).tolist() == [1] * 40
    assert np.isnan(identification(noisy, np.broadcast_to(TARGETS[0], noisy.shape))).all()


@pytest.mark.usefixtures("_blocks")
def test_indistinguishable_predictions_or_targets_identify_half() -> None:
    assert identification(np.full(TARGETS.shape, 0.1), TARGETS).tolist() == [0.5] * 40
    constant = np.concatenate([np.full((1, 7), 0.1), TARGETS])
    assert identification(np.full(constant.shape, 0.7), constant).tolist() == [0.5] * 41
    # Targets along one direction correlate equally with any prediction, despite rounding.
    together = np.array([[1.0], [3.0]]) * TARGETS[0] + 0.1
    assert identification(PREDICTIONS[:2], together).tolist() == [0.5, 0.5]
    unrelated = np.random.default_rng(1).normal(size=(400, 30))
    assert identification(unrelated, np.roll(unrelated, 7, axis=0)).mean() == pytest.approx(0.5, abs=0.03)


def test_effective_rank_counts_dimensions() -> None:
    basis = np.linalg.qr(RANDOM.normal(size=(50, 50)))[0]
    basis = np.linalg.qr(np.column_stack([np.ones(50), basis]))[0][:, 1:6]  # five directions without a mean
    assert effective_rank(basis @ np.eye(5, 8) + 100) == pytest.approx(5)
    singular = np.array([3, 1, 0.5, 0, 0])
    shares = singular[:3] / singular.sum()
    assert effective_rank(basis * singular) == pytest.approx(np.prod(shares**-shares))
    assert effective_rank(np.full((20, 3), 0.1)) is None


def test_a_distribution_counts_all_values() -> None:
    values = np.concatenate([RANDOM.uniform(-1, 1, 100), [-30, np.nan, np.nan, 1]])
    summary = distribution(values)
    assert [summary.lower_quartile, summary.median, summary.upper_quartile] == pytest.approx(
        np.nanpercentile(values, [25, 50, 75])
    )
    assert (sum(summary.counts), summary.undefined, len(summary.edges)) == (102, 2, len(summary.counts) + 1)
    assert summary.counts[0] == (values < summary.edges[1]).sum()
    assert json.loads(json.dumps(asdict(summary), allow_nan=False)) == asdict(summary)


def test_an_empty_distribution_has_no_median() -> None:
    summary = distribution(np.full(3, np.nan))
    assert (summary.lower_quartile, summary.median, summary.upper_quartile, summary.undefined) == (None, None, None, 3)


def counted_by_bdpy(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """bdpy's pairwise identification, from its definition: the share of the other rows that correlate strictly less."""
    size = len(targets)
    r = np.corrcoef(predictions, targets)[:size, size:]
    return (r < np.diag(r)[:, None]).sum(axis=1) / (size - 1)


@pytest.mark.parametrize("labels", [np.arange(40), np.arange(40) // 5, np.arange(40) % 2])
def test_identification_by_bdpys_definition(labels: np.ndarray) -> None:
    """Other images with the same target count as wrong, so that it is lower than ours."""
    result = identify(PREDICTIONS, TARGETS[labels])
    repeats = np.bincount(labels)[labels]
    # With equal targets, a tie is broken by rounding in a correlation matrix, so equal rows are compared as one.
    different, own = np.unique(TARGETS[labels], axis=0, return_inverse=True)
    r = np.corrcoef(PREDICTIONS, different)[:40, 40:]
    lower = (r < r[np.arange(40), own][:, None]) @ np.bincount(own)
    assert result.bdpy == pytest.approx(lower / 39, abs=1e-6)
    if repeats.max() == 1:
        assert result.bdpy == pytest.approx(counted_by_bdpy(PREDICTIONS, TARGETS), abs=1e-6)
        assert result.bdpy == pytest.approx(result.accuracy, abs=1e-6)
    else:
        assert result.bdpy == pytest.approx(result.accuracy * (40 - repeats) / 39, abs=1e-6)


def test_ties_are_wrong_by_bdpys_definition() -> None:
    assert identify(np.full(TARGETS.shape, 0.1), TARGETS).bdpy.tolist() == [0] * 40
    mirrored = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    result = identify(np.array([[1.0, 1.0, 0.0]] * 3), mirrored)
    assert (result.accuracy.tolist(), result.bdpy.tolist()) == ([0.75, 0.75, 0], [0.5, 0.5, 0])
    assert np.isnan(identify(TARGETS[:1], TARGETS[:1]).bdpy).all()


def test_profile_and_pattern_correlations_are_bdpys() -> None:
    """bdpy's profile correlation is our r of a dimension, its pattern correlation ours of an image."""
    profile = [np.corrcoef(predicted, target)[0, 1] for predicted, target in zip(PREDICTIONS.T, TARGETS.T, strict=True)]
    assert dimension_scores(PREDICTIONS, TARGETS).pearson == pytest.approx(profile, abs=1e-6)
    mean, deviation = RANDOM.normal(size=TARGETS.shape[1]), RANDOM.uniform(1, 2, TARGETS.shape[1])
    z_scored = [(rows - mean) / deviation for rows in (PREDICTIONS, TARGETS)]
    pattern = [np.corrcoef(predicted, target)[0, 1] for predicted, target in zip(*z_scored, strict=True)]
    ours = correlations(*(z_scores(rows, mean, deviation) for rows in (PREDICTIONS, TARGETS)))
    assert ours == pytest.approx(pattern, abs=1e-6)


@pytest.mark.filterwarnings("ignore:NaN", "ignore:invalid value", "ignore:divide by zero")
def test_scores_are_those_of_bdpy() -> None:
    """With constant columns, constant rows and repeated targets."""
    bdpy = pytest.importorskip("bdpy.evals.metrics", reason="bdpy has no version for this Python")
    predictions, targets = PREDICTIONS.copy(), TARGETS[np.arange(40) % 15]
    predictions[:, 2] = targets[:, 3] = 1
    profile = bdpy.profile_correlation(predictions, targets)[0]
    assert np.flatnonzero(np.isnan(profile)).tolist() == [2, 3]
    assert dimension_scores(predictions, targets).pearson == pytest.approx(profile, abs=1e-6, nan_ok=True)
    predictions[7] = 0.1
    mean, deviation = targets.mean(axis=0), targets.std(axis=0)
    pattern = bdpy.pattern_correlation(predictions, targets, mean, deviation)
    z_scored = [z_scores(rows, mean, deviation) for rows in (predictions, targets)]
    assert correlations(*z_scored) == pytest.approx(pattern, abs=1e-6, nan_ok=True)
    identified = bdpy.pairwise_identification(predictions, targets)
    assert identify(predictions, targets).bdpy == pytest.approx(identified, abs=1e-6)


def test_influences_give_the_jackknife_of_mean_identification() -> None:
    """Without an image, its own accuracy and its part in the others' accuracies are gone."""
    random = np.random.default_rng(0)
    targets = random.normal(size=(20, 5))
    predictions = targets + random.normal(size=targets.shape)
    accuracy, influence, _ = identify(predictions, targets)
    assert accuracy.tolist() == identification(predictions, targets).tolist()
    assert influence.mean() == pytest.approx(accuracy.mean(), abs=1e-12)
    for row in range(20):
        rest = np.delete(np.arange(20), row)
        as_alternative = influence[row] - accuracy[row] + (20 * accuracy.mean() - accuracy[row]) / 19
        without = (20 * accuracy.mean() - accuracy[row] - as_alternative) / 18
        assert identification(predictions[rest], targets[rest]).mean() == pytest.approx(without, abs=1e-12)


def test_intervals_of_identification_cover_new_labels() -> None:
    """From the accuracies alone, as if the alternatives did not vary, they would be too narrow."""
    random, labels = np.random.default_rng(0), np.repeat(np.arange(20), 3)
    means, intervals, naive = [], [], []
    for _ in range(400):
        targets = random.normal(size=(20, 2))
        predictions = (targets + 0.2 * random.normal(size=targets.shape))[labels] + 0.2 * random.normal(size=(60, 2))
        accuracy, influence, _ = identify(predictions, targets[labels])
        means.append(accuracy.mean())
        intervals.append(share_across(influence, labels))
        naive.append(share_across(accuracy, labels))
    truth = np.mean(means)
    covered, too_narrow = (
        [interval.low <= truth <= interval.high for interval in some if interval] for some in (intervals, naive)
    )
    assert len(covered) > 380
    assert 0.92 <= np.mean(covered) <= 0.98
    assert np.mean(too_narrow) < 0.92
