"""Compare the noise ceiling of the cosine with the truth, on simulated targets with a known noise-free part.

python scripts/simulate_noise_ceiling.py [--times 20]
"""

import argparse
from collections.abc import Callable, Iterator

import numpy as np

from pipeline.evaluation.noise_ceiling import cosine_ceiling

Noise = Callable[[np.random.Generator, tuple[int, int, int]], np.ndarray]  # shape (images, repeats, D)
IMAGES = (30, 200)


def independent(deviation: float) -> Noise:
    """Noise that is independent between dimensions."""
    return lambda random, shape: deviation * random.normal(size=shape)


def with_common_part(deviation: float, common: float) -> Noise:
    """Independent noise, plus noise that shifts all dimensions of a repeat together."""
    return lambda random, shape: (
        deviation * random.normal(size=shape) + common * random.normal(size=(*shape[:2], 1)) * np.ones(shape[2])
    )


def correlated(deviation: float, dims: int) -> tuple[np.ndarray, Noise]:
    """A mixing matrix that correlates adjacent dimensions by 0.9, and noise mixed with it."""
    apart = np.abs(np.subtract.outer(np.arange(dims), np.arange(dims)))
    mixing = np.linalg.cholesky(0.9**apart).T
    return mixing, lambda random, shape: deviation * random.normal(size=shape) @ mixing


def cases(images: int, random: np.random.Generator) -> Iterator[tuple[str, np.ndarray, int, Noise]]:
    """Name, signal (images, D), repeats, noise."""
    normal = random.normal(size=(images, 50))
    for deviation in (1.0, 2.0, 5.0):
        yield f"50 dimensions, noise {deviation:g}", normal, 2, independent(deviation)
    yield "signals of one length", normal / np.linalg.norm(normal, axis=1, keepdims=True), 2, independent(0.3)
    yield "signal of rank 5", random.normal(size=(images, 5)) @ random.normal(size=(5, 50)), 2, independent(4)
    mixing, noise = correlated(2, 50)
    yield "neighbours correlated by 0.9", normal @ mixing, 2, noise
    yield "noise with a common part of 1", normal, 2, with_common_part(1, 1)
    yield "noise with a common part of 2", normal, 2, with_common_part(1, 2)
    sparse = np.pad(random.normal(size=(images, 5)), ((0, 0), (0, 95)))
    for deviation in (0.5, 2.0):
        yield f"5 % of 100 dimensions, noise {deviation:g}", sparse, 2, independent(deviation)
    for dims, deviation in ((5, 1.0), (5, 2.0), (2, 0.5), (2, 1.0)):
        yield f"{dims} dimensions, noise {deviation:g}", random.normal(size=(images, dims)), 2, independent(deviation)
    for spread, repeats in ((0.3, 3), (0.7, 3), (0.7, 2)):
        signal = random.normal(size=(images, 100)) * np.exp(spread * random.normal(size=(images, 1)))
        yield f"signals of unequal length ({spread}), {repeats} repeats", signal, repeats, independent(1.5)


def reached(signal: np.ndarray, repeats: int, noise: Noise, random: np.random.Generator) -> float:
    """The mean cosine between the signal and the mean of repeats."""
    measured = signal + noise(random, (len(signal), repeats, signal.shape[1])).mean(axis=1)
    lengths = np.linalg.norm(signal, axis=1) * np.linalg.norm(measured, axis=1)
    return float(((signal * measured).sum(axis=1) / lengths).mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=20, help="simulations of each case (default: %(default)s)")
    times = parser.parse_args().times
    random = np.random.default_rng(0)
    names = [name for name, *_ in cases(2, random)]
    print("| targets | images | truth | estimate | deviation of the estimate | truth within the interval | estimated |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for number, name in enumerate(names):
        for images in IMAGES:
            rows = []
            for _ in range(times):
                _, signal, repeats, noise = list(cases(images, random))[number]
                truth = np.mean([reached(signal, repeats, noise, random) for _ in range(5)])
                ceiling = cosine_ceiling(list(signal[:, None] + noise(random, (images, repeats, signal.shape[1]))))
                rows.append((truth, *((ceiling.cosine, ceiling.low, ceiling.high) if ceiling else [np.nan] * 3)))
            truth, estimate, low, high = np.transpose(rows)
            known = ~np.isnan(estimate)
            columns = ["none"] * 3
            if known.any():
                inside = ((low <= truth) & (truth <= high))[known].mean()
                error = (estimate - truth)[known]
                columns = [f"{truth[known].mean() + error.mean():.3f}", f"{error.std():.3f}", f"{inside:.0%}"]
            print(
                f"| {name} | {images} | {truth.mean():.3f} | {' | '.join(columns)} | {known.mean():.0%} |", flush=True
            )


if __name__ == "__main__":
    main()
