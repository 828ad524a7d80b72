"""The simulated responses have the answers that the script says, and a linear decoder finds them."""

from pathlib import Path

import numpy as np
import pytest
from simulate_responses import LAYERS, SILENT, simulate, write

from pipeline.data.targets import read_repeats
from pipeline.decoders.banded import build_banded, explained_squares, fit_banded
from pipeline.evaluation.bands import BandScores
from pipeline.evaluation.noise_ceiling import split_half_reliability

RANDOM = np.random.default_rng(0)
FEATURES = {layer: RANDOM.normal(size=(400, 10)).astype(np.float32) for layer in LAYERS}
RESPONSES = simulate(FEATURES, voxels=6, repeats=4)


@pytest.mark.parametrize("group", [*LAYERS, SILENT])
def test_the_reliability_is_known(group: str) -> None:
    repeats = RESPONSES[group]
    assert repeats.shape == (4, 400, 6)
    reliability = split_half_reliability(list(repeats.transpose(1, 0, 2)))
    if group == SILENT:
        assert np.nanmax(np.nan_to_num(reliability)) < 0.3
    else:
        assert np.nanmean(reliability) == pytest.approx(4 / 5, abs=0.06)


@pytest.mark.parametrize("group", [*LAYERS, SILENT])
def test_banded_ridge_finds_the_layer(group: str) -> None:
    """R² of the layer is near the reliability, 0.8; of other layers, and without signal, near 0."""
    x, y = np.hstack(list(FEATURES.values())), RESPONSES[group].mean(axis=0).astype(np.float32)
    train, held_out = slice(0, 300), slice(300, 400)
    model = build_banded(fit_banded(x[train], y[train], (10, 10, 10), np.arange(300)), "functional")
    scores = BandScores.of(LAYERS, *explained_squares(model, x[held_out], y[held_out], (10, 10, 10)))
    assert scores
    for layer, part in scores.layers.items():
        assert part == pytest.approx(0.75 if layer == group else 0, abs=0.12)


def test_responses_are_written_as_targets_and_repeats(tmp_path: Path) -> None:
    paths = [f"{number:03}.png" for number in range(400)]
    write(tmp_path, paths, RESPONSES)
    repeats = read_repeats(tmp_path / "all-repeats.parquet", None)
    assert sorted(repeats) == paths
    expected = np.concatenate([values[:, 5] for values in RESPONSES.values()], axis=1)
    assert repeats["005.png"] == pytest.approx(expected, abs=1e-5)
    assert read_repeats(tmp_path / f"{SILENT}-repeats.parquet", None)["000.png"].shape == (4, 6)
