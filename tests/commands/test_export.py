"""`export`: the outputs of exported models, and refused requests."""

import json
import os
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers import PROGRAMS, check_ended, encoded, make_image, run_python, write_targets

from pipeline.commands.export import check_answers
from pipeline.core.errors import PipelineError
from pipeline.core.vectors import cosines
from pipeline.data.decoding import decode


@dataclass(frozen=True)
class PhotoRun:
    """A run on JPEGs with features of the first three blocks of the full VGG16, and its predictions."""

    images: Path
    folder: Path
    cache: Path
    predictions: np.ndarray

    @property
    def files(self) -> list[Path]:
        return sorted(self.images.rglob("*.jpg"))


@pytest.fixture(scope="module")
def photo_run(run, tmp_path_factory: pytest.TempPathFactory) -> PhotoRun:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(6):
        file = folder / "images" / ("red", "blue")[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(make_image(number, 300, 200), "JPEG", quality=90))
    network = ("--weights", "random:0", "--layer", "block3_pool", "--engine", "keras")
    options = (*network, "--quiet", "--cache", folder / "cache")
    training = ("--epochs", 5, "--api", "functional", "--models", folder / "models", "--json")
    targets = write_targets(folder, "blue", "red")
    trained = run("train", folder / "images", "--targets", targets, *options, *training).json["run"]
    run("predict", trained, folder / "images", "--out", folder / "out.npy", *options)
    return PhotoRun(folder / "images", Path(trained), folder / "cache", np.load(folder / "out.npy"))


