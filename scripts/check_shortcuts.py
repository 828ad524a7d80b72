"""Measure what the blend's shortcuts for many images cost: one fold instead of five, at most 10,000 steps per network.

Both blends are fitted to the same simulated images. The targets are linear in the features, the output of a random
network, or a mixture, plus noise. The table has the cosines on held-out images, and the times.

    python scripts/check_shortcuts.py [--images 6000]      # ~10 minutes on two cores
"""

import argparse
import time

import numpy as np
from measuring import table

from pipeline.core.vectors import cosines
from pipeline.decoders import blend
from pipeline.decoders.blend import BlendConfig, fit_blend
from pipeline.decoders.fitting import PRESETS

FEATURES, HIDDEN, DIM = 256, 64, 50
HELD_OUT = 2000
NOISE = 1.0  # of a target, relative to the predictable part
CURVED = (0.0, 0.5, 1.0)  # the nonlinear share of a target's variance


def simulate(count: int, curved: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (count, FEATURES), non-negative as after ReLU, and noisy targets (count, DIM)."""
    random = np.random.default_rng(seed)
    latent = random.normal(size=(count, HIDDEN))
    x = np.maximum(latent @ random.normal(size=(HIDDEN, FEATURES)) / HIDDEN**0.5, 0)
    linear = latent @ random.normal(size=(HIDDEN, DIM)) / HIDDEN**0.5
    bent = np.abs(latent @ random.normal(size=(HIDDEN, HIDDEN)) / HIDDEN**0.5) @ random.normal(size=(HIDDEN, DIM))
    bent = (bent - bent.mean(axis=0)) / bent.std(axis=0)
    signal = np.sqrt(1 - curved) * linear / linear.std(axis=0) + np.sqrt(curved) * bent
    y = signal + NOISE * random.normal(size=signal.shape)
    return x.astype(np.float32), y.astype(np.float32)


def held_out_cosine(x: np.ndarray, y: np.ndarray, config: BlendConfig, seed: int) -> tuple[float, float]:
    """The mean cosine of a blend on the last HELD_OUT images, and the seconds it takes to fit."""
    start = time.monotonic()
    rows = len(x) - HELD_OUT
    fitted = fit_blend(x[:rows], y[:rows], np.arange(rows), config, seed)
    seconds = time.monotonic() - start
    predicted = fitted.network((x[rows:] - fitted.mean) / fitted.scale)
    return float(cosines(predicted, y[rows:]).mean()), seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[6000], help="training images")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    default = PRESETS["default"]
    assert isinstance(default, BlendConfig)
    shortcuts = {"with": (blend.MANY, blend.MOST_STEPS), "without": (10**9, 10**9)}
    table(("training images", "curved", "with", "without", "difference", "seconds with", "without"), [])
    for images in options.images:
        for curved in CURVED:
            results = []
            for seed in range(options.seeds):
                x, y = simulate(images + HELD_OUT, curved, seed)
                for many, steps in shortcuts.values():
                    blend.MANY, blend.MOST_STEPS = many, steps
                    results.append(held_out_cosine(x, y, default, seed))
            (ours, fast), (whole, slow) = np.array(results).reshape(-1, 2, 2).mean(axis=0)
            cells = (str(images), f"{curved:.0%}", f"{ours:.4f}", f"{whole:.4f}", f"{ours - whole:+.4f}")
            print(f"| {' | '.join(cells)} | {fast:.0f} | {slow:.0f} |", flush=True)


if __name__ == "__main__":
    main()
