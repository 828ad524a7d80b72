from collections.abc import Callable

import numpy as np
import pytest

from pipeline.evaluation.noise_ceiling import (
    correlation_ceiling,
    cosine_ceiling,
    noise_corrected,
    split_half_reliability,
)

COUNTS = {
    "pairs": [2],
    "odd numbers": [3],
    "six": [6],
    "unequal numbers": [2, 3, 5, 8],
}


def measured(signal: np.ndarray, noise: np.ndarray | float, counts: list[int], seed: int = 1) -> list[np.ndarray]:
    """Repeats of each image, cycling through the numbers of repeats."""
    random = np.random.default_rng(seed)
    numbers = np.resize(counts, len(signal))
    return [row + noise * random.normal(size=(n, len(row))) for row, n in zip(signal, numbers, strict=True)]


def means(repeats: list[np.ndarray]) -> np.ndarray:
    return np.array([targets.mean(axis=0) for targets in repeats])


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_reliability_is_the_share_of_signal_in_the_variance(counts: list[int]) -> None:
    noise = np.array([0.1, 0.5, 1, 2])
    signal = np.random.default_rng(0).normal(size=(3000, 4))
    reliability = split_half_reliability(measured(signal, noise, counts), splits=10)
    known = 1 / (1 + noise**2 * np.mean(1 / np.array(counts)))
    assert reliability == pytest.approx(known, abs=0.04)


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_a_perfect_prediction_reaches_the_ceiling_of_r(counts: list[int]) -> None:
    signal = np.random.default_rng(0).normal(size=(3000, 4))
    repeats = measured(signal, 1.0, counts)
    reached = np.array([np.corrcoef(signal[:, d], means(repeats)[:, d])[0, 1] for d in range(4)])
    reliability = split_half_reliability(repeats, splits=10)
    assert correlation_ceiling(reliability) == pytest.approx(reached, abs=0.03)
    assert noise_corrected(reached, reliability) == pytest.approx(1, abs=0.04)


def test_classic_spearman_brown_for_two_repeats() -> None:
    repeats = measured(np.random.default_rng(0).normal(size=(500, 3)), 0.7, [2])
    first, second = np.moveaxis(np.array(repeats), 1, 0)
    r = np.array([np.corrcoef(first[:, d], second[:, d])[0, 1] for d in range(3)])
    assert split_half_reliability(repeats) == pytest.approx(2 * r / (1 + r), abs=0.01)


def test_pure_noise_and_constants_have_no_ceiling() -> None:
    opposed = [sign * np.array([[1.0], [-1.0], [0.0]]) for sign in (1, 2, -1, -2)]
    reliability = split_half_reliability(opposed)
    assert np.isnan(reliability).all()
    assert np.isnan(correlation_ceiling(reliability)).all()
    assert np.isnan(noise_corrected(np.array([0.3]), reliability)).all()
    assert np.isnan(split_half_reliability([np.full((2, 1), 0.1)] * 3)).all()


def test_dimensions_of_noise_are_not_reliable() -> None:
    """Clipped at 0, their reliability would average 0.13 for 50 images, and r would be divided by it."""
    noise = split_half_reliability(measured(np.zeros((50, 200)), 1.0, [4]))
    assert np.isnan(noise).mean() > 0.98
    half = np.random.default_rng(0).normal(size=(200, 100)) * (np.arange(100) < 50)
    reliability = split_half_reliability(measured(half, 1.0, [4]), splits=20)
    assert (~np.isnan(reliability[:50])).all()
    assert np.isnan(reliability[50:]).mean() > 0.9
    assert np.isnan(noise_corrected(np.ones(100), reliability)[50:]).mean() > 0.9


def correlated(random: np.random.Generator, images: int, dims: int) -> np.ndarray:
    """Vectors with adjacent dimensions correlated by 0.9."""
    apart = np.abs(np.subtract.outer(np.arange(dims), np.arange(dims)))
    return random.normal(size=(images, dims)) @ np.linalg.cholesky(0.9**apart).T


