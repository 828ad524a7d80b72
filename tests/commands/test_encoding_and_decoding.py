"""Brain responses with several trials per stimulus: as targets (encoding) and as features (decoding)."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from helpers import SMALL, make_images

from pipeline.data.sources import find_images

QUICK = ("--epochs", 2, "--api", "functional", "--quiet", "--json")
TRIALS = 3


def save_bdata(file: Path, names: list[str], responses: np.ndarray) -> Path:
    """A file with the layout of bdpy's `BData.save`: voxels, and the stimuli's names by `vmap`."""
    different, voxels = sorted(set(names)), responses.shape[1]
    numbers = np.array([[different.index(name) + 1.0] for name in names])
    with h5py.File(file, "w") as root:
        root["dataset"] = np.hstack([responses, numbers])
        root["metadata/key"] = [b"VoxelData", b"stimulus_name"]
        root["metadata/description"] = [b"voxels", b"stimuli"]
        values = np.full((2, voxels + 1), np.nan)
        values[0, :voxels] = values[1, voxels] = 1
        root["metadata/value"] = values
        root.create_group("header")
        for number, name in enumerate(different, 1):
            root[f"vmap/stimulus_name/{float(number)}"] = name.encode()
    return file


@pytest.mark.slow
def test_trials_of_a_stimulus_are_averaged_in_both_directions(run, tmp_path: Path) -> None:
    photos, vgg, random = (
        make_images(tmp_path / "photos", range(12)),
        tmp_path / "vgg.parquet",
        np.random.default_rng(0),
    )
    names = [name for name in find_images(str(photos)).paths for _ in range(TRIALS)]
    order = random.permutation(len(names))
    brain = save_bdata(tmp_path / "sub-01.h5", [names[row] for row in order], random.normal(size=(len(names), 5)))
    voxels, options = f"{brain}:VoxelData", ("--models", tmp_path / "models", *QUICK)
    run("extract", photos, *SMALL, "--out", vgg)
    decoding = run("train", "--features", voxels, "--targets", vgg, *options).json
    encoding = run("train", photos, *SMALL, "--targets", voxels, *options).json
    for result in (decoding, encoding):
        assert result["train"] + result["validation"] == len(pd.read_parquet(vgg)) == 12
        assert "neuroscience calls it an encoding model" in Path(result["report"]).read_text()
    evaluated = run("evaluate", decoding["run"], "--features", voxels, "--targets", vgg, "--quiet", "--json").json
    assert evaluated["images"] == 12
