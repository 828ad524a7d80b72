import json
import os
import subprocess
import sys
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from helpers import ROOT

from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.runs import (
    FORMAT,
    RunRecord,
    SplitRecord,
    can_resume,
    check_can_save,
    check_run_name,
    lock_run,
    new_run,
    read_run,
    write_run,
)

EXAMPLE = RunRecord(
    options={"images": "/images", "seed": 3},
    extractor={"weights": "random:0", "layer": "fc2"},
    training={"epochs": 5},
    seed=3,
    split=SplitRecord("random:0.2", train={"a.png": "d1"}, validation={"b.png": "d2"}, near_duplicates=[["a", "c"]]),
    targets="f00d",
    versions={"keras": "3"},
    curves={"functional": {"loss": [1.0, None]}},
)


def rewrite(folder: Path, **changes: object) -> None:
    """Change parts of a `run.json` and fix its checksum; None removes a part."""
    file = folder / "run.json"
    document = {name: value for name, value in (json.loads(file.read_text()) | changes).items() if value is not None}
    document.pop("checksum")
    checksum = f"{zlib.crc32(json.dumps(document, sort_keys=True).encode()):08x}"
    file.write_text(json.dumps(document | {"checksum": checksum}))


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_run(tmp_path, EXAMPLE)
    assert read_run(tmp_path) == EXAMPLE
    assert json.loads((tmp_path / "run.json").read_text())["format"] == FORMAT
    assert not can_resume(tmp_path)


@pytest.mark.parametrize("name", ["checkpoint.npz", "functional.keras"])
def test_a_folder_with_a_decoder_or_a_checkpoint_can_be_resumed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert can_resume(tmp_path)


def test_a_record_describes_decoders_before_they_are_scored(tmp_path: Path) -> None:
    assert EXAMPLE.trained == {}
    write_run(tmp_path, replace(EXAMPLE, fitted={"models": {"functional": {"epochs": 3}}, "shares": {}}))
    assert read_run(tmp_path).trained["models"]["functional"]["epochs"] == 3
    assert replace(EXAMPLE, result={"models": {}}).trained == {"models": {}}


@pytest.mark.parametrize(
    ("selection", "validation", "expected"),
    [({"c": "d"}, {"b": "d"}, "selection"), ({}, {"b": "d"}, "held-out"), ({}, {}, "training")],
)
def test_a_split_says_which_images_validation_curves_use(selection: dict, validation: dict, expected: str) -> None:
    assert SplitRecord("random:0.2", {"a": "d"}, validation, selection).validation_of == expected


@pytest.mark.parametrize(("number", "age"), [(None, "older"), (FORMAT - 1, "older"), (FORMAT + 1, "newer")])
def test_other_formats_are_refused_with_their_format(tmp_path: Path, number: int | None, age: str) -> None:
    write_run(tmp_path, EXAMPLE)
    rewrite(tmp_path, format=number)
    with pytest.raises(RequestError, match=rf"run\.json has format \d, written by an? {age} version"):
        read_run(tmp_path)
    assert not can_resume(tmp_path)


