import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import Finished

from pipeline.commands.models import list_runs
from pipeline.core.errors import RequestError
from pipeline.core.runs import RunRecord, SplitRecord, write_run

SPLIT = SplitRecord("random:0.2", train={"a.png": "01", "b.png": "02"}, validation={"c.png": "03"})
UNFINISHED = RunRecord({"images": "/data/photos", "targets": "/t.csv"}, {}, {}, 0, SPLIT, "", {})
RESULT = {
    "validation": 1,
    "models": {"functional": {"validation_cosine": 0.75}},
    "baselines": {"mean": 0.25, "ridge": 0.5},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a finished run, an unfinished run, a damaged run, and a folder that is not a run."""
    for name in ("one", "two", "three", "no-run"):
        (tmp_path / name).mkdir()
    write_run(tmp_path / "one", replace(UNFINISHED, result=RESULT))
    write_run(tmp_path / "two", UNFINISHED)
    (tmp_path / "three" / "run.json").write_text("{")
    return tmp_path


def test_runs_are_listed_with_their_scores(folder: Path) -> None:
    one, three, two = list_runs(folder).runs
    assert (one.name, one.status, one.images, one.trained_on, one.held_out) == ("one", "finished", "/data/photos", 2, 1)
    assert one.models == {"functional": 0.75}
    assert one.baselines == {"mean": 0.25, "ridge": 0.5}
    assert (two.name, two.status, two.models, two.held_out) == ("two", "unfinished", {}, 1)
    assert (three.name, three.status) == ("three", "unreadable")
    assert three.error
    assert str(folder / "three") in three.error


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no folder .*gone"):
        list_runs(tmp_path / "gone")


def test_names_of_runs_are_never_truncated(tmp_path: Path, run: Callable[..., Finished]) -> None:
    record = replace(UNFINISHED, result=RESULT, options={"images": "/data/" + "x" * 60})
    usual, long = "2026-11-30_20-13-53", "a-name-" * 12
    for name in (usual, long):
        (tmp_path / name).mkdir()
    write_run(tmp_path / usual, record)
    row = next(line for line in run("models", tmp_path).out.splitlines() if usual in line)
    assert row.split()[-3:] == ["0.7500", "ridge", "0.5000"]
    write_run(tmp_path / long, record)
    assert long in "".join(re.findall(r"^  ([a-z0-9_-]+)", run("models", tmp_path).out, re.MULTILINE))


def test_the_command_prints_one_row_per_run(folder: Path, run: Callable[..., Finished]) -> None:
    printed = run("models", folder).out
    row = next(line for line in printed.splitlines() if line.split()[:1] == ["one"])
    assert row.split() == ["one", "photos", "2", "1", "0.7500", "ridge", "0.5000"]
    assert "unfinished" in printed
    document = json.loads(run("models", folder, "--json").out)
    assert [each["name"] for each in document["runs"]] == ["one", "three", "two"]
