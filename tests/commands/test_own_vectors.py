"""`train`, `evaluate` and `predict` on vectors of another model: --features."""

import json
import logging
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from helpers import SMALL, decoder_weights, load_npz, make_image, make_images, write_targets

from pipeline.commands.examples import Source, load_split_examples
from pipeline.commands.training_options import ExampleOptions
from pipeline.core.errors import RequestError
from pipeline.core.runs import read_run, write_run
from pipeline.data.feature_tables import read_features
from pipeline.data.images import ImageSet
from pipeline.data.options import TargetOptions
from pipeline.data.sources import find_images
from pipeline.data.splits import fold_images
from pipeline.features.options import ExtractionOptions, ExtractorOptions
from pipeline.features.sources import FeatureSource, NetworkSource, TableSource

LABELS = ("blue", "green", "red")
TRAINED = ("epochs", "seconds", "train_cosine")
QUICK = ("--epochs", 2, "--api", "functional", "--quiet", "--json")


@dataclass(frozen=True)
class OwnVectors:
    """Sixty vectors of three labels, and a run that was trained on them.

    Attributes:
        folder: The folder of `clip.npz`, `targets.csv` and the runs.
        run: The folder of the run.
    """

    folder: Path
    run: Path

    @property
    def table(self) -> Path:
        return self.folder / "clip.npz"

    @property
    def targets(self) -> Path:
        return self.folder / "targets.csv"


