"""Malicious files: none runs code, escapes its folder, or controls the terminal."""

import json
import random
import shutil
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import SmallRun
from helpers import ROOT, SMALL, make_image, make_images, run_program


def harm(x, file: str):
    Path(file).touch()
    return x


def repacked(source: Path, file: Path, members: dict[str, bytes]) -> Path:
    """A copy of an archive with some members replaced or added."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(file, "w") as copy:
        for name in archive.namelist():
            if name not in members:
                copy.writestr(name, archive.read(name))
        for name, data in members.items():
            copy.writestr(name, data)
    return file


def test_a_model_with_code_is_refused(small_run: SmallRun, run, tmp_path: Path) -> None:
    import keras

    ran = tmp_path / "ran"
    model = keras.Sequential([keras.Input((512,)), keras.layers.Lambda(harm, arguments={"file": str(ran)})])
    model.save(tmp_path / "code.keras")
    ran.unlink(missing_ok=True)
    with zipfile.ZipFile(tmp_path / "code.keras") as archive:
        config = archive.read("config.json")
    system = {"module": "os", "class_name": "system", "config": f"touch {ran}", "registered_name": None}
    for name, harmful in {"lambda": config, "import": json.dumps(system).encode()}.items():
        file = repacked(small_run.model, tmp_path / f"{name}.keras", {"config.json": harmful})
        others = ("--images", small_run.images, "--targets", small_run.targets)
        assert f"{file} cannot be loaded" in run("evaluate", file, *others, "--quiet", code=2).err
        assert not ran.exists()


# Keras skips such members, and warns.
@pytest.mark.filterwarnings("ignore:Skipping invalid path during archive extraction:UserWarning")
def test_archive_members_do_not_escape_their_folder(small_run: SmallRun, run, tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    places = {"../../escaped": b"x", str(tmp_path / "absolute"): b"x", "assets/../../escaped": b"x"}
    file = repacked(small_run.model, inside / "model.keras", places)
    run("evaluate", file, "--images", small_run.images, "--targets", small_run.targets, "--quiet", cwd=ROOT)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["model.keras"]


def test_a_list_can_name_any_file_but_only_images_are_read(run, tmp_path: Path) -> None:
    make_image(0).save(tmp_path / "outside.png")
    (tmp_path / "secret.png").write_text("a secret")
    (tmp_path / "lists").mkdir()
    places = ["../outside.png", "../secret.png", "/etc/passwd", "/dev/zero", "/proc/self/environ"]
    (tmp_path / "lists" / "list.txt").write_text("\n".join(places))
    done = run("extract", tmp_path / "lists" / "list.txt", *SMALL, "--out", tmp_path / "out.npz", "--json")
    assert (done.json["images"], len(done.json["failed"])) == (len(places), len(places) - 1)
    assert "secret" not in "".join(failure["error"] for failure in done.json["failed"])


def test_no_pickle_is_read_anywhere(small_run: SmallRun, run, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    objects = np.array([Harm()] * 6, dtype=object)
    np.save(tmp_path / "targets.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "targets.npz", paths=objects)
    for name in ("targets.npy", "targets.npz"):
        refused = run("train", small_run.images, "--targets", tmp_path / name, *SMALL, code=2)
        assert "pickle" in refused.err
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in small_run.folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    np.savez(copy / "baselines.npz", mean=objects, deviation=objects, seen=objects, models=objects)
    assert "baselines.npz is damaged" in run("evaluate", copy, "--quiet", code=1).err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["a\nerror: forged", "a\n{}", "a\u2028error: forged"])
def test_names_cannot_forge_messages(run_process, tmp_path: Path, name: str) -> None:
    images = make_images(tmp_path / "images", range(1))
    (images / f"{name}.png").write_bytes(b"bad")
    finished = run_process("extract", images, *SMALL, "--json")
    assert finished.json["failed"][0]["path"] == f"{name}.png"
    assert [line for line in finished.err.splitlines() if not line.startswith("warning: ")] == []
    missing = run_process("extract", tmp_path / name, *SMALL, code=2).err
    assert missing.startswith("error: ")
    assert len(missing.splitlines()) == 1


def test_a_foreign_run_does_not_choose_where_files_are_written(small_run: SmallRun, run, tmp_path: Path) -> None:
    record = json.loads((small_run.folder / "run.json").read_text())
    elsewhere = {name: str(tmp_path / "elsewhere" / name) for name in ("models", "cache", "resume", "config")}
    record["options"] |= elsewhere | {"as_json": True, "quiet": True}
    (tmp_path / "brought").mkdir()
    (tmp_path / "brought" / "run.json").write_text(json.dumps(record))
    finished = run("train", "--config", tmp_path / "brought", cwd=tmp_path)
    assert "was edited after the run" in finished.err
    assert "held out" in finished.out  # a table, because --json is missing
    assert len(list((tmp_path / "models").iterdir())) == 1
    assert not (tmp_path / "elsewhere").exists()


def test_a_foreign_run_cannot_plant_a_link_to_write_through(small_run: SmallRun, run, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    shutil.copytree(small_run.folder, tmp_path / "brought")
    for name in ("evaluation.html", ".unfinished-evaluation.html"):
        (tmp_path / "brought" / name).symlink_to(victim)
    run("evaluate", tmp_path / "brought", "--quiet")
    assert victim.read_text() == "precious"
    assert "<html" in (tmp_path / "brought" / "evaluation.html").read_text()


@pytest.mark.parametrize("name", ["ridge", "functional"])
def test_a_decoder_with_nan_predicts_nothing(small_run: SmallRun, run, tmp_path: Path, name: str) -> None:
    shutil.copytree(small_run.folder, tmp_path / "brought")
    file = tmp_path / "brought" / f"{name}.keras"
    with zipfile.ZipFile(file) as archive:
        (tmp_path / "weights.h5").write_bytes(archive.read("model.weights.h5"))
    with h5py.File(tmp_path / "weights.h5", "a") as root:
        datasets: list[h5py.Dataset] = []
        root.visititems(lambda _, node: datasets.append(node) if isinstance(node, h5py.Dataset) else None)
        max(datasets, key=lambda each: each.size)[0, 0] = np.nan
    weights = (tmp_path / "weights.h5").read_bytes()
    repacked(file, tmp_path / "changed.keras", {"model.weights.h5": weights}).replace(file)
    out = tmp_path / "out.npz"
    for command in (("evaluate", tmp_path / "brought"), ("predict", file, small_run.images, "--out", out)):
        refused = run(*command, "--quiet", code=2).err
        assert f"{file} cannot be loaded (its weights are not finite numbers)" in refused
    assert not out.exists()


@pytest.mark.parametrize("changes", [{"models": {}}, {"train": "all"}, {"ceiling": None}, {"more": 1}, {"folds": [5]}])
def test_a_forged_result_gives_one_message(small_run: SmallRun, run, tmp_path: Path, changes: dict) -> None:
    document = json.loads((small_run.folder / "run.json").read_text())
    document.pop("checksum")
    document["result"] |= changes
    checksum = f"{zlib.crc32(json.dumps(document, sort_keys=True).encode()):08x}"
    (tmp_path / "run.json").write_text(json.dumps(document | {"checksum": checksum}))
    if changes == {"models": {}}:
        run("train", "--resume", tmp_path)  # odd, but valid
        return
    refused = run("train", "--resume", tmp_path, "--quiet", code=2).err
    assert refused.startswith(f"error: {tmp_path / 'run.json'} is damaged (of its result, ")


@pytest.mark.parametrize("name", ["\x1b]0;owned\x07\x1b[2J", "=cmd|' C calc'!A0", "<script>alert(1)<", "a\rb", "‮gnp"])
def test_names_are_only_names(run_process, tmp_path: Path, name: str) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / f"{name}.png").write_bytes(b"bad")
    finished = run_process("extract", images, *SMALL, code=1)
    shown = finished.out + finished.err
    assert all(character.isprintable() or character == "\n" for character in shown), repr(shown)


@pytest.mark.parametrize("count", [50, pytest.param(500, marks=pytest.mark.faults)])
def test_mutated_target_files_are_read_or_refused(count: int, times: int, tmp_path: Path) -> None:
    for label in ("red", "green", "blue"):
        make_images(tmp_path / "images" / label, random.Random(label).sample(range(100), 2))
    counts = run_program("fuzz_targets", tmp_path, count * times).json
    assert 0.4 * count * times < counts["refused"] < count * times
    assert counts["grown"] < 300e6


@pytest.mark.parametrize("count", [100, pytest.param(500, marks=pytest.mark.faults)])
def test_mutated_files_of_images_are_read_or_refused(count: int, times: int, tmp_path: Path) -> None:
    result = run_program("fuzz_containers", tmp_path, count * times).json
    assert 0.2 * count * times < result["refused"] < count * times
    assert result["grown"] < 300e6
