"""`export`: what the exported model answers, and what is refused."""

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers import PROGRAMS, SMALL, check_ended, encoded, make_image, run_python, write_targets

from pipeline.core.vectors import cosines
from pipeline.data.decoding import decode


@dataclass(frozen=True)
class PhotoRun:
    """A run on JPEGs of whole VGG16 features, and its predictions for them."""

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
    options = (*SMALL, "--engine", "keras", "--cache", folder / "cache")
    training = ("--epochs", 5, "--api", "functional", "--models", folder / "models", "--json")
    targets = write_targets(folder, "blue", "red")
    trained = run("train", folder / "images", "--targets", targets, *options, *training).json["run"]
    run("predict", trained, folder / "images", "--out", folder / "out.npy", *options)
    return PhotoRun(folder / "images", Path(trained), folder / "cache", np.load(folder / "out.npy"))


def check_card(card: dict) -> None:
    assert (card["weights"], card["extractor"]["layer"], card["target_dim"]) == ("random:0", "block5_pool", 3)
    assert card["extractor"]["image"] == "squash-bilinear-224x224"
    assert card["targets"]["file"].endswith("targets.csv")
    assert {"version", "format", "decoder"} <= set(card)


def test_a_savedmodel_answers_bytes_without_this_package(run, photo_run: PhotoRun, tmp_path: Path) -> None:
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


def test_features_of_several_layers_are_scaled(run, photo_run: PhotoRun, tmp_path: Path) -> None:
    options = ("--weights", "random:0", "--layer", "block5_pool,block3_pool", "--engine", "keras", "--quiet")
    training = ("--epochs", 2, "--models", tmp_path / "models", "--cache", photo_run.cache, "--json")
    targets = photo_run.images.parent / "targets.csv"
    trained = run("train", photo_run.images, "--targets", targets, *options, *training).json["run"]
    out = tmp_path / "model.keras"
    exported = run("export", trained, "--format", "keras", "--out", out, "--cache", photo_run.cache, "--json").json
    assert exported["difference"] < 1e-3


def test_a_model_that_answers_otherwise_is_not_kept(run, small_run, tmp_path: Path) -> None:
    """The features of `small_run` are those of a narrow network, which the whole VGG16 does not have."""
    for kind, out in (("keras", tmp_path / "model.keras"), ("savedmodel", tmp_path / "model")):
        finished = run("export", small_run.folder, "--format", kind, "--out", out, "--quiet", code=1)
        assert "differs from the stored predictions" in finished.err
    assert list(tmp_path.iterdir()) == []


def test_wrong_requests_are_named_and_leave_nothing(run, small_run, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    alone = tmp_path / "alone.keras"
    alone.write_bytes(small_run.model.read_bytes())
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in [
        ((small_run.folder, "--format", "savedmodel", "--out", tmp_path / "full"), "exists"),
        ((small_run.folder, "--format", "savedmodel", "--out", tmp_path / "no" / "x"), "does not exist"),
        ((small_run.folder, "--format", "keras", "--out", tmp_path / "x.h5"), "must be one of .keras"),
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