def make_vectors(file: Path, count: int = 60, seed: int = 0, dim: int = 16, **columns: object) -> Path:
    """Vectors around a centre for each label; the paths have the label as their folder."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(len(LABELS), dim))
    rows = np.arange(count) % len(LABELS)
    vectors = (centres[rows] + random.normal(size=(count, dim)) / 2).astype(np.float32)
    paths = np.array([f"{LABELS[row]}/{seed}-{number:02}.jpg" for number, row in enumerate(rows)])
    np.savez(file, paths=paths, features=vectors, **{name: np.asarray(column) for name, column in columns.items()})
    return file


@pytest.fixture(scope="module")
def own(run, tmp_path_factory: pytest.TempPathFactory) -> OwnVectors:
    folder = tmp_path_factory.mktemp("own")
    table = make_vectors(folder / "clip.npz")
    options = ("--targets", write_targets(folder, *LABELS), "--models", folder / "models", *QUICK)
    return OwnVectors(folder, Path(run("train", "--features", table, *options).json["run"]))


def test_a_decoder_is_trained_and_evaluated_without_images_and_without_a_network(
    own: OwnVectors, run, home: Path
) -> None:
    record = json.loads((own.run / "run.json").read_text())
    assert record["options"]["features"] == str(own.table)
    assert {"images", "weights"}.isdisjoint(record["options"])
    assert record["extractor"].keys() == {"table", "vectors"}
    assert record["extractor"]["table"] == "clip.npz"
    result = record["result"]
    assert (result["images"], result["validation"]) == (60, 12)
    assert result["models"]["functional"]["validation_cosine"] > result["baselines"]["mean"]
    stores = set(home.rglob("*.lance"))
    again = run("evaluate", own.run, "--json", "--quiet").json
    assert again["models"]["functional"]["cosine"]["mean"] == pytest.approx(
        result["models"]["functional"]["validation_cosine"]
    )
    assert again["images"] == 12
    assert set(home.rglob("*.lance")) == stores
    page = Path(again["report"]).read_text()
    assert "table clip.npz" in page
    assert "blue/0-" in page
    assert "data:image/jpeg" not in page
    assert "no preview" not in page


def test_evaluate_and_predict_take_other_vectors(own: OwnVectors, run, tmp_path: Path) -> None:
    table = make_vectors(tmp_path / "new.npz", count=40, seed=1)
    command = ("evaluate", own.run, "--features", table, "--targets", own.targets, "--json", "--quiet")
    scores = run(*command).json
    assert (scores["images"], Path(scores["report"]).parent) == (40, own.run)
    out = tmp_path / "out.npz"
    result = run(
        *("predict", own.run, "--features", table, "--out", out, "--nearest", 1, "--json", "--quiet"),
    ).json
    assert (result["images"], result["cached"], result["extractor"]["table"]) == (40, 40, "clip.npz")
    written = load_npz(out)
    assert written["paths"].tolist() == load_npz(table)["paths"].tolist()
    assert set(written["nearest"].ravel()) <= set(LABELS)
    again = run("evaluate", own.run, "--features", own.table, "--targets", own.targets, "--json")
    assert "were trained on 48 of 60 images" in again.err


def test_evaluate_tests_scores_by_permutations(own: OwnVectors, run, tmp_path: Path) -> None:
    command = ("evaluate", own.run, "--json", "--quiet", "--permutations")
    result = run(*command, 50, "--cluster", "image", "--scores", tmp_path / "scores.csv").json
    table = pd.read_csv(tmp_path / "scores.csv").groupby("model")[["p", "q"]].agg(["count", "min"])
    assert table.loc["functional"].tolist() == pytest.approx([3, 1 / 51] * 2)
    assert table.loc["mean", ("p", "count")] == 0
    assert result["permutations"] == {"count": 50, "kind": "image", "clusters": 12, "whole": False, "too_few": None}
    assert result["models"]["functional"]["permutation_test"]["centred_cosine"] == pytest.approx(1 / 51)
    assert "among 3 labels gives 6 different results" in run(*command, 50).json["permutations"]["too_few"]
    assert "permutations" in run(*command, 5, code=2).err


def test_every_score_is_written_to_a_file(own: OwnVectors, run, tmp_path: Path) -> None:
    table = make_vectors(tmp_path / "new.npz", count=40, seed=1)
    named = tmp_path / "targets.csv"
    named.write_text("label,red,green,blue\n" + own.targets.read_text())
    data = ("--features", table, "--targets", named, "--quiet", "--json")
    result = run("evaluate", own.run, *data, "--report", tmp_path / "r.html", "--scores", tmp_path / "s.csv").json
    assert result["scores"] == str(tmp_path / "s.csv")
    scores = pd.read_csv(tmp_path / "s.csv")
    assert scores.groupby(["model", "unit"], sort=False).size().to_dict() == {
        (model, unit): count
        for model in (*result["models"], *result["baselines"])
        for unit, count in (("image", 40), ("dimension", 3))
    }
    assert scores.name[scores.unit == "dimension"].tolist()[:3] == ["red", "green", "blue"]
    means = scores[scores.unit == "image"].groupby("model")[["cosine", "identification"]].mean()
    for name, summary in (result["models"] | result["baselines"]).items():
        expected = summary["cosine"]["mean"], summary["patterns"]["identification"]
        assert means.loc[name].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scores.xlsx", "scores.xlsx: the name must end in .parquet or .csv."),
        ("missing/scores.csv", "missing does not exist; create it first."),
    ],
)
def test_a_file_of_scores_is_checked_first(own: OwnVectors, run, tmp_path: Path, name: str, message: str) -> None:
    for command in (("evaluate", own.run), ("train", "--features", own.table, "--targets", own.targets)):
        refused = run(*command, "--scores", tmp_path / name, code=2, cwd=tmp_path)
        assert (refused.err.count("error:"), message in refused.err) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_train_tests_ridge_regression_by_permutations(own: OwnVectors, run, tmp_path: Path) -> None:
    command = ("train", "--features", own.table, "--targets", own.targets, "--models", tmp_path, *QUICK)
    result = run(*command, "--permutations", 20, "--cluster", "image", "--folds", 2).json
    test = result["permutations"]
    assert test["permutations"]["clusters"] == 60
    assert test["p"] == pytest.approx(1 / 21)
    assert test["chance"] < test["chance_p95"] < test["score"]
    assert '<h2 id="retraining">' in Path(result["report"]).read_text()
    assert json.loads((Path(result["run"]) / "run.json").read_text())["result"]["permutations"] == test


@pytest.mark.slow
def test_train_measures_how_much_the_score_moves(own: OwnVectors, run, tmp_path: Path) -> None:
    command = ("train", "--features", own.table, "--targets", own.targets, "--models", tmp_path, "--epochs", 2)
    shown = run(*command, "--api", "functional", "--refits", 2, "--learning-curve")
    assert "random halves, other seeds" in shown.out
    [record] = tmp_path.glob("*/run.json")
    result = json.loads(record.read_text())["result"]
    refits = result["refits"]
    assert refits["cosine"] == pytest.approx(result["models"]["functional"]["validation_cosine"])
    assert (refits["count"], refits["half"]) == (2, 24)
    assert refits["seeds"]["lowest"] <= refits["seeds"]["mean"] <= refits["seeds"]["highest"]
    report = (record.parent / "report.html").read_text()
    assert '<h2 id="refits">' in report
    assert "Held-out cosine by number of training images" in shown.out
    assert [point["images"] for point in result["learning_curve"]["points"]] == [3, 6, 12, 24, 48]
    assert result["learning_curve"]["points"][-1]["cosine"] == pytest.approx(refits["cosine"])
    assert '<h2 id="training-images">' in report
    assert "folds show how much the score moves" in run(*command, "--refits", 2, "--folds", 2, code=2).err


def test_a_users_keras_model_takes_a_table(own: OwnVectors, run, tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(3)])
    model.save(tmp_path / "mine.keras")
    run("predict", tmp_path / "mine.keras", "--features", own.table, "--out", tmp_path / "out.npy", "--quiet")
    expected = model.predict(load_npz(own.table)["features"], verbose=0)
    assert np.allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)


@pytest.mark.parametrize("rule", ["group:0.3", "classes:0.4", "column", "random:0.3"])
def test_every_split_works_on_a_table(rule: str, own: OwnVectors, tmp_path: Path) -> None:
    groups, sides = np.arange(60) // 6, ["test" if number < 15 else "train" for number in range(60)]
    source = TableSource(read_features(make_vectors(tmp_path / "clip.npz", groups=groups, splits=sides)))
    images = source.table.images
    options = ExampleOptions(None, rule, targets=TargetOptions(own.targets))
    examples = Source.read(images, options.targets)
    split = load_split_examples(examples, options, source, ExtractionOptions(progress=False)).split
    held_out, training = split.validation.tolist(), split.train.tolist()
    assert sorted(held_out + training) == list(range(60))
    assert 0 < len(held_out) < 30
    if rule.startswith("group"):
        assert {groups[row] for row in held_out}.isdisjoint({groups[row] for row in training})
    if rule.startswith("classes"):
        assert {images.labels[row] for row in held_out}.isdisjoint({images.labels[row] for row in training})
    if rule == "column":
        assert held_out == list(range(15))


def load(images: ImageSet, targets: Path, source: FeatureSource, on_missing: Literal["error", "skip"] = "error"):
    """Split examples of images; no decoder is trained."""
    options = ExampleOptions(None, targets=TargetOptions(targets, on_missing=on_missing))
    extraction = ExtractionOptions(progress=False)
    return load_split_examples(Source.read(images, options.targets), options, source, extraction)


def test_images_with_the_same_vector_stay_together(own: OwnVectors, tmp_path: Path) -> None:
    arrays = load_npz(own.table)
    arrays["features"][1::2] = arrays["features"][::2]
    np.savez(tmp_path / "twice.npz", **arrays)
    table = read_features(tmp_path / "twice.npz")
    split = load(table.images, own.targets, TableSource(table))
    record = split.record()
    assert len(record.near_duplicates) == 30
    assert set(record.train.values()).isdisjoint(record.validation.values())
    folds = fold_images(table.images, split.rule, split.duplicates, 3, 0)
    assert all(set(fold.train // 2).isdisjoint(fold.validation // 2) for fold in folds)


@pytest.mark.slow
def test_a_run_is_repeated_and_compared_with_shuffled_targets(own: OwnVectors, run, tmp_path: Path) -> None:
    again = run("train", "--config", own.run, "--models", tmp_path / "models", "--quiet", "--json").json
    first, second = (decoder_weights(folder, ["functional"]) for folder in (own.run, again["run"]))
    assert all(map(np.array_equal, first, second))
    table = make_vectors(tmp_path / "new.npz", count=40, seed=1)
    command = ("evaluate", own.run, "--features", table, "--targets", own.targets, "--shuffled", "--json", "--quiet")
    scores = run(*command).json
    assert scores["models"]["functional"]["cosine"]["mean"] > scores["baselines"]["shuffled"]["cosine"]["mean"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight images of each label, and one of them resized."""
    for number, label in enumerate(LABELS):
        make_images(tmp_path / "photos" / label, range(8 * number, 8 * number + 8))
    make_image(3).resize((90, 60)).save(tmp_path / "photos" / "blue" / "resized.png")
    return tmp_path / "photos"


