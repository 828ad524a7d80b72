"""Files made to do harm: none runs code, leaves its folder, or speaks to the terminal."""

import json
import random
import zipfile
from pathlib import Path

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


def test_a_model_that_brings_code_is_refused(small_run: SmallRun, run, tmp_path: Path) -> None:
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
def test_archive_members_do_not_leave_their_folder(small_run: SmallRun, run, tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    places = {"../../escaped": b"x", str(tmp_path / "absolute"): b"x", "assets/../../escaped": b"x"}
    file = repacked(small_run.model, inside / "model.keras", places)
    run("evaluate", file, "--images", small_run.images, "--targets", small_run.targets, "--quiet", cwd=ROOT)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["model.keras"]


def test_lists_do_not_leave_their_folder(run, tmp_path: Path) -> None:
    make_image(0).save(tmp_path / "outside.png")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "link").symlink_to(tmp_path)
    for place in ("../outside.png", str(tmp_path / "outside.png"), "a/../../outside.png"):
        (tmp_path / "lists" / "list.txt").write_text(f"{place}\n")
        assert "list.txt" in run("extract", tmp_path / "lists" / "list.txt", *SMALL, code=2).err


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
    found = run_program("fuzz_targets", tmp_path, count * times).json
    assert 0.4 * count * times < found["refused"] < count * times
    assert found["grown"] < 300e6