def unit_length(random: np.random.Generator, images: int, dims: int) -> np.ndarray:
    vectors = random.normal(size=(images, dims))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def sparse(random: np.random.Generator, images: int, dims: int) -> np.ndarray:
    """Signal in 5 % of the dimensions."""
    return random.normal(size=(images, dims)) * (np.arange(dims) < dims // 20)


def independent(random: np.random.Generator, images: int, dims: int) -> np.ndarray:
    return random.normal(size=(images, dims))


def with_common_part(random: np.random.Generator, images: int, dims: int) -> np.ndarray:
    return random.normal(size=(images, dims)) + random.normal(size=(images, 1))


@pytest.mark.parametrize(
    ("signal", "dims", "noise", "strength"),
    [
        (independent, 50, independent, 2.0),
        (unit_length, 50, independent, 0.3),
        (correlated, 50, correlated, 2.0),
        (sparse, 100, independent, 0.5),
        (independent, 50, with_common_part, 1.0),
        (independent, 5, independent, 1.0),
    ],
)
def test_the_ceiling_of_the_cosine_holds_for_correlated_and_sparse_targets(
    signal: Callable, dims: int, noise: Callable, strength: float
) -> None:
    random, errors = np.random.default_rng(0), []
    for _ in range(3):
        true = signal(random, 500, dims)
        repeats = np.stack([true + strength * noise(random, 500, dims) for _ in range(2)], axis=1)
        mean = repeats.mean(axis=1)
        reached = (true * mean).sum(axis=1) / np.linalg.norm(true, axis=1) / np.linalg.norm(mean, axis=1)
        errors.append(cosine_ceiling(list(repeats), splits=5).cosine - reached.mean())
    assert np.mean(errors) == pytest.approx(0, abs=0.025)


def test_the_interval_covers_the_ceiling() -> None:
    random, hits = np.random.default_rng(0), 0
    for _ in range(20):
        true = random.normal(size=(60, 20))
        ceiling = cosine_ceiling(list(true[:, None] + random.normal(size=(60, 2, 20))), splits=2)
        mean = true + random.normal(size=(50, 60, 20)) / 2**0.5
        reached = (true * mean).sum(axis=2) / np.linalg.norm(true, axis=1) / np.linalg.norm(mean, axis=2)
        assert ceiling.low < ceiling.cosine < ceiling.high
        hits += ceiling.low <= reached.mean() <= ceiling.high
    assert hits >= 17


@pytest.mark.parametrize("images", [5, 20, 50])
def test_pure_noise_has_no_ceiling(images: int) -> None:
    """With noise 5 an estimated ceiling would be 0.12 to 0.24 too high."""
    signal = np.random.default_rng(0).normal(size=(images, 50))
    for seed in range(5):
        assert cosine_ceiling(measured(signal, 5.0, [2], seed), splits=5) is None
        assert cosine_ceiling(measured(np.zeros((images, 50)), 1.0, [2], seed), splits=5) is None


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize(
    ("dims", "noise", "spread"),
    [(5, 1.0, 0.0), (20, 1.5, 0.0), (20, 1.0, 0.7), (100, 0.5, 0.3), (100, 1.5, 0.7)],
)
def test_a_perfect_prediction_reaches_the_ceiling_of_the_cosine(
    dims: int, noise: float, spread: float, counts: list[int]
) -> None:
    random = np.random.default_rng(0)
    signal = random.normal(size=(1000, dims)) * np.exp(spread * random.normal(size=(1000, 1)))
    repeats = measured(signal, noise, counts)
    true = means(repeats)
    reached = (signal * true).sum(axis=1) / np.linalg.norm(signal, axis=1) / np.linalg.norm(true, axis=1)
    assert cosine_ceiling(repeats, splits=20).cosine == pytest.approx(reached.mean(), abs=0.02)


def test_targets_without_noise_have_a_ceiling_of_one() -> None:
    repeats = measured(np.random.default_rng(0).normal(size=(20, 6)), 0.0, [2, 3])
    assert cosine_ceiling(repeats).cosine == pytest.approx(1)
    assert split_half_reliability(repeats) == pytest.approx(1)
    assert cosine_ceiling([np.eye(4)[:1].repeat(2, axis=0)] * 20).cosine == pytest.approx(1)


def test_the_ceiling_is_seeded() -> None:
    repeats = measured(np.random.default_rng(0).normal(size=(20, 6)), 1.0, [4])
    assert cosine_ceiling(repeats, splits=3, seed=5) == cosine_ceiling(repeats, splits=3, seed=5)
    assert cosine_ceiling(repeats, splits=3, seed=5) != cosine_ceiling(repeats, splits=3, seed=6)


def test_too_little_data_gives_no_ceiling() -> None:
    assert cosine_ceiling([np.ones((3, 2))]) is None
    for ceiling in (cosine_ceiling, split_half_reliability):
        with pytest.raises(ValueError, match=r"repeats\[1\] has fewer than two targets"):
            ceiling([np.ones((2, 4)), np.ones((1, 4))])