def test_edits_are_damage_unless_allowed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_run(tmp_path, EXAMPLE)
    file = tmp_path / "run.json"
    file.write_text(file.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(RequestError, match=r"run\.json is damaged \(its checksum"):
        read_run(tmp_path)
    assert read_run(tmp_path, allow_edits=True).seed == 4
    assert "was edited" in caplog.text


@pytest.mark.parametrize("changes", [{"split": None}, {"split": {"rule": "random"}}, {"split": 3}, {"another": 1}])
def test_runs_with_wrong_parts_are_damaged(tmp_path: Path, changes: dict) -> None:
    write_run(tmp_path, EXAMPLE)
    rewrite(tmp_path, **changes)
    with pytest.raises(RequestError, match=r"run\.json is damaged"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "2"},
        {"format": 2.0},
        {"format": True},
        {"format": -1},
        {"format": 10**400},
        {"format": [[2]]},
        {"seed": "3"},
        {"seed": 10**30},
        {"seed": -1},
        {"seed": 1.5},
        {"options": ["images"]},
        {"options": {"seed": 3}},
        {"options": {"images": 7}},
        {"options": {"images": "/images", "targets": ["a"]}},
        {"options": {"images": "/images\0"}},
        {"options": {"images": "/images", "epochs": 10**400}},
        {"extractor": {"layer": 2}},
        {"extractor": "fc2"},
        {"training": [1]},
        {"split": {**asdict(EXAMPLE.split), "train": {"a.png": "no digest"}}},
        {"split": {**asdict(EXAMPLE.split), "train": ["a.png"]}},
        {"split": {**asdict(EXAMPLE.split), "near_duplicates": [[1]]}},
        {"targets": 5},
        {"versions": {"keras": None}},
        {"result": [1]},
        {"kept_epoch": {"functional": "last"}},
        {"curves": {"functional": {"loss": "falling"}}},
        {"curves": [[[[[[]]]]]]},
    ],
)
def test_forged_runs_are_damaged(tmp_path: Path, changes: dict) -> None:
    write_run(tmp_path, EXAMPLE)
    rewrite(tmp_path, **changes)
    with pytest.raises(RequestError, match=r"run\.json is damaged \(.{5,200}\)\.$"):
        read_run(tmp_path)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, f'{{"seed": {"9" * 5000}}}', '{"seed": 1e}'])
def test_pathological_json_is_damaged(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    for allow_edits in (True, False):
        with pytest.raises(RequestError, match=r"run\.json is damaged"):
            read_run(tmp_path, allow_edits)


def test_a_pipe_or_a_device_is_not_a_run(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(RequestError, match="is not a file"):
        read_run(tmp_path)
    (tmp_path / "run.json").unlink()
    (tmp_path / "run.json").symlink_to("/dev/zero")
    with pytest.raises(RequestError, match="is not a file"):
        read_run(tmp_path)


def test_other_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is not a run"):
        read_run(tmp_path)
    for content in (b"", b"[]", b"\xff\xfe"):
        (tmp_path / "run.json").write_bytes(content)
        with pytest.raises(RequestError, match="is damaged"):
            read_run(tmp_path)


def test_a_run_is_locked_by_one_process_until_it_ends(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from pipeline.core.runs import lock_run\n"
    code += "with lock_run(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RequestError, match=rf"is in training by (process {holder.pid}|another process);"):
            lock_run(tmp_path).__enter__()
    finally:
        holder.kill()
        holder.communicate()
    with lock_run(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_folder_for_runs_is_refused_before_any_work(tmp_path: Path) -> None:
    check_can_save(tmp_path / "new" / "models")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for models in (tmp_path / "file", tmp_path / "file" / "models", Path("/proc/models")):
        with pytest.raises(PipelineError, match=rf"Runs cannot be saved in {models} \("):
            check_can_save(models)


def test_new_runs_never_share_a_folder(tmp_path: Path) -> None:
    folders = [new_run(tmp_path / "models", EXAMPLE) for _ in range(3)]
    assert len(set(folders)) == 3
    (tmp_path / "file").touch()
    with pytest.raises(PipelineError, match="Runs cannot be saved in"):
        new_run(tmp_path / "file", EXAMPLE)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError])
def test_a_run_whose_record_was_not_written_leaves_nothing(
    kind: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*paths: Path) -> None:
        assert list(tmp_path.iterdir())
        raise kind

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises((KeyboardInterrupt, PipelineError)):
        new_run(tmp_path, EXAMPLE)
    assert not list(tmp_path.iterdir())


def test_a_run_can_be_named(tmp_path: Path) -> None:
    check_run_name(tmp_path, "tulips-2")
    assert new_run(tmp_path, EXAMPLE, "tulips-2") == tmp_path / "tulips-2"
    with pytest.raises(RequestError, match="exists"):
        check_run_name(tmp_path, "tulips-2")
    with pytest.raises(RequestError, match="exists"):
        new_run(tmp_path, EXAMPLE, "tulips-2")


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "a\\b", "a\nb", "-flag"])
def test_invalid_names_of_runs_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="cannot name a run"):
        check_run_name(tmp_path, name)
    assert not list(tmp_path.iterdir())
