import numpy as np
import pytest

from pipeline.core.vectors import cosines
from pipeline.decoders.stacking import reliability, stack

RANDOM = np.random.default_rng(0)


def out_of_fold_ridge(x: np.ndarray, y: np.ndarray, folds: np.ndarray, penalty: float) -> np.ndarray:
    predicted = np.empty_like(y)
    for fold in np.unique(folds):
        training = folds != fold
        mean_x, mean_y = x[training].mean(axis=0), y[training].mean(axis=0)
        centred = x[training] - mean_x
        gram = centred.T @ centred + penalty * np.eye(x.shape[1])
        solution = np.linalg.solve(gram, centred.T @ (y[training] - mean_y))
        predicted[~training] = (x[~training] - mean_x) @ solution + mean_y
    return predicted


def problem(count: int, noise: float, mean: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 3))
    y = x @ random.normal(size=(3, 20)) + noise * random.normal(size=(count, 20)) + mean
    return x.astype(np.float32), y.astype(np.float32), np.arange(count) % 5


def test_deviations_are_relative_to_the_mean_of_the_fold() -> None:
    """Relative to the overall mean, a good candidate with few images seems anti-correlated with the targets."""
    for seed in range(4):
        x, y, folds = problem(20, noise=3.0, mean=0.0, seed=seed)
        shares = stack([out_of_fold_ridge(x, y, folds, 1.0)], y, np.arange(20), folds, np.arange(20))
        assert shares.candidates[0] > 0.05


def test_the_better_candidate_gets_the_larger_share_and_noise_gets_none() -> None:
    x, y, folds = problem(60, noise=0.5, mean=1.0, seed=0)
    good = out_of_fold_ridge(x, y, folds, 1.0)
    noise = y.mean(axis=0) + RANDOM.normal(size=y.shape).astype(np.float32)
    shares = stack([noise, good], y, np.arange(60), folds, np.arange(60))
    assert shares.candidates[1] > 0.9
    assert shares.candidates[0] < 0.02


def test_shares_add_up_to_at_most_one_and_are_not_negative() -> None:
    x, y, folds = problem(40, noise=1.0, mean=0.0, seed=1)
    candidates = [out_of_fold_ridge(x, y, folds, penalty) for penalty in (0.1, 10.0, 1000.0)]
    shares = stack(candidates, y, np.arange(40), folds, np.arange(40))
    assert (shares.candidates >= 0).all()
    assert shares.candidates.sum() <= 1 + 1e-6


def test_the_blend_is_the_mean_target_if_nothing_is_better() -> None:
    y = (5 + RANDOM.normal(size=(40, 10))).astype(np.float32)
    folds = np.arange(40) % 5
    noise = [out_of_fold_ridge(RANDOM.normal(size=(40, 8)), y, folds, 1.0) for _ in range(3)]
    shares = stack(noise, y, np.arange(40), folds, np.arange(40))
    assert shares.candidates.sum() < 0.2
    assert shares.mean > 0.9


def test_images_of_one_unit_count_as_one_observation() -> None:
    x, y, folds = problem(60, noise=6.0, mean=1.0, seed=3)
    candidate = [out_of_fold_ridge(x, y, folds, 1.0)]
    alone, together = (stack(candidate, y, np.arange(60), folds, units) for units in (np.arange(60), folds))
    assert together.candidates[0] < alone.candidates[0]


def test_a_single_dimension_is_scored_by_squared_error() -> None:
    x, y, folds = problem(80, noise=0.5, mean=0.0, seed=2)
    y = y[:, :1]
    good = out_of_fold_ridge(x, y, folds, 1.0)
    shares = stack([30 * good], y, np.arange(80), folds, np.arange(80))  # with signs as correct as those of `good`
    assert 30 * shares.candidates[0] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_shares_do_not_depend_on_the_unit(scale: float) -> None:
    x, y, folds = problem(30, noise=1.0, mean=0.5, seed=5)
    good = out_of_fold_ridge(x, y, folds, 1.0)
    expected = stack([good], y, np.arange(30), folds, np.arange(30))
    shares = stack([good * np.float32(scale)], y * np.float32(scale), np.arange(30), folds, np.arange(30))
    np.testing.assert_allclose(shares.candidates, expected.candidates, atol=1e-3)


def test_one_dimension_of_large_scale_does_not_dominate() -> None:
    x, y, folds = problem(60, noise=1.0, mean=0.0, seed=6)
    good, bad = out_of_fold_ridge(x, y, folds, 1.0), y.mean(axis=0) + RANDOM.normal(size=y.shape)
    bad[:, 0] = good[:, 0]
    wide = np.ones(20)
    wide[0] = 100
    candidates = [(candidate * wide).astype(np.float32) for candidate in (bad, good)]
    shares = stack(candidates, (y * wide).astype(np.float32), np.arange(60), folds, np.arange(60))
    assert shares.candidates[1] > 5 * shares.candidates[0]


def test_reliability_of_the_mean_target() -> None:
    noise = RANDOM.normal(size=(50, 40))
    assert reliability(noise) < 0.3
    assert reliability(noise + 3) > 0.95
    assert reliability(np.zeros((5, 3))) == 1
    assert reliability(noise[:1]) == 1


def test_a_blend_scores_better_than_the_mean_target() -> None:
    x, y, folds = problem(40, noise=1.0, mean=1.0, seed=8)
    good = out_of_fold_ridge(x, y, folds, 1.0)
    shares = stack([good], y, np.arange(40), folds, np.arange(40))
    mean = y.mean(axis=0)
    blended = shares.mean * mean + shares.candidates[0] * (good - mean)
    assert cosines(blended, y).mean() > cosines(np.broadcast_to(mean, y.shape), y).mean() + 0.1
