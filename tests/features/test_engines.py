import ctypes
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from helpers import ROOT, run_program

from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.keras_backend import import_keras
from pipeline.data.decoding import decode
from pipeline.features.engines import make_engine
from pipeline.features.engines.devices import default_batch_size
from pipeline.features.engines.replicas import make_replica
from pipeline.features.extractor import Extractor, extractors_for
from pipeline.features.options import ExtractionOptions
from pipeline.features.vgg import NETWORKS
from pipeline.features.weights import weights_from

BACKENDS = ["tensorflow", pytest.param("jax", marks=pytest.mark.slow)]
PHOTOGRAPHS = ("cat/1-1.jpg", "coffee/0-1.jpg")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.stack([decode((ROOT / "images" / path).read_bytes()) for path in PHOTOGRAPHS])


@pytest.fixture(scope="module")
def expected(pixels: np.ndarray) -> list[dict[str, np.ndarray]]:
    weights = weights_from("random:0").read("predictions")
    return [reference.activations(image, weights) for image in pixels]


VGG16 = NETWORKS["vgg16"]
ACTIVATIONS = [*VGG16.activation_shapes, *(f"{layer}:pre" for layer in VGG16.weighted_layers("predictions"))]
EVERY_LAYER = [
    Extractor(weights_from("random:0"), layer, pool=pool)
    for layer in ACTIVATIONS
    for pool in (("mean", "max", "grid:2", "grid:3", "flat") if layer.startswith("block") else (None,))
]


@pytest.mark.parametrize("name", ["keras", "mnn"])
@pytest.mark.parametrize(
    "extractors",
    [
        extractors_for(weights_from("random:0"), "fc1,fc2"),
        [Extractor(weights_from("random:0"), "block5_pool")],
        extractors_for(weights_from("random:0"), "block3_conv3:pre,block5_pool,block2_conv1", pool="grid:3"),
        pytest.param(EVERY_LAYER, marks=pytest.mark.slow),
    ],
    ids=["dense", "block5_pool", "several", "every layer"],
)
def test_engines_agree_with_a_float64_computation_without_keras(
    name: str,
    extractors: list[Extractor],
    pixels: np.ndarray,
    expected: list[dict[str, np.ndarray]],
    real_cache: Path,
) -> None:
    features = make_engine(name, extractors, 2, real_cache)(pixels)
    for extractor, computed in zip(extractors, features, strict=True):
        assert computed.shape == (2, extractor.dim)
        assert computed.dtype == np.float32
        for feature, image in zip(computed, expected, strict=True):
            true = image[extractor.layer]
            if extractor.pooling:
                true = reference.pooled(true, extractor.pool or "mean")
            assert np.linalg.norm(feature - true) <= 1e-3 * np.linalg.norm(true), (extractor.layer, extractor.pool)
            assert feature @ true >= 0.99999 * np.linalg.norm(feature) * np.linalg.norm(true)


def test_reduced_precision_is_close_but_not_equal(pixels: np.ndarray, real_cache: Path) -> None:
    full, reduced = (
        make_engine("keras", [Extractor(weights_from("random:0"), "block5_pool", precision)], 2, real_cache)(pixels)[0]
        for precision in ("float32", "bfloat16")
    )
    error = np.linalg.norm(reduced - full) / np.linalg.norm(full)
    assert 1e-4 < error < 5e-2


def test_unknown_engine_is_refused(real_cache: Path) -> None:
    with pytest.raises(RequestError, match="engine 'tpu' is unknown; choose from auto, keras, mnn"):
        make_engine("tpu", [Extractor(weights_from("random:0"))], None, real_cache)


