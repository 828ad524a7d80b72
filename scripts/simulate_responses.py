"""Simulate responses of voxels with known answers, and check what the pipeline recovers.

Voxels respond to one layer of an untrained VGG16, or to nothing: a response is a random linear combination of the
standardised features of the layer, scaled to variance 1, and each of several repeats adds noise of variance 1. The
reliability of the mean of R repeats is therefore R / (R + 1), and 0 without signal.

    python scripts/simulate_responses.py FOLDER [--voxels 40] [--repeats 4]    # ~3 minutes

It writes the responses of each group of voxels, and of all, as tables for --targets, and the repeats for
--noise-ceiling, and prints the known answers beside the recovered ones.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import table

from pipeline.commands.evaluate import evaluate
from pipeline.commands.options import EvaluateOptions
from pipeline.commands.train import train
from pipeline.commands.training_options import ExampleOptions, TrainOptions
from pipeline.commands.training_run import TrainResult
from pipeline.data.options import TargetOptions
from pipeline.data.sources import find_images
from pipeline.decoders.options import DecoderOptions
from pipeline.features.options import ExtractionOptions, ExtractorOptions
from pipeline.features.sources import NetworkSource

LAYERS = ("block3_pool", "block4_pool", "block5_pool")
SILENT = "nothing"
SAMPLE = Path(__file__).resolve().parents[1] / "images"
EXTRACTOR = ExtractorOptions(weights="random:0", layer=",".join(LAYERS))


def simulate(features: Mapping[str, np.ndarray], voxels: int, repeats: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Simulate repeated responses.

    Args:
        features: Layer -> the features of the images, shape (N, F).
        voxels: Voxels of each group.
        repeats: Repeats of each image.
        seed: Random seed.

    Returns:
        Layer, or SILENT -> responses, shape (R, N, voxels).
    """
    random = np.random.default_rng(seed)
    groups = {}
    for layer, values in features.items():
        z = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-6)
        signal = z @ random.normal(size=(z.shape[1], voxels))
        groups[layer] = (signal - signal.mean(axis=0)) / signal.std(axis=0)
    groups[SILENT] = np.zeros((len(z), voxels))
    return {name: signal + random.normal(size=(repeats, *signal.shape)) for name, signal in groups.items()}


def write(folder: Path, paths: Sequence[str], responses: Mapping[str, np.ndarray]) -> None:
    """Write NAME.parquet (the means of the repeats) and NAME-repeats.parquet for each group, and for all voxels."""
    folder.mkdir(parents=True, exist_ok=True)
    everything = {**responses, "all": np.concatenate(list(responses.values()), axis=2)}
    names = {name: [f"{name} {number:02}" for number in range(values.shape[2])] for name, values in responses.items()}
    names["all"] = [voxel for group in names.values() for voxel in group]
    for name, values in everything.items():
        for file, rows in ((name, values.mean(axis=0)[None]), (f"{name}-repeats", values)):
            columns = {"path": list(paths) * len(rows)}
            columns |= dict(zip(names[name], rows.reshape(-1, rows.shape[2]).T, strict=True))
            pq.write_table(pa.table(columns), folder / f"{file}.parquet")


def trained(folder: Path, name: str, extraction: ExtractionOptions, preset: str, **settings: object) -> TrainResult:
    """Train on the responses of a group of voxels."""
    targets = TargetOptions(folder / f"{name}.parquet", noise_ceiling=folder / f"{name}-repeats.parquet")
    return train(
        TrainOptions(
            api="functional",
            cluster="image",
            models=folder / "models",
            name=f"{name}-{preset}",
            examples=ExampleOptions(str(SAMPLE), targets=targets),
            decoder=DecoderOptions(preset=preset),
            extractor=EXTRACTOR,
            extraction=extraction,
            **settings,
        )
    )


def recovered(folder: Path, repeats: int, extraction: ExtractionOptions) -> list[list[str]]:
    """A row for each group of voxels: what is known, and what was recovered."""
    run = trained(folder, "all", extraction, "default").run
    file = folder / "scores.parquet"
    evaluate(
        EvaluateOptions(models=(str(run),), cluster="image", permutations=20_000, scores=file, extraction=extraction)
    )
    scores = [row for row in pq.read_table(file).to_pylist() if row["unit"] == "dimension" and row["q"] is not None]
    rows = []
    for name in (*LAYERS, SILENT):
        voxels = [row for row in scores if row["name"].startswith(name) and row["model"] == "functional"]
        significant = sum(row["q"] < 0.05 for row in voxels)
        shown = [row["reliability"] for row in voxels if row["reliability"] is not None]  # to be above 0
        known = 0.0 if name == SILENT else repeats / (repeats + 1)
        bands = trained(folder, name, extraction, "banded").bands
        layers = trained(folder, name, extraction, "default", compare_layers=True).layers
        estimated = f"{np.mean(shown):.2f}" if shown else "none"
        parts = ", ".join(f"{part:+.2f}" for part in bands.layers.values()) if bands else ""
        rows.append(
            [
                *(name, f"{significant} of {len(voxels)}", f"{np.mean([row['pearson'] for row in voxels]):.2f}"),
                *(f"{known:.2f}", estimated, parts, layers.chosen.layer if layers else ""),
            ]
        )
    return rows


def main() -> None:
    """Simulate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--voxels", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args()
    extraction = ExtractionOptions(progress=False, cache=options.cache)
    features = NetworkSource(EXTRACTOR.extractors()).features(find_images(SAMPLE), extraction)
    by_layer = dict(zip(LAYERS, (part[:] for part in features.by_layer()), strict=True))
    write(options.folder, features.paths, simulate(by_layer, options.voxels, options.repeats))
    head = ["voxels respond to", "q < 0.05", "mean r", "reliability: known", "estimated"]
    head += [f"R² by banded ridge: {', '.join(LAYERS)}", "layer chosen"]
    table(head, recovered(options.folder, options.repeats, extraction))


if __name__ == "__main__":
    main()
