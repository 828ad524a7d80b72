import numpy as np
import pytest
import reference

from pipeline.core.errors import RequestError
from pipeline.features.pooling import Pooling, cell_weights

PLANES = np.random.default_rng(0).normal(size=(2, 3, 7, 7)).astype(np.float32)


@pytest.mark.parametrize("text", ["mean", "max", "flat", "grid:1", "grid:2", "grid:3", "grid:7"])
def test_pooling_agrees_with_the_reference(text: str) -> None:
    ours = Pooling.parse(text)(PLANES)
    expected = [reference.pooled(image.transpose(1, 2, 0).astype(np.float64), text) for image in PLANES]
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert ours.shape[1] == 3 * Pooling.parse(text).sides(7) ** 2


def test_all_positions_have_the_same_weight() -> None:
    weights = cell_weights(3, 7)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=0), 3 / 7, rtol=1e-6)


def test_windows_are_converted_to_positions() -> None:
    assert Pooling.parse("grid:2").window(14) == 7
    assert Pooling.parse("grid:2").window(7) is None
    assert (Pooling().window(7), Pooling("flat").window(7)) == (7, 1)


@pytest.mark.parametrize("text", ["", "grid", "grid:0", "grid:-1", "grid:1000", "mean:2", "median"])
def test_other_poolings_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="choose from mean, max, grid:N or flat"):
        Pooling.parse(text)
