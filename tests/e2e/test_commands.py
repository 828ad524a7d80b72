"""Whole commands: their outputs, their error messages, and their leftovers."""

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from helpers import (
    PROGRAMS,
    SMALL,
    Finished,
    are_equal,
    check_ended,
    decoder_weights,
    environment_at,
    make_image,
    make_images,
    run_python,
    write_targets,
)


@pytest.fixture
def targets(tmp_path: Path) -> Path:
    return write_targets(tmp_path, "blue", "red")


@pytest.mark.parametrize(
    "arguments", [(), ("--help",), ("train", "--help"), ("train", "--epochs", "none"), ("nonsense",)]
)
def test_help_and_wrong_arguments_load_no_heavy_library(arguments: tuple[str, ...]) -> None:
    finished = run_python(PROGRAMS / "imported_by_command.py", *arguments, env=environment_at(Path.home()))
    assert finished.code in (0, 2)
    assert finished.out.endswith("[]\n")


def test_vectors_are_written_in_three_formats(run, folder: Path, tmp_path: Path) -> None:
    (folder / "red" / "bad.png").write_bytes(b"bad")
    files = [tmp_path / f"out.{suffix}" for suffix in ("npz", "npy", "parquet")]
    for file in files:
        result = run("extract", folder, *SMALL, "--out", file, "--json").json
    assert result["failed"] == [{"path": "red/bad.png", "error": "not an image of a format that is read"}]
    assert result["images"] == 7
    with np.load(files[0]) as saved:
        paths, vectors = saved["paths"].tolist(), saved["features"]
    assert paths == ["blue/0.png", "blue/1.png", "blue/2.png", "red/0.png", "red/1.png", "red/2.png"]
    assert (vectors.shape, vectors.dtype) == ((6, 512), np.float32)
    assert np.array_equal(np.load(files[1]), vectors)
    table = pyarrow.parquet.read_table(files[2])
    assert table["path"].to_pylist() == paths
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), vectors)
    assert sorted(file.name for file in tmp_path.glob("*out*")) == ["out.npy", "out.npz", "out.parquet"]


def test_strict_makes_a_skipped_image_an_error(run_process, folder: Path) -> None:
    (folder / "bad\x1b[31m.png").write_bytes(b"bad")
    finished = run_process("extract", folder, *SMALL, "--strict", "--json", code=1)
    assert len(finished.json["failed"]) == 1
    assert "skipped bad\\x1b[31m.png: not an image" in finished.err


@pytest.mark.slow
def test_extraction_on_another_backend_loads_no_tensorflow(home: Path, folder: Path, tmp_path: Path) -> None:
    command = ("extract", folder, *SMALL, "--engine", "keras", "--batch-size", 6, "--cache", tmp_path / "cache")
    environment = environment_at(home) | {"KERAS_BACKEND": "jax"}
    finished = check_ended(run_python(PROGRAMS / "imported_by_command.py", *command, env=environment))
    imported = finished.out.splitlines()[-1]
    assert "'jax'" in imported
    assert "'tensorflow'" not in imported


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    make_images(folder / "blue", range(3))
    make_images(folder / "red", range(3, 6))
    return folder


