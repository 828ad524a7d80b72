import tracemalloc

import numpy as np
import pytest
from sklearn.linear_model import Ridge as Reference

from pipeline.decoders.ridge import PENALTIES, Moments, RidgeFolds, RidgePath, fit_ridge


@pytest.fixture(params=[(60, 8), (30, 80)], ids=["more images than features", "fewer"])
def problem(request):
    random = np.random.default_rng(0)
    rows, features = request.param
    x = (random.normal(size=(rows, features)) * random.uniform(0.2, 2, features) + 3).astype(np.float32)
    truth = random.normal(size=(features, 3)) * [1, 0.2, 0]
    y = (x @ truth + random.normal(size=(rows, 3))).astype(np.float32)
    return x, y, np.arange(rows) % 5


def reference(x, y, folds, scale):
    """Out-of-fold squared errors, (penalties, targets), from scikit-learn."""
    errors = np.zeros((len(PENALTIES), y.shape[1]))
    for fold in np.unique(folds):
        train, other = folds != fold, folds == fold
        for number, penalty in enumerate(PENALTIES * scale(x[train])):
            model = Reference(alpha=penalty).fit(x[train].astype(np.float64), y[train])
            errors[number] += ((model.predict(x[other]) - y[other]) ** 2).sum(axis=0)
    return errors


def mean_squared_length(x):
    return float(((x - x.mean(axis=0, dtype=np.float64)) ** 2).sum() / len(x))


def test_ridge_chooses_and_fits_like_scikit_learn(problem):
    x, y, folds = problem
    errors = reference(x, y, folds, mean_squared_length).sum(axis=1)
    penalty = PENALTIES[errors.argmin()] * mean_squared_length(x)
    expected = Reference(alpha=penalty).fit(x.astype(np.float64), y)
    ridge = RidgeFolds(x, y, folds).best()
    assert np.allclose(x @ ridge.coefficients + ridge.intercept, expected.predict(x), atol=1e-3)


def test_squared_errors_follow_from_moments_alone(problem):
    x, y, folds = problem
    held_out = folds == 0
    path = RidgePath(Moments.of(x, y, np.flatnonzero(~held_out)))
    expected = ((path.predictions(x[held_out], PENALTIES) - y[held_out]) ** 2).sum(axis=(1, 2))
    squared_errors = path.squared_errors(Moments.of(x, y, np.flatnonzero(held_out)), PENALTIES)
    assert np.allclose(squared_errors, expected, rtol=1e-4)


def test_out_of_fold_predictions_are_fitted_to_the_other_folds(problem):
    x, y, folds = problem
    rows, penalties = np.flatnonzero(folds < 2), np.array([0.1, 10.0])
    regressions = RidgeFolds(x, y, folds)
    out_of_fold = regressions.out_of_fold(rows, penalties)
    for number, penalty in enumerate(penalties):
        for fold in (0, 1):
            train = folds != fold
            model = Reference(alpha=penalty * mean_squared_length(x[train])).fit(x[train].astype(np.float64), y[train])
            held_out = folds[rows] == fold
            expected = model.predict(x[rows[held_out]])
            assert np.allclose(out_of_fold[number][held_out], expected, atol=1e-2)
    ridge = regressions.blend(penalties, np.array([0.5, 0.25]))
    models = [Reference(alpha=penalty * mean_squared_length(x)).fit(x.astype(np.float64), y) for penalty in penalties]
    mean = y.mean(axis=0)
    expected = mean + 0.5 * (models[0].predict(x) - mean) + 0.25 * (models[1].predict(x) - mean)
    assert np.allclose(x @ ridge.coefficients + ridge.intercept, expected, atol=1e-2)


