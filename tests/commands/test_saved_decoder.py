"""Weak decoders, and `evaluate` and `predict` with Keras models that `train` did not save."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from helpers import SMALL, make_images, write_targets

from pipeline.commands.saved_decoder import ModelFile
from pipeline.core.runs import RunRecord, SplitRecord, write_run
from pipeline.core.vectors import cosines
from pipeline.data.decoding import decode

RECORD = RunRecord({"images": "photos"}, {}, {}, 0, SplitRecord("random:0.2", {}, {}), "", {})
RESULT = {
    "models": {"functional": {"validation_cosine": 0.302}},
    "baselines": {"mean": 0.392},
    "shares": {"ridge": 0.4, "ramps": 0.0},
}


@pytest.mark.parametrize(
    ("result", "file", "message"),
    [
        (RESULT | {"above_mean": True}, "functional", ""),
        (RESULT | {"above_mean": None}, "functional", ""),
        (RESULT, "functional", ""),  # from an earlier version
        (None, "functional", ""),
        (RESULT | {"above_mean": False}, "ridge", ""),
        (RESULT | {"above_mean": False}, "functional", "held-out cosine 0.302, the mean target's 0.392"),
        (RESULT | {"shares": {}, "above_mean": False}, "functional", "not shown to be better than always answering"),
        (RESULT | {"shares": {"ridge": 0.0}, "above_mean": False}, "functional", "ignores the image"),
    ],
)
def test_weak_decoders_are_reported(
    result: dict | None, file: str, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_run(tmp_path, replace(RECORD, result=result))
    ModelFile(tmp_path / f"{file}.keras").warn_if_weak()
    assert message in caplog.text
    assert bool(caplog.text) == bool(message)


def test_a_decoder_without_a_run_is_not_judged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ModelFile(tmp_path / "functional.keras").warn_if_weak()
    assert not caplog.text


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("own") / "red", range(5)).parent


@pytest.fixture(scope="module")
def targets(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_targets(tmp_path_factory.mktemp("targets"), "red")


def save(layers: list[Any], file: Path) -> Path:
    keras.utils.set_random_seed(0)
    keras.Sequential(layers).save(file)
    return file


def from_features(file: Path, features: int = 512) -> Path:
    """A model with a layer that our decoders do not use."""
    layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dense(3, "tanh")]
    return save([keras.Input((features,)), *layers], file)


def from_pixels(file: Path) -> Path:
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    return save([keras.Input((224, 224, 3)), *layers], file)


def test_a_model_from_features(run, images: Path, targets: Path, tmp_path: Path) -> None:
    file = from_features(tmp_path / "own.keras")
    run("extract", images, *SMALL, "--out", tmp_path / "features.npy")
    expected = np.asarray(keras.models.load_model(file)(np.load(tmp_path / "features.npy")))
    run("predict", file, images, *SMALL, "--out", tmp_path / "out.npy")
    assert np.allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)
    result = run("evaluate", file, "--images", images, "--targets", targets, *SMALL, "--json").json
    target = np.genfromtxt(targets, delimiter=",")[1:]
    assert result["models"]["own"]["cosine"]["mean"] == pytest.approx(cosines(expected, target[None]).mean(), abs=1e-4)
    assert result["report"] is None


def test_a_model_is_loaded_once(run, images: Path, targets: Path, tmp_path: Path, monkeypatch) -> None:
    file, loaded, load = from_features(tmp_path / "own.keras"), [], keras.saving.load_model
    monkeypatch.setattr(
        keras.saving, "load_model", lambda file, **options: loaded.append(file) or load(file, **options)
    )
    run("predict", file, images, *SMALL, "--out", tmp_path / "out.npy")
    assert len(loaded) == 1
    run("evaluate", file, "--images", images, "--targets", targets, *SMALL)
    assert len(loaded) == 2


@pytest.mark.slow
def test_a_model_from_pixels(run, images: Path, targets: Path, tmp_path: Path) -> None:
    file = from_pixels(tmp_path / "own.keras")
    pixels = np.stack([decode(path.read_bytes()) for path in sorted(images.rglob("*.png"))]).astype(np.float32)
    expected = np.asarray(keras.models.load_model(file)(pixels))
    (images / "red" / "broken.png").write_bytes(b"broken")
    result = run("predict", file, images, "--out", tmp_path / "out.npz", "--json").json
    (images / "red" / "broken.png").unlink()
    assert [failure["path"] for failure in result["failed"]] == ["red/broken.png"]
    with np.load(tmp_path / "out.npz") as saved:
        assert np.allclose(saved["predictions"], expected, atol=1e-5)
        assert len(saved["paths"]) == 5
    report = tmp_path / "report.html"
    scored = run("evaluate", file, "--images", images, "--targets", targets, "--report", report, "--json").json
    target = np.genfromtxt(targets, delimiter=",")[1:]
    assert scored["models"]["own"]["cosine"]["mean"] == pytest.approx(cosines(expected, target[None]).mean(), abs=1e-4)
    assert report.exists()


@pytest.mark.slow
def test_mismatches_between_model_and_data_are_explained(run, images: Path, targets: Path, tmp_path: Path) -> None:
    evaluate = ("--images", images, "--targets", targets, *SMALL)
    features = from_features(tmp_path / "other.keras", 100)
    assert (
        "takes 100 numbers; features by layer 'block5_pool' have 512"
        in run("evaluate", features, *evaluate, code=2).err
    )
    named = "extractor of its features with --weights FILE, --layer NAME and --pool KIND, or a table"
    assert named in run("predict", features, images, *SMALL, "--out", tmp_path / "x.npy", code=2).err
    pixels = from_pixels(tmp_path / "pixels.keras")
    fitting = from_features(tmp_path / "fitting.keras")
    assert "apart" in run("evaluate", fitting, pixels, *evaluate, code=2).err
    assert "--images IMAGES" in run("evaluate", pixels, code=2).err
    small = save([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(3)], tmp_path / "small.keras")
    assert "only (224, 224, 3) can be used" in run("evaluate", small, *evaluate, code=2).err
    legacy = tmp_path / "legacy.h5"
    keras.Sequential([keras.Input((512,)), keras.layers.Dense(3)]).save(legacy)
    assert "legacy HDF5 format; convert it once" in run("evaluate", legacy, *evaluate, code=2).err
    code = save([keras.Input((512,)), keras.layers.Lambda(lambda x: x), keras.layers.Dense(3)], tmp_path / "code.keras")
    assert "cannot be loaded (a Lambda layer in it would run code;" in run("evaluate", code, *evaluate, code=2).err