@pytest.fixture(scope="module")
def trained(run, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("trained")
    options = ("--epochs", 5, "--split", "random:0.4", "--models", folder / "models", "--json")
    return run("train", images, "--targets", write_targets(folder, "blue", "red"), *SMALL, *options)


def test_a_run_is_reproduced_bit_for_bit_from_run_json(run, trained: Finished, tmp_path: Path) -> None:
    config = Path(trained.json["run"]) / "run.json"
    repeat = ("train", "--config", config, "--quiet", "--json", "--models", tmp_path / "models")
    again = run(*repeat, cwd=tmp_path)
    assert again.json["run"] != trained.json["run"]
    assert are_equal(decoder_weights(again.json["run"]), decoder_weights(trained.json["run"]))
    for name, model in trained.json["models"].items():
        assert model["validation_cosine"] == again.json["models"][name]["validation_cosine"]
    changed = run(*repeat, "--seed", 5)
    assert changed.json["models"]["functional"]["train_cosine"] != model["train_cosine"]
    assert len(list((tmp_path / "models").iterdir())) == 2


def test_models_refuse_incompatible_images_and_targets(run, trained: Finished, images: Path, tmp_path: Path) -> None:
    model = trained.json["models"]["sequential"]["path"]
    own = ("evaluate", model, "--images", images, "--targets", write_targets(tmp_path, "blue", "red"), "--quiet")
    assert run(*own, "--json").json["images"] == 6
    assert "layer: trained on 'block5_pool', given 'fc2'" in run(*own, "--layer", "fc2", code=2).err
    assert "weights: trained on 'random-he-normal-0'" in run(*own, "--weights", "random:1", code=2).err
    write_targets(tmp_path, "blue", "red", dim=4)
    assert "predicts embeddings of dimension 3; the targets have 4" in run(*own, code=2).err
    (tmp_path / "foreign.keras").write_bytes(b"not a model")
    assert "damaged or not a .keras file" in run("evaluate", tmp_path / "foreign.keras", code=2).err
    assert "is not a run" in run("evaluate", images, code=2).err
    assert "no such model" in run("evaluate", tmp_path / "gone.keras", code=2).err
    assert "--targets FILE" in run("evaluate", model, "--images", images, code=2).err


def test_a_folder_of_images_is_not_taken_for_a_run(run, trained: Finished, images: Path) -> None:
    refused = run("evaluate", trained.json["run"], images, code=2)
    assert f"{images} is not a run" in refused.err


def test_several_runs_are_evaluated_together(run, trained: Finished) -> None:
    folder = trained.json["run"]
    found = run("evaluate", folder, trained.json["models"]["functional"]["path"], "--json", "--quiet").json
    assert set(found["models"]) == {"functional", "sequential"}
    assert found["images"] == trained.json["validation"]


def test_changed_held_out_images_are_named(run, trained: Finished, images: Path) -> None:
    before = {file: file.read_bytes() for file in images.rglob("*.png")}
    for file in before:
        make_image(77).save(file)
    finished = run("evaluate", trained.json["run"], "--quiet", code=2)
    for file, content in before.items():
        file.write_bytes(content)
    assert "held-out images changed or are gone since the run" in finished.err


def test_a_low_output_ceiling_causes_a_warning(run, folder: Path, targets: Path, tmp_path: Path) -> None:
    options = ("--epochs", 1, "--models", tmp_path / "models", "--output-activation", "sigmoid", "--api", "sequential")
    finished = run("train", folder, "--targets", targets, *SMALL, *options, "--json")
    assert "its output ceiling" in finished.err
    assert finished.json["ceiling"] < 1
    assert list(finished.json["models"]) == ["sequential"]


def test_network_options_train_a_network_and_are_reported(run, folder: Path, targets: Path) -> None:
    train = ("train", folder, "--targets", targets, "--weights", "random:0")
    refused = run(*train, "--weight-decay", 0, "--learning-rate", -1, code=2)  # refused before any image is read
    assert "--learning-rate, --weight-decay: a single network (--preset network)" in refused.err


def test_missing_tensorboard_is_reported_before_images_are_read(
    run, folder: Path, targets: Path, fresh_cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    cache = fresh_cache("cache")
    train = ("train", folder, "--targets", targets, *SMALL, "--preset", "network", "--cache", cache)
    refused = run(*train, "--tensorboard", code=2)
    assert refused.err == "error: TensorBoard curves need the package tensorboard: pip install tensorboard.\n"
    assert not (cache / "features").exists()


def test_wrong_requests_give_one_message_and_leave_nothing(run, folder: Path, targets: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    one = tmp_path / "one"
    (one / "red").mkdir(parents=True)
    make_image(0).save(one / "red" / "only.png")
    before = sorted(tmp_path.rglob("*"))
    train = ("train", folder, "--targets", targets, *SMALL, "--models", tmp_path / "models")
    for arguments, message in [
        (("extract", empty), "no images in this folder"),
        (("extract", tmp_path / "nowhere"), "does not exist"),
        (("extract", folder, "--layer", "fc9"), "layer 'fc9' is unknown; did you mean 'fc1' or 'fc2'"),
        (("extract", folder, "--weights", "random", "--layer", "fc2", "--pool", "max"), "which has no positions"),
        (("extract", folder, "--weights", "random", "--project", "5000"), "is larger than layer 'fc2'"),
        (("extract", folder, "--weights", "random", "--resize", "fit"), "'fit' is not one of"),
        (("extract", folder, "--engine", "abacus"), "'abacus' is not one of"),
        (("extract", folder, "--precision", "int4"), "'int4' is not one of"),
        (("extract", folder, "--weights", "nowhere.h5"), "'nowhere.h5'"),
        (("extract", folder, "--batch-size", 0), "--batch-size"),
        (("extract", folder, "--out", tmp_path / "x.pickle"), "x.pickle: the name must end in"),
        (("extract", folder, "--out", tmp_path / "gone" / "x.npz"), "does not exist"),
        (("train", one, "--targets", targets, *SMALL, "--models", tmp_path / "models"), "two different images"),
        (("train", folder), "--targets FILE"),
        ((*train, "--targets", tmp_path / "gone.csv"), "gone.csv' does not exist"),
        (("train", "--targets", tmp_path / "gone.csv"), "gone.csv' does not exist"),
        ((*train, "--preset", "fast"), "'fast' is not one of 'default', 'network', 'original', 'banded'."),
        ((*train, "--hidden", "many"), "not a list of whole numbers"),
        ((*train, "--output-activation", "swish"), "'swish' is unknown"),
        ((*train, "--activation", "wiggle"), "cannot be built"),
        ((*train, "--optimizer", "downhill"), "optimizer 'downhill' is unknown; use a Keras optimizer"),
        ((*train, "--learning-rate", "-1"), "must be above 0"),
        ((*train, "--memory", "much"), "is not a size of at least 64MB"),
        ((*train, "--memory", "1KB"), "is not a size of at least 64MB"),
        ((*train, "--patience", 2, "--keep", "last"), "--keep best"),
        ((*train, "--split", "half"), "'half' is unknown"),
        ((*train, "--repeats", 3), "needs --folds N"),
        (("train", "--config", targets), "damaged"),
        (("compare", folder), "name both"),
        (("compare", "--plot", tmp_path / "curves.doc"), "curves.doc: the name must end in"),
    ]:
        finished = run(*arguments, code=2)
        assert message in finished.err, finished.err
        assert finished.err.splitlines()[-1].startswith("error: ")
        assert finished.out == ""
    leftovers = set(tmp_path.rglob("*")) - set(before)
    assert leftovers <= {tmp_path / "models"}


def test_an_output_file_is_replaced_only_with_overwrite(run, folder: Path, tmp_path: Path) -> None:
    outputs = {name: tmp_path / name for name in ("out.csv", "out.html", "out.png", "out.onnx")}
    for file in outputs.values():
        file.write_text("mine")
    for command in (
        ("extract", folder, *SMALL, "--out", outputs["out.csv"]),
        ("predict", tmp_path, folder, "--out", outputs["out.csv"]),
        ("evaluate", tmp_path, "--report", outputs["out.html"]),
        ("search", folder, "--query", "cat", "--report", outputs["out.html"]),
        ("compare", folder, "--plot", outputs["out.png"]),
        ("export", tmp_path, "--format", "onnx", "--out", outputs["out.onnx"]),
    ):
        refused = run(*command, code=2)
        assert "exists; name another file, or replace it with --overwrite" in refused.err
        replaced = run(*command, "--overwrite", code=0 if command[0] == "extract" else 2)
        assert "exists" not in replaced.err
    assert [file.read_text() for file in outputs.values()][1:] == ["mine"] * 3
    assert outputs["out.csv"].read_text().startswith('"path","d0","d1"')


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nonsense",), 2, "error: No such command 'nonsense'"),
        (("extract", "nowhere"), 2, "error: nowhere does not exist"),
        (("extract", "README.md"), 2, "error: README.md is not a folder"),
    ],
)
def test_wrong_requests_of_real_processes(run_process, arguments: tuple[str, ...], code: int, message: str) -> None:
    finished = run_process(*arguments, code=code)
    assert (finished.out, len(finished.err.splitlines())) == ("", 1)
    assert finished.err.startswith(message)


def test_images_without_target_are_named_or_skipped(run, folder: Path, tmp_path: Path) -> None:
    targets = write_targets(tmp_path, "red", "green")
    train = (
        "train",
        folder,
        "--targets",
        targets,
        *SMALL,
        "--epochs",
        1,
        "--api",
        "functional",
        "--models",
        tmp_path / "models",
    )
    assert "no target for 3 of 6 images: 'blue/0.png'" in run(*train, code=2).err
    finished = run(*train, "--on-missing", "skip", "--json")
    assert finished.json["images"] == 3
    assert "Left out 3 images without a target" in finished.err


NAMES = [
    "plain.png",
    "två ord.png",
    "quo\"te's.png",
    "new\nline.png",
    "comma,semicolon;.png",
    "日本.png",
    "caf\udce9.png",
]


def test_unusual_names_work_end_to_end(run, run_process, tmp_path: Path) -> None:
    images = tmp_path / "images" / "a label"
    images.mkdir(parents=True)
    for number, name in enumerate(NAMES):
        make_image(number).save(os.fsencode(images / name).decode("utf-8", "surrogateescape"))
    files = {suffix: tmp_path / f"out.{suffix}" for suffix in ("npz", "parquet")}
    for file in files.values():
        finished = run_process("extract", images.parent, *SMALL, "--out", file, "--json")
    assert r"Bytes that are not UTF-8 appear escaped in 1 of 7 names, such as a label/caf\xe9.png" in finished.err
    expected = sorted(f"a label/{name}" for name in [*NAMES[:-1], "caf\\xe9.png"])
    with np.load(files["npz"]) as saved:
        assert sorted(saved["paths"].tolist()) == expected
    assert sorted(pyarrow.parquet.read_table(files["parquet"])["path"].to_pylist()) == expected

    random = np.random.default_rng(0)
    with open(tmp_path / "targets.csv", "w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([name, *random.normal(size=3)] for name in expected)
    options = ("--epochs", 2, "--api", "functional", "--models", tmp_path / "models", "--json")
    result = run("train", images.parent, "--targets", tmp_path / "targets.csv", *SMALL, *options).json
    assert result["images"] == len(NAMES)
    assert run("evaluate", result["run"], "--json", "--quiet").json["images"] == result["validation"]


def test_a_list_provides_labels_splits_and_targets(run, folder: Path, tmp_path: Path) -> None:
    rows = [["path", "split", "target"]]
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        rows.append([path.relative_to(folder).as_posix(), "test" if number % 3 == 0 else "train", f"[{number}, 1, 2]"])
    with open(folder / "list.csv", "w", newline="") as opened:
        csv.writer(opened).writerows(rows)
    train = (
        "train",
        folder / "list.csv",
        *SMALL,
        "--epochs",
        2,
        "--api",
        "functional",
        "--models",
        tmp_path / "models",
        "--json",
    )
    result = run(*train, "--split", "column").json
    assert (result["train"], result["validation"], result["target_dim"]) == (4, 2, 3)
    assert run("evaluate", result["run"], "--json", "--quiet").json["images"] == 2
    saved = json.loads((Path(result["run"]) / "run.json").read_text())
    assert sorted(saved["split"]["validation"]) == ["blue/0.png", "red/0.png"]
    assert "column 'group'" in run(*train, "--split", "group", code=2).err
