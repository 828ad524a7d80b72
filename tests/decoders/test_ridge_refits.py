import numpy as np
import pytest

from pipeline.decoders.ridge import RidgeFolds
from pipeline.decoders.ridge_refits import RidgeRefits


@pytest.mark.parametrize(("images", "features", "dim"), [(60, 100, 7), (100, 20, 7), (60, 10, 1), (30, 30, 3)])
def test_refits_agree_with_ridge_regression_on_folds(images: int, features: int, dim: int) -> None:
    """With more features than images, and fewer; features and targets are far from zero."""
    random = np.random.default_rng(images)
    x, new = (5 + random.normal(size=(count, features)).astype(np.float32) for count in (images, 20))
    y = x @ random.normal(size=(features, dim)) + 10 * random.normal(size=(images, dim)) + 100
    folds = random.integers(0, 5, images)
    refits = RidgeRefits(x, folds, new)
    for targets in (y, random.permutation(y)):
        best = RidgeFolds(x, targets, folds).best()
        expected = new @ best.coefficients + best.intercept - targets.mean(axis=0)
        assert refits.deviations(targets) == pytest.approx(expected, abs=2e-4)


def test_a_single_fold_predicts_the_mean_target() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(9, 4)).astype(np.float32), random.normal(size=(9, 2))
    assert not RidgeRefits(x, np.zeros(9, int), x).deviations(y).any()