def test_our_vectors_with_the_images_give_the_same_examples(run, photos: Path, home: Path, tmp_path: Path) -> None:
    run("extract", photos, *SMALL, "--out", tmp_path / "vectors.parquet")
    run("export", photos, *SMALL, "--format", "lance", "--out", tmp_path / "vectors.lance")
    lance, parquet = (read_features(tmp_path / f"vectors.{kind}") for kind in ("lance", "parquet"))
    assert lance.digest == parquet.digest
    assert lance.images.labels == parquet.images.labels
    images, targets = find_images(photos), write_targets(tmp_path, *LABELS)
    cache = home / ".cache" / "image-vectors"
    network = NetworkSource(ExtractorOptions(weights="random:0", layer="block5_pool").extractors())
    options = ExampleOptions(None, targets=TargetOptions(targets))
    extraction = ExtractionOptions(progress=False, cache=cache)
    source = Source.read(images, options.targets)
    table = TableSource(read_features(tmp_path / "vectors.parquet"))
    first, second = (load_split_examples(source, options, features, extraction) for features in (network, table))
    assert first.record() == second.record()
    assert ["blue/0003.png", "blue/resized.png"] in second.record().near_duplicates
    assert np.array_equal(first.units, second.units)
    assert np.array_equal(first.training_data().x[:], second.training_data().x[:])