def test_wide_targets_are_fitted_in_blocks_with_one_penalty(problem, monkeypatch):
    """The penalty is that of the dimensions that are compared: the best for the second half, or for the first."""
    x, y, folds = problem
    monkeypatch.setattr("pipeline.decoders.ridge.COMPARED", 5)
    monkeypatch.setattr("pipeline.decoders.ridge.VALUES", 4 * 1024)
    wide = np.hstack([y, 1e3 * y + 7, y[::-1]])
    compared = np.sort(np.random.default_rng(0).choice(9, 5, replace=False))
    errors = reference(x, wide[:, compared], folds, mean_squared_length).sum(axis=1)
    model = Reference(alpha=PENALTIES[errors.argmin()] * mean_squared_length(x)).fit(x.astype(np.float64), wide)
    ridge = fit_ridge(x, wide, folds)
    assert ridge.coefficients.dtype == ridge.intercept.dtype == np.float32
    assert np.allclose(x @ ridge.coefficients + ridge.intercept, model.predict(x), rtol=1e-4, atol=1e-3)
    alone = fit_ridge(x, wide, np.zeros(len(x), int))
    assert np.allclose(x @ alone.coefficients + alone.intercept, wide.mean(axis=0), rtol=1e-4)


def test_the_memory_of_wide_targets_is_that_of_their_coefficients():
    random = np.random.default_rng(0)
    x, y = (random.normal(size=(200, width)).astype(np.float32) for width in (50, 100_000))
    tracemalloc.start()
    ridge = fit_ridge(x, y, np.arange(200) % 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < ridge.coefficients.nbytes + 40e6  # of all folds, the sums take 10 times the coefficients


@pytest.mark.parametrize("value", [0.0, 0.3, 1e4])
def test_constant_features_predict_the_mean_target(value):
    x, y = np.full((6, 4), value, np.float32), np.arange(12, dtype=np.float32).reshape(6, 2)
    ridge = RidgeFolds(x, y, np.arange(6) % 3).best()
    assert np.allclose(x @ ridge.coefficients + ridge.intercept, y.mean(axis=0), atol=1e-4)


def test_one_fold_predicts_the_mean_target(problem):
    x, y, _ = problem
    ridge = RidgeFolds(x, y, np.zeros(len(x), int)).best()
    assert np.allclose(x @ ridge.coefficients + ridge.intercept, y.mean(axis=0), atol=1e-4)


def test_a_constant_feature_has_no_effect(problem):
    x, y, folds = problem
    ridge = RidgeFolds(np.hstack([x, np.full((len(x), 1), 0.3, np.float32)]), y, folds).best()
    expected = RidgeFolds(x, y, folds).best()
    assert np.abs(ridge.coefficients[-1]).max() < 1e-6
    assert np.allclose(ridge.coefficients[:-1], expected.coefficients, atol=1e-3)


def test_moments_of_parts_add_up():
    random = np.random.default_rng(1)
    x, y = random.normal(size=(20, 5)), random.normal(size=(20, 2))
    whole = Moments.of(x, y, np.arange(20))
    added = Moments.of(x, y, np.arange(7)) + Moments.of(x, y, np.arange(7, 20))
    for name in ("x", "y", "xx", "xy", "yy"):
        assert np.allclose(getattr(added, name), getattr(whole, name))


def test_moments_are_precise_far_from_zero():
    random = np.random.default_rng(1)
    x, y = random.normal(size=(3000, 3)), random.normal(size=(3000, 2))
    near, far = Moments.of(x, y, np.arange(3000)), Moments.of(x + 1e7, y - 1e7, np.arange(3000))
    assert np.allclose(far.xx, near.xx, rtol=1e-6)
    assert np.allclose(far.xy, near.xy, rtol=1e-6, atol=1e-4)


class Streamed:
    """Features that are generated when they are read, as if they were on disk."""

    def __init__(self, rows, features):
        self.shape, self.dtype = (rows, features), np.dtype(np.float32)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        rows = np.arange(len(self))[rows]
        return np.sin(rows[:, None] * np.arange(1, self.shape[1] + 1, dtype=np.float32)).astype(np.float32)


def test_memory_does_not_grow_with_the_number_of_images():
    x = Streamed(30_000, 16)
    y = np.random.default_rng(0).normal(size=(30_000, 20)).astype(np.float32)
    tracemalloc.start()
    RidgeFolds(x, y, np.arange(30_000) % 5).best()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < y.nbytes  # predictions for all penalties would take 25 times as much
