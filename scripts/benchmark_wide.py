"""Measure `train` on wide targets, such as fMRI voxels: time, peak memory with its forecast, size of the run, cosine.

    python scripts/benchmark_wide.py WORK [--sizes 1000x1000,8000x50000] [--presets banded,network] [--memory 10GB]

Features decay like those of a network, and targets are linear in them plus noise, as strong as the signal. Each row is
a process of its own; the peak is its largest resident memory (`RU_MAXRSS`), with TensorFlow and the interpreter.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from measuring import processor_name, table

FEATURES = 1000
SIZES = "1000x1000,1000x10000,8000x1000,1000x50000,8000x10000,8000x50000"  # images x dimensions
HEAD = ("images", "dimensions", "preset", "time (s)", "peak (GB)", "announced (GB)", "run (MB)", "cosine")


def main() -> None:
    """Measure the presets on all sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for the arrays and runs")
    parser.add_argument("--sizes", default=SIZES, help="images x dimensions")
    parser.add_argument("--presets", default="banded")
    parser.add_argument("--memory", default="4GB")
    options = parser.parse_args()
    print(f"{processor_name()}, --memory {options.memory}")
    rows = []
    for size in options.sizes.split(","):
        images, dim = map(int, size.split("x"))
        write_arrays(options.work, images, dim)
        rows += [measured(options.work, images, dim, preset, options.memory) for preset in options.presets.split(",")]
    table(HEAD, rows)


def write_arrays(work: Path, images: int, dim: int) -> None:
    """Write features and targets in blocks of dimensions, so that this process stays small."""
    random = np.random.default_rng(0)
    spectrum = np.arange(1, FEATURES + 1) ** -0.5
    features = (random.standard_normal((images, FEATURES)) * spectrum).astype(np.float32)
    np.save(work / "vectors.npy", features)
    targets = np.lib.format.open_memmap(work / "targets.npy", "w+", np.float32, (images, dim))
    for start in range(0, dim, 1000):
        weights = random.standard_normal((FEATURES, min(1000, dim - start))).astype(np.float32)
        signal = features @ weights
        noise = random.standard_normal(signal.shape).astype(np.float32) * signal.std(axis=0)
        targets[:, start : start + 1000] = signal + noise
    targets.flush()


def measured(work: Path, images: int, dim: int, preset: str, memory: str) -> list[str]:
    """Train once; returns a row of the table."""
    name = f"{images}x{dim}-{preset}"
    command = [sys.executable, "-m", "pipeline", "train", "--features", f"{work / 'vectors.npy'}", "--targets"]
    command += [f"{work / 'targets.npy'}", "--preset", preset, "--memory", memory, "--models", f"{work / 'models'}"]
    start = time.perf_counter()
    with (work / "stdout").open("wb") as out, (work / "stderr").open("wb") as log:
        child = subprocess.Popen([*command, "--name", name, "--json"], stdout=out, stderr=log)
        peak = peak_of(child)
    seconds, said = time.perf_counter() - start, (work / "stderr").read_text()
    if child.returncode:
        print(f"{name}: {said[-2000:]}", flush=True)
        return [f"{images:,}", f"{dim:,}", preset, *["-"] * (len(HEAD) - 3)]
    result = json.loads((work / "stdout").read_text())
    announced = re.findall(r"about ([\d.]+) GB of memory", said)
    run = sum(file.stat().st_size for file in (work / "models" / name).rglob("*") if file.is_file())
    cosine = result["models"]["functional"]["validation_cosine"]
    row = [f"{images:,}", f"{dim:,}", preset, f"{seconds:.0f}", f"{peak / 1e9:.2f}", *(announced[:1] or ["-"])]
    row += [f"{run / 1e6:.0f}", f"{cosine:.4f}"]
    print(" | ".join(row), flush=True)
    return row


def peak_of(child: "subprocess.Popen[bytes]") -> int:
    """Wait for a process; returns its peak memory in bytes."""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status
    return usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