@pytest.fixture(scope="module")
def layered_run(run, photo_run: PhotoRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A blend and its ridge baseline, on projected features of two small layers, for the same images."""
    models = tmp_path_factory.mktemp("layered")
    options = ("--weights", "random:0", "--layer", "block2_pool,block1_conv2:pre", "--quiet")
    pooling = ("--pool", "grid:2", "--project", 200)
    training = ("--engine", "keras", "--models", models, "--cache", photo_run.cache, "--api", "functional", "--json")
    targets = photo_run.images.parent / "targets.csv"
    return Path(run("train", photo_run.images, "--targets", targets, *options, *pooling, *training).json["run"])


def ask_elsewhere(kind: str, file: Path, photo_run: PhotoRun) -> dict:
    """The outputs of the format's runtime for the images, in a process without this package."""
    pixels = file.with_name("pixels.npy")
    np.save(pixels, np.stack([decode(photo.read_bytes()) for photo in photo_run.files]))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    asked = run_python(PROGRAMS / f"ask_{kind}.py", file, pixels, cwd=file.parent, env=environment)
    pixels.unlink()
    return check_ended(asked).json


def check_card(card: dict) -> None:
    assert (card["weights"], card["extractor"]["layer"], card["target_dim"]) == ("random:0", "block3_pool", 3)
    assert card["extractor"]["image"] == "squash-bilinear-224x224"
    assert card["targets"]["file"].endswith("targets.csv")
    assert {"version", "format", "decoder"} <= set(card)


def test_a_savedmodel_serves_bytes_without_this_package(run, photo_run: PhotoRun, tmp_path: Path) -> None:
    out = tmp_path / "model"
    result = run(
        "export", photo_run.folder, "--format", "savedmodel", "--out", out, "--cache", photo_run.cache, "--json"
    ).json
    assert (result["images"], result["bytes"]["images"]) == (6, 6)
    assert result["difference"] < 1e-4
    assert result["bytes"]["most_levels"] <= 1
    assert result["bytes"]["cosine"] > 0.999
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    asked = check_ended(
        run_python(PROGRAMS / "ask_savedmodel.py", out, *photo_run.files, cwd=tmp_path, env=environment)
    )
    assert cosines(np.array(json.loads(asked.out)), photo_run.predictions).min() > 0.999
    check_card(json.loads((out / "assets.extra" / "pipeline.json").read_text()))
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    [weights] = out.glob("variables/*.data-*")
    assert weights.stat().st_size < 4 * 2_000_000  # it contains each of the 1.7 million weights up to block3_pool once


def test_plain_keras_opens_the_keras_file(run, photo_run: PhotoRun, tmp_path: Path) -> None:
    import keras

    out = tmp_path / "model.keras"
    result = run("export", photo_run.folder, "--format", "keras", "--out", out, "--cache", photo_run.cache, "--json")
    assert result.json["bytes"] is None
    pixels = np.stack([decode(file.read_bytes()) for file in photo_run.files])
    answered = np.asarray(keras.models.load_model(out)(pixels))
    assert np.abs(answered - photo_run.predictions).max() < 1e-3
    with zipfile.ZipFile(out) as archive:
        check_card(json.loads(archive.read("pipeline.json")))


@pytest.mark.parametrize(("kind", "suffix"), [("onnx", ".onnx"), ("litert", ".tflite")])
def test_other_runtimes_predict_without_this_package(
    run, photo_run: PhotoRun, tmp_path: Path, kind: str, suffix: str
) -> None:
    out = tmp_path / f"model{suffix}"
    result = run("export", photo_run.folder, "--format", kind, "--out", out, "--cache", photo_run.cache, "--json").json
    assert (result["format"], result["out"], result["images"], result["bytes"]) == (kind, str(out), 6, None)
    assert result["difference"] < 1e-4
    asked = ask_elsewhere(kind, out, photo_run)
    assert cosines(np.array(asked["embeddings"]), photo_run.predictions).min() > 0.999
    check_card(asked["card"])
    assert [file.name for file in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize(("kind", "suffix"), [("onnx", ".onnx"), ("litert", ".tflite"), ("keras", ".keras")])
@pytest.mark.parametrize("api", ["functional", "ridge"])
def test_features_of_several_layers_are_scaled(
    run, photo_run: PhotoRun, layered_run: Path, tmp_path: Path, kind: str, suffix: str, api: str
) -> None:
    options = ("--cache", photo_run.cache, "--quiet")
    run("predict", layered_run, photo_run.images, "--out", tmp_path / "out.npy", "--api", api, *options)
    predictions = np.load(tmp_path / "out.npy")
    assert np.ptp(predictions, axis=0).max() > 0.1  # different images, so that outputs cannot be mixed up
    out = tmp_path / f"model{suffix}"
    exported = run("export", layered_run, "--format", kind, "--out", out, "--api", api, *options, "--json").json
    assert exported["difference"] < 1e-3
    if kind != "keras":
        embeddings = np.array(ask_elsewhere(kind, out, photo_run)["embeddings"])
        assert np.abs(embeddings - predictions).max() < 1e-3


def test_a_model_with_other_outputs_is_not_kept(run, small_run, tmp_path: Path) -> None:
    """The features of `small_run` come from a narrow network; the full VGG16 gives others."""
    names = {"keras": "model.keras", "savedmodel": "model", "onnx": "model.onnx", "litert": "model.tflite"}
    (tmp_path / "model.onnx").write_text("an older export")
    for kind, name in names.items():
        finished = run(
            "export", small_run.folder, "--format", kind, "--out", tmp_path / name, "--overwrite", "--quiet", code=1
        )
        assert "differs from the stored predictions" in finished.err
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("model.onnx", "an older export")]


def test_outputs_that_ignore_the_image_fail_despite_a_large_common_offset() -> None:
    random = np.random.default_rng(0)
    predictions = (1000 + random.normal(size=(16, 50))).astype(np.float32)
    for wrong in (np.broadcast_to(predictions.mean(axis=0), predictions.shape), predictions[::-1]):
        assert np.linalg.norm(wrong - predictions, axis=1).max() < 2e-3 * np.linalg.norm(predictions[0])
        with pytest.raises(PipelineError, match="of their spread"):
            check_answers(wrong, predictions, "onnx")
    near = check_answers(predictions + np.float32(1e-3), predictions, "onnx")
    assert near.of_length < 1e-5
    assert near.of_spread == pytest.approx(1e-3, rel=0.2)


def test_a_constant_decoder_is_checked_relative_to_lengths() -> None:
    predictions = np.full((4, 3), 0.1, np.float32)
    assert check_answers(predictions * np.float32(1 + 1e-4), predictions, "onnx").of_spread is None
    with pytest.raises(PipelineError, match=r"by 1\.0e-02 of their length \("):
        check_answers(predictions * np.float32(1.01), predictions, "onnx")
    for broken in (np.nan, np.inf):
        with pytest.raises(PipelineError, match="differs from the stored predictions"):
            check_answers(np.full((4, 3), broken, np.float32), predictions, "onnx")


def test_an_existing_file_is_replaced(run, photo_run: PhotoRun, layered_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    out.write_text("an older export")
    command = ("export", layered_run, "--format", "onnx", "--out", out, "--cache", photo_run.cache, "--quiet")
    assert "--overwrite" in run(*command, code=2).err
    run(*command, "--overwrite")
    assert len(ask_elsewhere("onnx", out, photo_run)["embeddings"]) == 6


def test_a_missing_runtime_is_reported_before_any_work(
    run, photo_run: PhotoRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    request = ("export", photo_run.folder, "--format", "onnx", "--out", tmp_path / "x.onnx")
    finished = run(*request, "--cache", tmp_path / "cache", code=2)
    assert "pip install 'image-vectors[onnx]'" in finished.err
    assert list(tmp_path.iterdir()) == []


def test_an_activation_missing_in_onnx_is_refused_before_any_work(run, photo_run: PhotoRun, tmp_path: Path) -> None:
    options = ("--weights", "random:0", "--layer", "block1_pool", "--engine", "keras", "--quiet")
    training = ("--preset", "network", "--epochs", 1, "--activation", "sparsemax", "--api", "functional", "--json")
    where = ("--models", tmp_path / "models", "--cache", photo_run.cache)
    targets = photo_run.images.parent / "targets.csv"
    trained = run("train", photo_run.images, "--targets", targets, *options, *training, *where).json["run"]
    request = ("export", trained, "--format", "onnx", "--out", tmp_path / "x.onnx", "--cache", tmp_path / "cache")
    finished = run(*request, code=2)
    assert "an activation that ONNX lacks (sparsemax)" in finished.err
    assert [file.name for file in tmp_path.iterdir()] == ["models"]
    out = tmp_path / "x.tflite"  # LiteRT has it
    run("export", trained, "--format", "litert", "--out", out, "--cache", photo_run.cache, "--quiet")
    assert out.is_file()


def test_wrong_requests_are_refused_and_leave_nothing(run, small_run, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    alone = tmp_path / "alone.keras"
    alone.write_bytes(small_run.model.read_bytes())
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in [
        ((small_run.folder, "--format", "savedmodel", "--out", tmp_path / "full"), "exists"),
        ((small_run.folder, "--format", "savedmodel", "--out", tmp_path / "no" / "x"), "does not exist"),
        ((small_run.folder, "--format", "keras", "--out", tmp_path / "x.h5"), "must end in .keras"),
        ((small_run.folder, "--format", "onnx", "--out", tmp_path / "x.keras"), "must end in .onnx"),
        ((small_run.folder, "--format", "litert", "--out", tmp_path / "x.onnx"), "must end in .tflite"),
        ((small_run.folder, "--format", "litert", "--out", tmp_path / "no" / "x.tflite"), "does not exist"),
        ((small_run.folder, "--format", "abacus", "--out", tmp_path / "x"), "'abacus' is not one of"),
        ((small_run.folder, "--api", "sequential", "--format", "keras", "--out", tmp_path / "x.keras"), "no decoder"),
        ((tmp_path / "gone", "--format", "keras", "--out", tmp_path / "x.keras"), "no such model"),
        ((tmp_path / "full", "--format", "keras", "--out", tmp_path / "x.keras"), "is not a run"),
        ((alone, "--format", "keras", "--out", tmp_path / "x.keras"), "--images IMAGES"),
    ]:
        finished = run("export", *arguments, "--quiet", code=2)
        assert message in finished.err, finished.err
        assert finished.out == ""
    assert sorted(tmp_path.rglob("*")) == before
