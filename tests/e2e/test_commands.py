"""Whole commands: what they write, what they refuse, and what is left behind."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from conftest import ROOT, Finished, picture, write_targets

SMALL = ("--weights", "random:0", "--layer", "block5_pool", "--quiet")


@pytest.fixture
def targets(tmp_path: Path) -> Path:
    return write_targets(tmp_path, "blue", "red")


@pytest.mark.parametrize(
    "arguments", [(), ("--help",), ("train", "--help"), ("train", "--epochs", "none"), ("nonsense",)]
)
def test_help_and_wrong_arguments_load_no_heavy_library(arguments: tuple[str, ...]) -> None:
    code = (
        "import sys; from pipeline.cli import main\n"
        "try: main()\n"
        "finally: print([name for name in ('tensorflow', 'keras', 'lance', 'sklearn') if name in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert finished.returncode in (0, 2)
    assert finished.stdout.endswith("[]\n")


def test_vectors_are_written_in_three_formats(run, folder: Path, tmp_path: Path) -> None:
    (folder / "red" / "bad.png").write_bytes(b"bad")
    files = [tmp_path / f"out.{suffix}" for suffix in ("npz", "npy", "parquet")]
    for file in files:
        result = run("extract", folder, *SMALL, "--out", file, "--json").json
    assert result["failed"] == [{"path": "red/bad.png", "error": "not an image of a format that Pillow reads"}]
    assert result["images"] == 7
    with np.load(files[0]) as saved:
        paths, vectors = saved["paths"].tolist(), saved["features"]
    assert paths == ["blue/0.png", "blue/1.png", "blue/2.png", "red/0.png", "red/1.png", "red/2.png"]
    assert (vectors.shape, vectors.dtype) == ((6, 512), np.float32)
    assert np.array_equal(np.load(files[1]), vectors)
    table = pyarrow.parquet.read_table(files[2])
    assert table["path"].to_pylist() == paths
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), vectors)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.npy", "out.npz", "out.parquet", "pictures"]


def test_strict_makes_a_skipped_image_an_error(run, folder: Path) -> None:
    (folder / "bad\x1b[31m.png").write_bytes(b"bad")
    finished = run("extract", folder, *SMALL, "--strict", "--json", code=1)
    assert len(finished.json["failed"]) == 1
    assert "skipped bad\\x1b[31m.png: not an image" in finished.err


def test_a_killed_extraction_goes_on_where_it_was(run, home: Path, tmp_path: Path) -> None:
    images = tmp_path / "pictures"
    images.mkdir()
    for number in range(48):
        picture(number).save(images / f"{number:02}.png")
    options = (*SMALL, "--batch-size", "4", "--json")
    command = [sys.executable, "-m", "pipeline", "extract", images, *options, "--cache", tmp_path / "killed"]
    process = subprocess.Popen([*map(str, command)], cwd=ROOT, env=os.environ | {"HOME": str(home)},
                               stdout=subprocess.DEVNULL)  # fmt: skip
    stores = tmp_path / "killed" / "features"
    while len(list(stores.glob("*/_versions/*.manifest"))) < 3 and process.poll() is None:  # made, and two appends
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    resumed = run("extract", images, *options, "--cache", tmp_path / "killed", "--out", tmp_path / "resumed.npy").json
    assert 8 <= resumed["cached"] < 48
    assert resumed["cached"] + resumed["computed"] == 48
    run("extract", images, *options, "--cache", tmp_path / "undisturbed", "--out", tmp_path / "undisturbed.npy")
    assert np.array_equal(np.load(tmp_path / "resumed.npy"), np.load(tmp_path / "undisturbed.npy"))


def test_extraction_on_another_backend_loads_no_tensorflow(home: Path, folder: Path) -> None:
    code = (
        "import sys; from pipeline.cli import main\n"
        "def check():\n"
        "    try: main()\n"
        "    except SystemExit as done: assert not done.code, done.code\n"
        "    print([name for name in ('tensorflow', 'jax') if name in sys.modules], file=sys.stderr)\n"
        "if __name__ == '__main__': check()"
    )
    script = folder.parent / "check.py"
    script.write_text(code)
    finished = subprocess.run(
        [sys.executable, str(script), "extract", str(folder), *SMALL, "--engine", "keras", "--json",
         "--cache", str(folder.parent / "cache")],
        cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"HOME": str(home), "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.endswith("['jax']\n")


@pytest.fixture
def trained(run, folder: Path, targets: Path, tmp_path: Path) -> Finished:
    return run("train", folder, "--targets", targets, *SMALL, "--epochs", 5, "--split", "random:0.4",
               "--models", tmp_path / "models", "--json")  # fmt: skip


def test_a_run_is_repeated_bit_for_bit_from_its_run_json(run, trained: Finished, tmp_path: Path) -> None:
    import keras

    config = Path(trained.json["run"]) / "run.json"
    again = run("train", "--config", config, "--quiet", "--json", "--models", tmp_path / "models", cwd=tmp_path)
    assert again.json["run"] != trained.json["run"]
    for name, model in trained.json["models"].items():
        pair = [keras.models.load_model(path) for path in (model["path"], again.json["models"][name]["path"])]
        assert all(map(np.array_equal, pair[0].get_weights(), pair[1].get_weights()))
        assert model["validation_cosine"] == again.json["models"][name]["validation_cosine"]
    changed = run("train", "--config", config, "--quiet", "--json", "--models", tmp_path / "models", "--seed", 5)
    assert changed.json["models"]["functional"]["train_cosine"] != model["train_cosine"]
    assert len(list((tmp_path / "models").iterdir())) == 3


def test_models_refuse_what_does_not_fit_them(run, trained: Finished, folder: Path, tmp_path: Path) -> None:
    model = trained.json["models"]["sequential"]["path"]
    own = ("evaluate", model, folder, "--targets", write_targets(tmp_path, "blue", "red"), "--quiet")
    assert run(*own, "--json").json["images"] == 6
    assert "layer: trained on 'block5_pool', given 'fc2'" in run(*own, "--layer", "fc2", code=2).err
    assert "weights: trained on 'random-he-normal-0'" in run(*own, "--weights", "random:1", code=2).err
    write_targets(tmp_path, "blue", "red", dim=4)
    assert "predicts embeddings of dimension 3; the targets have 4" in run(*own, code=2).err
    (tmp_path / "foreign.keras").write_bytes(b"no model")
    assert "damaged or no .keras file" in run("evaluate", tmp_path / "foreign.keras", code=2).err
    assert "is not a run" in run("evaluate", folder, code=2).err
    assert "no such model" in run("evaluate", tmp_path / "gone.keras", code=2).err
    assert "--targets FILE" in run("evaluate", model, folder, code=2).err


def test_held_out_images_that_have_changed_are_named(run, trained: Finished, folder: Path) -> None:
    for file in folder.rglob("*.png"):
        picture(77).save(file)
    finished = run("evaluate", trained.json["run"], "--quiet", code=2)
    assert "held-out images have changed or are gone since the run" in finished.err


def test_an_output_that_cannot_reach_the_targets_is_warned_of(run, folder: Path, targets: Path, tmp_path: Path) -> None:
    finished = run("train", folder, "--targets", targets, *SMALL, "--epochs", 1, "--models", tmp_path / "models",
                   "--output-activation", "sigmoid", "--api", "sequential", "--json")  # fmt: skip
    assert "its ceiling" in finished.err
    assert finished.json["ceiling"] < 1
    assert list(finished.json["models"]) == ["sequential"]


def test_wrong_requests_are_one_message_and_leave_nothing(run, folder: Path, targets: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    one = tmp_path / "one"
    (one / "red").mkdir(parents=True)
    picture(0).save(one / "red" / "only.png")
    before = sorted(tmp_path.rglob("*"))
    train = ("train", folder, "--targets", targets, *SMALL, "--models", tmp_path / "models")
    for arguments, message in [
        (("extract", empty), "no images in this folder"),
        (("extract", tmp_path / "nowhere"), "no such folder or list"),
        (("extract", folder, "--layer", "fc9"), "--layer 'fc9' is unknown"),
        (("extract", folder, "--engine", "abacus"), "--engine 'abacus' is unknown"),
        (("extract", folder, "--precision", "int8"), "--precision 'int8' is unknown"),
        (("extract", folder, "--weights", "nowhere.h5"), "--weights 'nowhere.h5'"),
        (("extract", folder, "--batch-size", 0), "--batch-size"),
        (("extract", folder, "--out", tmp_path / "x.pickle"), "vectors are written as"),
        (("extract", folder, "--out", tmp_path / "gone" / "x.npz"), "does not exist"),
        (("train", one, "--targets", targets, *SMALL, "--models", tmp_path / "models"), "two different images"),
        (("train", folder), "--targets FILE"),
        ((*train, "--targets", tmp_path / "gone.csv"), "No such file"),
        ((*train, "--hidden", "many"), "not a list of whole numbers"),
        ((*train, "--output-activation", "swish"), "--output-activation 'swish' is unknown"),
        ((*train, "--activation", "wiggle"), "cannot be built"),
        ((*train, "--optimizer", "downhill"), "cannot be trained so"),
        ((*train, "--learning-rate", "-1"), "--learning-rate must be above 0"),
        (("train", "--config", targets), "damaged"),
    ]:
        finished = run(*arguments, code=2)
        assert message in finished.err, finished.err
        assert finished.out == ""
    leftovers = set(tmp_path.rglob("*")) - set(before)
    assert leftovers <= {tmp_path / "models"}


def test_images_without_target_are_named_or_skipped(run, folder: Path, tmp_path: Path) -> None:
    targets = write_targets(tmp_path, "red", "green")
    train = ("train", folder, "--targets", targets, *SMALL, "--epochs", 1, "--models", tmp_path / "models")
    assert "no target for 3 of 6 images: 'blue/0.png'" in run(*train, code=2).err
    finished = run(*train, "--on-missing", "skip", "--json")
    assert finished.json["images"] == 3
    assert "3 images without a target were left out" in finished.err


NAMES = [
    "plain.png",
    "två ord.png",
    "quo\"te's.png",
    "new\nline.png",
    "comma,semicolon;.png",
    "日本.png",
    "caf\udce9.png",
]


def test_names_of_any_kind_work_from_end_to_end(run, tmp_path: Path) -> None:
    images = tmp_path / "pictures" / "a label"
    images.mkdir(parents=True)
    for number, name in enumerate(NAMES):
        picture(number).save(os.fsencode(images / name).decode("utf-8", "surrogateescape"))
    files = {suffix: tmp_path / f"out.{suffix}" for suffix in ("npz", "parquet")}
    for file in files.values():
        finished = run("extract", images.parent, *SMALL, "--out", file, "--json")
    assert r"Bytes that are no UTF-8 appear escaped in 1 of 7 names, as in a label/caf\xe9.png" in finished.err
    expected = sorted(f"a label/{name}" for name in [*NAMES[:-1], "caf\\xe9.png"])
    with np.load(files["npz"]) as saved:
        assert sorted(saved["paths"].tolist()) == expected
    assert sorted(pyarrow.parquet.read_table(files["parquet"])["path"].to_pylist()) == expected

    random = np.random.default_rng(0)
    with open(tmp_path / "targets.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as opened:
        csv.writer(opened).writerows([f"a label/{name}", *random.normal(size=3)] for name in NAMES)
    result = run("train", images.parent, "--targets", tmp_path / "targets.csv", *SMALL, "--epochs", 2,
                 "--api", "functional", "--models", tmp_path / "models", "--json").json  # fmt: skip
    assert result["images"] == len(NAMES)
    assert run("evaluate", result["run"], "--json", "--quiet").json["images"] == result["validation"]


def test_a_list_brings_labels_splits_and_targets(run, folder: Path, tmp_path: Path) -> None:
    rows = [["path", "split", "target"]]
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        rows.append([path.relative_to(folder).as_posix(), "test" if number % 3 == 0 else "train", f"[{number}, 1, 2]"])
    with open(folder / "list.csv", "w", newline="") as opened:
        csv.writer(opened).writerows(rows)
    train = ("train", folder / "list.csv", *SMALL, "--epochs", 2, "--models", tmp_path / "models", "--json")
    result = run(*train, "--split", "column").json
    assert (result["train"], result["validation"], result["target_dim"]) == (4, 2, 3)
    assert run("evaluate", result["run"], "--json", "--quiet").json["images"] == 2
    saved = json.loads((Path(result["run"]) / "run.json").read_text())
    assert sorted(saved["split"]["validation"]) == ["blue/0.png", "red/0.png"]
    assert "--split 'half' is unknown" in run(*train, "--split", "half", code=2).err
    assert "column 'group'" in run(*train, "--split", "group", code=2).err
