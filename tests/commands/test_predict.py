"""`predict`: embeddings of images as files, and the nearest words."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from conftest import SmallRun
from helpers import SMALL, make_images, write_targets

from pipeline.core.model_files import read_card
from pipeline.core.runs import read_run, write_run
from pipeline.core.vectors import cosines

WORDS = {"cat": [1, 0, 0], "dog": [0, 1, 0], "sky": [0, 0, 1], "not sky": [0, 0, -1]}


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    file = tmp_path / "words.txt"
    file.write_text("".join(f"{word.replace(' ', '-')} {' '.join(map(str, row))}\n" for word, row in WORDS.items()))
    return file


@pytest.fixture
def predict(run, small_run: SmallRun, tmp_path: Path) -> Callable:
    """Run `predict` on new images; one of them is unreadable."""
    images = make_images(tmp_path / "new", range(3))
    (images / "bad.png").write_bytes(b"bad")

    def command(*options: object, model: Path = small_run.folder, out: str = "out.npz", code: int = 0):
        return run("predict", model, images, "--out", tmp_path / out, "--overwrite", "--quiet", *options, code=code)

    return command


def by_keras(model: Path, features: np.ndarray) -> np.ndarray:
    import keras

    return keras.models.load_model(model).predict(features, verbose=0)


def test_predictions_match_plain_keras_in_three_formats(predict, run, small_run: SmallRun, tmp_path: Path) -> None:
    run("extract", tmp_path / "new", *SMALL, "--out", tmp_path / "features.npy")
    expected = by_keras(small_run.model, np.load(tmp_path / "features.npy"))
    for suffix in ("npz", "npy", "parquet"):
        result = predict("--json", out=f"out.{suffix}").json
    assert (result["images"], result["computed"], result["cached"], result["dim"]) == (4, 0, 3, 3)
    assert result["failed"] == [{"path": "bad.png", "error": "not an image of a format that is read"}]
    assert (result["candidates"], result["nearest"]) == (None, [])
    paths = ["0000.png", "0001.png", "0002.png"]
    with np.load(tmp_path / "out.npz") as saved:
        assert saved["paths"].tolist() == paths
        assert saved["predictions"].dtype == np.float32
        assert np.allclose(saved["predictions"], expected, atol=1e-5)
        assert np.array_equal(np.load(tmp_path / "out.npy"), saved["predictions"])
        table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
        assert table["path"].to_pylist() == paths
        assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), saved["predictions"])


def test_the_decoder_can_be_ridge_or_a_file(predict, run, small_run: SmallRun, tmp_path: Path) -> None:
    run("extract", tmp_path / "new", *SMALL, "--out", tmp_path / "features.npy")
    ridge = small_run.folder / "ridge.keras"
    expected = by_keras(ridge, np.load(tmp_path / "features.npy"))
    for options in ({"model": ridge}, {}):
        predict(*([] if options else ["--api", "ridge"]), out="out.npy", **options)
        assert np.allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)


def test_nearest_words_are_written_and_printed(predict, vocabulary: Path, tmp_path: Path) -> None:
    for suffix in ("npz", "parquet"):
        printed = predict("--nearest", 2, "--vocabulary", vocabulary, out=f"out.{suffix}").out
    with np.load(tmp_path / "out.npz") as saved:
        predictions, names, found = saved["predictions"], saved["nearest"], saved["cosines"]
    assert names.shape == found.shape == (3, 2)
    words, vectors = [word.replace(" ", "-") for word in WORDS], np.array(list(WORDS.values()))
    for prediction, near, values in zip(predictions, names, found, strict=True):
        all_cosines = cosines(np.broadcast_to(prediction, vectors.shape), vectors)
        order = np.argsort(-all_cosines)[:2]
        assert near.tolist() == [words[number] for number in order]
        assert np.allclose(values, all_cosines[order], atol=1e-6)
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert table["nearest"].to_pylist() == names.tolist()
    assert np.allclose(table["cosines"].to_pylist(), found)
    assert f"{names[0][0]} {found[0][0]:.3f}" in printed
    assert "Nearest of 4 names" in printed


def test_nearest_labels_come_from_the_run(predict, small_run: SmallRun) -> None:
    result = predict("--nearest", 5, "--json").json
    assert result["candidates"] == 1
    assert [each["names"] for each in result["nearest"]] == [["red"]] * 3
    assert [each["path"] for each in result["nearest"]] == ["0000.png", "0001.png", "0002.png"]


def test_wrong_requests_are_refused(predict, small_run: SmallRun, vocabulary: Path, tmp_path: Path) -> None:
    assert "layer: trained on 'block5_pool', given 'fc2'" in predict("--layer", "fc2", code=2).err
    assert "no decoder 'sequential'; it has functional, ridge" in predict("--api", "sequential", code=2).err
    assert "--api ridge chooses among those of a run" in predict("--api", "ridge", model=small_run.model, code=2).err
    assert "say how many with --nearest K" in predict("--vocabulary", vocabulary, code=2).err
    assert "choose another format" in predict("--nearest", 1, out="out.npy", code=2).err
    assert "must end in .npz or .npy or .parquet or .csv" in predict(out="out.txt", code=2).err
    assert "no such model" in predict(model=tmp_path / "gone.keras", code=2).err
    assert "is not a run" in predict(model=tmp_path / "new", code=2).err
    vocabulary.write_text("cat 1 2\ndog 3 4\n")
    wrong = predict("--nearest", 1, "--vocabulary", vocabulary, code=2)
    assert "has vectors of dimension 2; the targets have 3" in wrong.err
    shutil.copy(small_run.model, tmp_path / "alone.keras")
    alone = predict("--nearest", 1, model=tmp_path / "alone.keras", code=2)
    assert "name words with --vocabulary FILE" in alone.err
    assert not list(tmp_path.glob("*out.*"))


def test_features_of_several_layers_are_scaled_as_in_training(run, folder: Path, tmp_path: Path) -> None:
    layers = ("--weights", "random:0", "--layer", "block5_pool,block5_conv3", "--quiet")
    network = ("--epochs", 2, "--api", "functional", "--models", tmp_path / "models", "--json")
    trained = run("train", folder, "--targets", write_targets(tmp_path, "red", "blue"), *layers, *network).json
    model = Path(trained["run"]) / "functional.keras"
    run("extract", folder, *layers, "--out", tmp_path / "features.npz")
    run("predict", trained["run"], folder, "--out", tmp_path / "out.npy", "--quiet")
    with np.load(tmp_path / "features.npz") as saved:
        parts = [saved[name] for name in ("block5_pool", "block5_conv3")]
    scaled = np.hstack([part / scale for part, scale in zip(parts, read_card(model).scales, strict=True)])
    assert np.allclose(np.load(tmp_path / "out.npy"), by_keras(model, scaled), atol=1e-4)


def test_a_decoder_no_better_than_the_mean_target_is_reported(
    predict, run, small_run: SmallRun, tmp_path: Path
) -> None:
    copy = shutil.copytree(small_run.folder, tmp_path / "weak")
    record = read_run(copy)
    write_run(copy, replace(record, result={**record.trained, "above_mean": False}))
    said = "was not shown to be better than always answering the mean target"
    assert said in predict(model=copy).err
    assert said not in predict("--api", "ridge", model=copy).err
    search = ("search", small_run.images, "--query", "red", "--model", copy, "--quiet")
    assert said in run(*search).err
    query = min(small_run.images.rglob("*.png"))
    features = ("search", small_run.images, "--query", query, "--model", copy, "--space", "features", "--quiet")
    assert said not in run(*features).err
