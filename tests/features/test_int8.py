"""`--precision int8`: a quantized VGG16 on ONNX Runtime or OpenVINO."""

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, SMALL, make_images, needs_vnni, run_program

from pipeline.core import machine
from pipeline.core.errors import RequestError
from pipeline.data.decoding import decode
from pipeline.features.engines import make_engine
from pipeline.features.engines.int8 import calibration_tiles
from pipeline.features.extractor import Extractor, extractors_for
from pipeline.features.vgg import CALIBRATION
from pipeline.features.weights import weights_from

LAYERS = "block2_pool,block3_pool"  # fast to convert


def extractors(precision: str, layers: str = LAYERS) -> Sequence[Extractor]:
    return extractors_for(weights_from("random:0"), layers, precision=precision)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    # They are not used for calibration.
    tiles = sorted((ROOT / "images").glob("*/0-2.jpg"))[:4]
    return np.stack([decode(tile.read_bytes()) for tile in tiles])


@pytest.mark.parametrize("layers", [LAYERS, pytest.param("fc2", marks=pytest.mark.slow)])
def test_int8_is_close_to_float32(layers: str, pixels: np.ndarray, real_cache: Path) -> None:
    pytest.importorskip("onnxruntime")
    engine = make_engine("auto", extractors("int8", layers), 4, real_cache)
    assert engine.name in ("onnxruntime", "openvino")
    exact = make_engine("mnn", extractors("float32", layers), 4, real_cache)(pixels)
    for quantized, true in zip(engine(pixels), exact, strict=True):
        assert quantized.shape == true.shape
        assert quantized.dtype == np.float32
        cosines = (quantized * true).sum(1) / np.linalg.norm(quantized, axis=1) / np.linalg.norm(true, axis=1)
        assert 0.998 < cosines.min() < 0.999999
    # Integer sums do not depend on the rest of the batch.
    for one_way, other_way in zip(engine(pixels), engine(pixels[::-1].copy()), strict=True):
        assert np.array_equal(one_way, other_way[::-1])


@pytest.fixture
def with_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Set the features that the processor reports."""
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    return lambda flags: (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")


@needs_vnni
def test_openvino_and_onnxruntime_differ_by_rounding(
    pixels: np.ndarray, real_cache: Path, with_flags: Callable[[str], None]
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    features = {}
    for flags, name in (("avx512_vnni", "onnxruntime"), ("avx512_vnni amx_int8", "openvino")):
        with_flags(flags)
        engine = make_engine(
            "auto", extractors_for(weights_from("random:0"), LAYERS, pool="flat", precision="int8"), 4, real_cache
        )
        assert engine.name == name
        features[name] = engine(pixels)
    for one, other in zip(*features.values(), strict=True):
        step = one[one > 0].min()  # of the 255 of an activation
        steps = np.abs(one - other) / step
        assert steps.max() < 2.01
        assert 0 < (steps > 0.5).mean() < 0.01


def test_openvino_reports_nothing_and_writes_nothing(real_cache: Path, tmp_path: Path) -> None:
    """Its telemetry would connect to Google Analytics and write to the home folder."""
    pytest.importorskip("openvino")
    make_engine("auto", extractors("int8"), 4, real_cache)
    network = next(file for file in (real_cache / "networks").glob("*.int8.onnx") if "block3_pool" in file.name)
    assert run_program("load_openvino", network, HOME=str(tmp_path)).out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_quantized_network_is_recreated(
    pixels: np.ndarray, real_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("onnxruntime")
    before = make_engine("auto", extractors("int8"), 4, real_cache)(pixels)
    [network] = [file for file in (real_cache / "networks").glob("*.int8.onnx") if "block3_pool" in file.name]
    network.write_bytes(network.read_bytes()[:1000])
    after = make_engine("auto", extractors("int8"), 4, real_cache)(pixels)
    assert f"{network} is damaged" in caplog.text
    assert all(map(np.array_equal, before, after))
    assert network.stat().st_size > 1_000_000  # the same content gives the same name


def test_the_fingerprint_names_the_calibration() -> None:
    [int8, float32] = (Extractor(weights_from("random:0"), precision=each) for each in ("int8", "float32"))
    assert int8.description["calibration"] == CALIBRATION
    assert "calibration" not in float32.description
    content = b"".join(tile.read_bytes() for tile in calibration_tiles())
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    assert (CALIBRATION, len(calibration_tiles()), digest) == (
        "16-tiles",
        16,
        "a3050dd841f2cf60",
    )  # rename it when its tiles change


@pytest.mark.parametrize("engine", ["keras", "mnn"])
def test_engines_without_int8_are_refused(run, engine: str, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(1))
    command = ("extract", images, *SMALL, "--precision", "int8", "--engine", engine, "--cache", tmp_path / "cache")
    assert f"engine {engine} does not compute in int8" in run(*command, code=2).err


def test_values_before_an_activation_are_refused() -> None:
    with pytest.raises(RequestError, match="int8' has no values before an activation"):
        Extractor(weights_from("random:0"), "fc2:pre", "int8")


def test_a_missing_package_is_reported_with_its_extra(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    images = make_images(tmp_path / "images", range(1))
    command = ("extract", images, *SMALL, "--precision", "int8", "--cache", tmp_path / "cache")
    assert "pip install 'image-vectors[int8]'" in run(*command, code=2).err.replace("\n", " ")


@pytest.mark.parametrize(("flags", "warned"), [("avx2", True), ("avx2 avx512_vnni", False)])
def test_a_processor_without_vnni_gets_a_warning(
    flags: str,
    warned: bool,
    real_cache: Path,
    with_flags: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("onnxruntime")
    with_flags(flags)
    make_engine("auto", extractors("int8"), None, real_cache)
    assert ("has no VNNI" in caplog.text) == warned