def test_a_damaged_network_is_converted_again(
    pixels: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extractor = Extractor(weights_from("random:0"), "block2_pool")
    before = make_engine("mnn", [extractor], 2, tmp_path)(pixels)[0]
    for damage in (lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[:1000]):
        [network] = (tmp_path / "networks").glob("*.mnn")
        network.write_bytes(damage(network.read_bytes()))
        assert np.array_equal(make_engine("mnn", [extractor], 2, tmp_path)(pixels)[0], before)
        assert "is damaged" in caplog.text
        caplog.clear()
        assert not network.exists()


def test_mnn_refuses_reduced_precision(real_cache: Path) -> None:
    with pytest.raises(RequestError, match="needs the engine keras"):
        make_engine("mnn", [Extractor(weights_from("random:0"), precision="float16")], None, real_cache)


def test_unreadable_weights_leave_no_network(tmp_path: Path) -> None:
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(RequestError, match="cannot be read as weights of VGG16"):
        make_engine("mnn", [Extractor(weights_from(str(tmp_path / "cut.h5")))], None, tmp_path / "cache")
    assert [file.name for file in (tmp_path / "cache" / "networks").iterdir()] == ["converting.lock"]


@pytest.mark.parametrize(
    "error", [MemoryError("OOM when allocating tensor"), RuntimeError("CUDA out of memory. Tried to allocate")]
)
def test_out_of_memory_halves_the_batch(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    # No device can be made to run out of memory here, so the replica is replaced.
    engine = make_engine("keras", [Extractor(weights_from("random:0"), "block5_pool")], 5, Path())
    replica, sizes = engine._free.get(), []

    def small_device(pixels: np.ndarray) -> list[np.ndarray]:
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise error
        return replica(pixels)

    def full_device(pixels: np.ndarray) -> list[np.ndarray]:
        raise error

    def faulty_device(pixels: np.ndarray) -> list[np.ndarray]:
        raise ValueError("a bug")

    black = np.zeros((5, 224, 224, 3), np.uint8)
    engine._free.put(small_device)
    np.testing.assert_allclose(engine(black)[0], replica(black)[0], rtol=1e-4, atol=1e-4)
    assert sizes == [5, 3, 2, 2, 1]
    assert "continuing with 2 images at a time" in caplog.text
    for device, message in ((full_device, "too little memory for one image"), (faulty_device, "a bug")):
        engine._free.get()
        engine._free.put(device)
        with pytest.raises((PipelineError, ValueError), match=message):
            engine(black)


@pytest.mark.parametrize("backend", [*BACKENDS, pytest.param("torch", marks=pytest.mark.slow)])
def test_batches_are_spread_over_several_devices(backend: str, tmp_path: Path) -> None:
    # Parts of the CPU stand in for GPUs; the code that runs is the same.
    flags = "--xla_force_host_platform_device_count=8"
    run_program("several_devices", tmp_path, KERAS_BACKEND=backend, XLA_FLAGS=flags)


@pytest.mark.parametrize(
    ("gigabytes", "size"), [(8, 64), (16, 128), (24, 128), (40, 256), (141, 256), (1, 32), (None, 128)]
)
def test_batches_suit_the_memory_of_the_smallest_gpu(
    gigabytes: int | None, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There is no GPU here, so its driver is replaced.
    sizes = {0: 2e11, 1: (gigabytes or 0) * 1e9}

    class Driver:
        cuInit = staticmethod(lambda flags: 0 if gigabytes else 100)

        @staticmethod
        def cuDeviceGet(device: Any, number: int) -> int:
            device._obj.value = number
            return 0

        @staticmethod
        def cuDeviceTotalMem_v2(memory: Any, device: ctypes.c_int) -> int:
            memory._obj.value = int(sizes[device.value])
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert default_batch_size(["gpu:0", "gpu:1"]) == size
    assert default_batch_size(["cpu"]) == 32


@pytest.mark.parametrize(
    ("engine", "precision", "device", "message"),
    [
        ("mnn", "float32", "gpu:0", "engine mnn runs only on the processor, not on gpu:0; leave engine out"),
        ("auto", "int8", "gpu", "precision int8 runs only on the processor, not on gpu; leave precision out"),
        ("keras", "float32", "gpu", "There is no device 'gpu'; tensorflow sees cpu."),
        ("auto", "float32", "cpu:0,cpu:9", "There is no device 'cpu:9'; tensorflow sees cpu."),
    ],
)
def test_a_missing_device_is_refused(engine: str, precision: str, device: str, message: str) -> None:
    extractor = Extractor(weights_from("random:0"), "block5_pool", precision)
    with pytest.raises(RequestError, match=re.escape(message)):
        make_engine(engine, [extractor], None, Path(), device)


def test_a_backend_that_only_keras_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_keras().backend, "backend", lambda: "numpy")
    with pytest.raises(RequestError, match="does not run on numpy; set KERAS_BACKEND to tensorflow or jax or torch"):
        make_replica(None, "cpu", "float32")


def test_devices_have_the_names_of_keras_and_of_pytorch() -> None:
    assert ExtractionOptions(device=" CUDA:0, gpu:1").device == "gpu:0,gpu:1"
    for device, message in (("gpu1", "'gpu1' is unknown"), ("", "'' is unknown"), ("cpu,gpu:0", "different kinds")):
        with pytest.raises(RequestError, match=message):
            ExtractionOptions(device=device)


def test_tf32_is_float32_on_a_processor(pixels: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    import tensorflow

    tensorflow.config.experimental.enable_tensor_float_32_execution(True)  # its default
    exact = make_engine("keras", [Extractor(weights_from("random:0"), "block1_pool")], 2, Path())
    assert not tensorflow.config.experimental.tensor_float_32_execution_enabled()
    assert not caplog.messages
    rounded = make_engine("auto", [Extractor(weights_from("random:0"), "block1_pool", "tf32")], 2, Path())
    assert (rounded.name, rounded.device) == ("keras", "cpu")
    assert "precision tf32 computes in float32" in caplog.text
    np.testing.assert_array_equal(rounded(pixels)[0], exact(pixels)[0])


def test_a_missing_mnn_is_reported(real_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MNN", "MNN.expr", "MNN.nn"):
        monkeypatch.setitem(sys.modules, name, None)
    extractor = Extractor(weights_from("random:0"), "block5_pool")
    with pytest.raises(RequestError, match="pip install MNN, or use the engine keras"):
        make_engine("mnn", [extractor], None, real_cache)
    assert make_engine("auto", [extractor], None, real_cache).name == "keras"
