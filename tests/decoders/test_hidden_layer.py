import numpy as np
import pytest

from pipeline.decoders.hidden_layer import HiddenLayer

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3)])
def test_a_linear_map_is_a_hidden_layer(shape: tuple[int, int]) -> None:
    coefficients, intercept, x = (
        RANDOM.normal(size=shape),
        RANDOM.normal(size=shape[1]),
        RANDOM.normal(size=(5, shape[0])),
    )
    network = HiddenLayer.linear(coefficients, intercept)
    assert network.kernel.shape[1] == 2 * min(shape)
    assert np.allclose(network(x), x @ coefficients + intercept)


def test_a_blend_shares_the_deviations_from_the_mean() -> None:
    x, mean = RANDOM.normal(size=(6, 4)), RANDOM.normal(size=3)
    parts = [HiddenLayer.linear(RANDOM.normal(size=(4, 3)), RANDOM.normal(size=3)) for _ in range(3)]
    shares = np.array([0.5, 0.2, 0.7])
    expected = 0.9 * mean + sum(share * (part(x) - mean) for part, share in zip(parts, shares, strict=True))
    assert np.allclose(HiddenLayer.blend(parts, shares, mean, 0.9)(x), expected)
