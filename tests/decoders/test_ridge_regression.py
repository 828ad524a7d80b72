import numpy as np
import pytest
from sklearn.linear_model import Ridge as Reference

from pipeline.decoders.ridge_regression import PENALTIES, Moments, RidgePath, fit_ridge


@pytest.fixture(params=[(60, 8), (30, 80)], ids=["more images than features", "fewer"])
def problem(request):
    random = np.random.default_rng(0)
    rows, features = request.param
    x = (random.normal(size=(rows, features)) * random.uniform(0.2, 2, features) + 3).astype(np.float32)
    truth = random.normal(size=(features, 3)) * [1, 0.2, 0]
    y = (x @ truth + random.normal(size=(rows, 3))).astype(np.float32)
    return x, y, np.arange(rows) % 5


def reference(x, y, folds, scale):
    """Squared errors out of fold, (penalties, targets), from scikit-learn."""
    errors = np.zeros((len(PENALTIES), y.shape[1]))
    for fold in np.unique(folds):
        train, other = folds != fold, folds == fold
        for number, penalty in enumerate(PENALTIES * scale(x[train])):
            model = Reference(alpha=penalty).fit(x[train].astype(np.float64), y[train])
            errors[number] += ((model.predict(x[other]) - y[other]) ** 2).sum(axis=0)
    return errors


def mean_squared_length(x):
    return float(((x - x.mean(axis=0, dtype=np.float64)) ** 2).sum() / len(x))


def test_chooses_and_fits_as_scikit_learn_does(problem):
    x, y, folds = problem
    errors = reference(x, y, folds, mean_squared_length)
    together, each = fit_ridge(x, y, folds)
    one = PENALTIES[errors.sum(axis=1).argmin()] * mean_squared_length(x)
    several = PENALTIES[errors.argmin(axis=0)] * mean_squared_length(x)
    assert np.allclose(together.ridge.penalties, one, rtol=1e-5)
    assert np.allclose(each.ridge.penalties, several, rtol=1e-5)
    for choice, penalty in ((together, np.full(3, one)), (each, several)):
        expected = Reference(alpha=penalty).fit(x.astype(np.float64), y)
        assert np.allclose(choice.ridge.predict(x), expected.predict(x), atol=1e-3)


def test_out_of_fold_predictions_and_their_error(problem):
    x, y, folds = problem
    choice, _ = fit_ridge(x, y, folds)
    errors = reference(x, y, folds, mean_squared_length)
    assert choice.error == pytest.approx(((choice.out_of_fold - y) ** 2).mean(), rel=1e-5)
    assert choice.error == pytest.approx(errors.sum(axis=1).min() / y.size, rel=1e-3)


def test_equal_features_leave_the_mean_target():
    x, y = np.ones((6, 4), np.float32), np.arange(12, dtype=np.float32).reshape(6, 2)
    for choice in fit_ridge(x, y, np.arange(6) % 3):
        assert np.allclose(choice.ridge.predict(x), y.mean(axis=0), atol=1e-4)


def test_moments_of_parts_add_up():
    random = np.random.default_rng(1)
    x, y = random.normal(size=(20, 5)), random.normal(size=(20, 2))
    whole = Moments.of(x, y, np.arange(20))
    rest = whole - Moments.of(x, y, np.arange(7))
    again = RidgePath(rest + Moments.of(x, y, np.arange(7)))
    assert np.allclose(again.predictions(x), RidgePath(whole).predictions(x))