@pytest.mark.slow
def test_a_table_of_our_vectors_trains_the_decoder_of_the_images(run, photos: Path, tmp_path: Path) -> None:
    options = ("--targets", write_targets(tmp_path, *LABELS), "--models", tmp_path / "models", *QUICK)
    images = run("train", photos, *SMALL, *options).json
    run("extract", photos, *SMALL, "--out", tmp_path / "vectors.parquet")
    table = run("train", photos, "--features", tmp_path / "vectors.parquet", *options).json
    assert all(map(np.array_equal, *(decoder_weights(result["run"], ["functional"]) for result in (images, table))))
    assert "data:image/jpeg" in (Path(table["run"]) / "report.html").read_text()
    assert run("evaluate", table["run"], "--quiet", "--json").json["images"] == images["validation"]


def test_images_missing_from_the_table_are_counted_and_named(
    own: OwnVectors, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    paths = load_npz(own.table)["paths"].tolist()
    for number, path in enumerate([*paths[:30], "red/new.png"]):
        (tmp_path / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
        make_image(number).save(tmp_path / "photos" / path)
    (tmp_path / "photos" / paths[0]).write_bytes(b"no image")
    images, source = find_images(tmp_path / "photos"), TableSource(read_features(own.table))
    with pytest.raises(RequestError, match=r"no vector for 1 of 31 images: 'red/new.png'"):
        load(images, own.targets, source)
    features = load(images, own.targets, source, "skip").all.features
    assert "Left out 1 image without a vector: 'red/new.png'" in caplog.text
    assert f"has 30 vectors without an image: '{paths[30]}'" in caplog.text
    assert f"skipped {paths[0]}: not an image" in caplog.text
    assert sorted(features.paths) == sorted(paths[1:30])
    rows = [paths.index(path) for path in features.paths]
    assert np.array_equal(features.vectors(), load_npz(own.table)["features"][rows])


def test_training_images_are_recognised_by_their_vectors(own: OwnVectors, run, tmp_path: Path) -> None:
    """A run on images with vectors is evaluated on vectors alone, and a run on vectors alone on images with them."""
    for number, path in enumerate(load_npz(own.table)["paths"].tolist()):
        (tmp_path / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
        make_image(number).save(tmp_path / "photos" / path)
    named = ("--features", own.table, "--targets", own.targets)
    alone = ("evaluate", own.run, "--images", tmp_path / "photos", *named, "--json")
    assert "were trained on 48 of 60 images" in run(*alone).err
    both = run("train", tmp_path / "photos", *named, "--models", tmp_path / "models", *QUICK).json
    assert f"were trained on {both['train']} of 60 images" in run("evaluate", both["run"], *named, "--json").err
    other = make_vectors(tmp_path / "other.npz", count=40, seed=1)
    record = read_run(Path(both["run"]))
    write_run(Path(both["run"]), replace(record, options={**record.options, "features": str(other)}))
    unknown = run("evaluate", both["run"], *named, "--json").err
    assert f"{both['train']} of the {both['train']} training images of {both['run']} are not recognised" in unknown


def test_an_interrupted_run_resumes_unless_the_vectors_changed(own: OwnVectors, run, tmp_path: Path) -> None:
    table = Path(shutil.copy(own.table, tmp_path / "clip.npz"))
    folder = shutil.copytree(own.run, tmp_path / "run")
    record = read_run(folder)
    model = {name: value for name, value in record.result["models"]["functional"].items() if name in TRAINED}
    fitted = {"models": {"functional": model}, "shares": {}, "diverged": None}
    unfinished = replace(record, options={**record.options, "features": str(table)}, result=None, fitted=fitted)
    write_run(folder, unfinished)
    assert run("train", "--resume", folder, "--json", "--quiet").json["headline"] == record.result["headline"]
    write_run(folder, unfinished)
    arrays = load_npz(table)
    np.savez(table, paths=arrays["paths"], features=arrays["features"] * 2)
    assert "cannot be resumed: the images changed" in run("train", "--resume", folder, code=2).err
    assert "12 of the 12 held-out images changed" in run("evaluate", folder, code=2).err


def test_mismatched_inputs_are_refused(own: OwnVectors, small_run, run, tmp_path: Path) -> None:
    narrow = make_vectors(tmp_path / "narrow.npz", dim=8)
    out = ("--out", tmp_path / "out.npz")
    targets = ("--targets", own.targets)
    own_table = ("--features", own.table)
    vectors, network = "was trained on the vectors in clip.npz", "a network computes from images; name IMAGES, without"
    no_network = "no network to export with it. The file itself is a plain Keras model.*--format parquet"
    narrower = r"vectors of 16 numbers \(in clip.npz\); those in narrow.npz have 8"
    replaced = "takes the place of the network; leave out --weights random, --layer fc1"
    for arguments, message in [
        (("predict", own.run, small_run.images, *out), f"{vectors} .16 numbers each.*--features FILE"),
        (("predict", own.run, *out), "Name either IMAGES, or a table of vectors with --features FILE"),
        (("predict", own.run, small_run.images, *own_table, *out), "Name either IMAGES, or a table"),
        (("predict", own.run, "--features", narrow, *out), narrower),
        (("predict", small_run.folder, *own_table, *out), network),
        (("evaluate", own.run, "--images", small_run.images, *targets), vectors),
        (("evaluate", own.run, *own_table), "name their target embeddings with --targets FILE"),
        (("evaluate", own.run, small_run.folder, *own_table, *targets), network),
        (("search", small_run.images, "--query", "red", "--model", own.run), vectors),
        (("train", *own_table), "name their target embeddings with --targets FILE"),
        (("train", *own_table, *targets, "--layer", "fc1", "--weights", "random"), replaced),
        (("train", *own_table, *targets, "--engine", "mnn"), "takes the place of the network; leave out --engine mnn"),
        (("train", *own_table, *targets, "--device", "cpu"), "takes the place of the network; leave out --device cpu"),
        (("evaluate", own.run, *own_table, *targets, "--batch-size", 2), "leave out --batch-size 2"),
        (("train", "--features", tmp_path, *targets), "is a folder"),
        (("train", *own_table, *targets, "--split", "group"), "needs the column 'group' .*or a table of vectors"),
        (("export", own.run, "--format", "keras", "--out", tmp_path / "m.keras"), no_network),
        (("export", own.run, "--format", "savedmodel", "--out", tmp_path / "m"), no_network),
    ]:
        assert re.search(message, run(*arguments, code=2).err), arguments
    assert not (tmp_path / "out.npz").exists()
    assert [summary["images"] for summary in run("models", own.folder / "models", "--json").json["runs"]] == [
        str(own.table)
    ]


def test_a_run_on_a_table_is_exported_as_a_table(own: OwnVectors, run, tmp_path: Path) -> None:
    out = tmp_path / "run.parquet"
    assert run("export", own.run, "--format", "parquet", "--out", out, "--quiet", "--json").json["rows"] == 60
    rows = pq.read_table(out).to_pydict()
    assert np.array_equal(np.array(rows["vector"], np.float32), load_npz(own.table)["features"])
    assert set(rows["split"]) == {"train", "held-out"}
    assert all(image["bytes"] is None for image in rows["image"])


def test_targets_match_rows(own: OwnVectors, tmp_path: Path) -> None:
    arrays = load_npz(own.table)
    np.save(tmp_path / "clip.npy", arrays["features"])
    np.save(tmp_path / "targets.npy", np.arange(120).reshape(60, 2))
    table = read_features(tmp_path / "clip.npy")
    examples = load(table.images, tmp_path / "targets.npy", TableSource(table)).all
    assert examples.features.paths[:2] == ["0", "1"]
    assert examples.targets.tolist() == np.arange(120).reshape(60, 2).tolist()
