import numpy as np
import pytest

from pipeline.evaluation.cka import unbiased_cka


def hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al.'s unbiased estimator, from their formula."""
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    n = len(k)
    together = np.trace(k @ m) + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k @ m).sum() / (n - 2)
    return float(together / (n * (n - 3)))


@pytest.mark.parametrize("count", [4, 5, 30])
def test_cka_follows_its_formula(count: int) -> None:
    random = np.random.default_rng(count)
    x = random.normal(loc=2, size=(count, 7))
    y = x @ random.normal(size=(7, 3)) + random.normal(size=(count, 3))
    own_x, own_y = hsic(x, x), hsic(y, y)
    if own_x > 0 and own_y > 0:
        assert unbiased_cka(x, y) == pytest.approx(hsic(x, y) / np.sqrt(own_x * own_y), abs=1e-9)


def test_cka_is_1_for_rotations_and_near_0_for_unrelated_vectors_of_any_dimension() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 6))
    rotation = np.linalg.qr(random.normal(size=(6, 6)))[0]
    assert unbiased_cka(x, 3 * x @ rotation + 1) == pytest.approx(1)
    unrelated = [unbiased_cka(x, random.normal(size=(40, 500))) for _ in range(30)]
    assert np.mean(unrelated) == pytest.approx(0, abs=0.05)
    assert unbiased_cka(x, np.ones((40, 3))) is None
