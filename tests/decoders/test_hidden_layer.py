import numpy as np
import pytest

from pipeline.decoders.hidden_layer import Coordinates, HiddenLayer, orthogonal_directions

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


def test_shares_scale_the_deviations_from_the_mean() -> None:
    x, mean = RANDOM.normal(size=(6, 4)), RANDOM.normal(size=3)
    parts = [HiddenLayer.linear(RANDOM.normal(size=(4, 3)), RANDOM.normal(size=3)) for _ in range(3)]
    shares = np.array([0.5, 0.2, 0.7])
    expected = 0.9 * mean + sum(share * (part(x) - mean) for part, share in zip(parts, shares, strict=True))
    assert np.allclose(HiddenLayer.blend(parts, shares, mean, 0.9)(x), expected)


X = np.random.default_rng(0).normal(size=(12, 40)).astype(np.float32)


def test_coordinates_preserve_distances_between_training_images() -> None:
    coordinates = Coordinates.of(X, seed=0)
    standardised = coordinates.standardise(X)
    assert np.allclose(standardised, (X - X.mean(axis=0)) / X.var(axis=0).mean() ** 0.5, atol=1e-4)
    z = coordinates(standardised) / coordinates.stretch
    assert z.shape[1] < 12
    assert np.allclose(z @ z.T, standardised @ standardised.T, atol=1e-3)


def test_a_network_on_coordinates_equals_one_on_features() -> None:
    coordinates = Coordinates.of(X, seed=0)
    standardised = coordinates.standardise(X)
    z = coordinates(standardised)
    network = HiddenLayer.linear(np.random.default_rng(1).normal(size=(z.shape[1], 3)), np.ones(3))
    assert np.allclose(coordinates.on_features(network)(standardised), network(z), atol=1e-3)


def test_with_more_images_than_features_nothing_is_projected() -> None:
    coordinates = Coordinates.of(X.T.copy(), seed=0)
    standardised = coordinates.standardise(X.T)
    assert np.array_equal(coordinates(standardised), standardised)


def test_directions_are_orthogonal_within_blocks() -> None:
    directions = orthogonal_directions(4, 10, np.random.default_rng(0))
    assert directions.shape == (4, 10)
    assert np.allclose(directions[:, :4].T @ directions[:, :4], np.eye(4))
    assert np.allclose(np.linalg.norm(directions, axis=0), 1)
