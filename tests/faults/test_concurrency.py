"""Several processes at once."""

import json
import os
import signal
from pathlib import Path

import lance
import numpy as np
import pytest
from conftest import SmallRun
from helpers import SMALL, are_close, make_images, wait_until, write_targets
from object_storage import S3Server

BATCHES = (*SMALL, "--batch-size", 4, "--workers", 1)


def test_four_extractions_of_overlapping_folders_one_killed(run, start, fresh_cache, tmp_path: Path) -> None:
    images = make_images(tmp_path / "all", range(60))
    cache = fresh_cache("shared")
    processes = []
    for number in range(4):
        folder = tmp_path / f"part{number}"
        folder.mkdir()
        for file in sorted(images.iterdir())[number * 10 : number * 10 + 30]:
            os.link(file, folder / file.name)
        processes.append(start("extract", folder, *BATCHES, "--cache", cache))
    wait_until(lambda: list(cache.glob("features/*/data/*")), processes[1])
    processes[1].kill()
    for number, process in enumerate(processes):
        _, messages = process.communicate(timeout=300)
        assert process.returncode == (-signal.SIGKILL if number == 1 else 0), messages
        assert "Traceback" not in messages

    result = run("extract", images, *BATCHES, "--cache", cache, "--out", tmp_path / "shared.npy", "--json").json
    assert result["cached"] >= 50
    stored = lance.dataset(next(cache.glob("features/*.lance"))).to_table(columns=["digest"])["digest"].to_pylist()
    assert len(stored) == len(set(stored)) == 60
    run("extract", images, *BATCHES, "--cache", fresh_cache("alone"), "--out", tmp_path / "alone.npy")
    assert are_close(np.load(tmp_path / "shared.npy"), np.load(tmp_path / "alone.npy"))


def test_two_extractions_of_overlapping_folders_into_a_bucket(
    run, start, fresh_cache, s3: S3Server, tmp_path: Path
) -> None:
    images = make_images(tmp_path / "all", range(48))
    s3.create_bucket("overlapping")
    command, processes = (*BATCHES, "--cache", "s3://overlapping/cache"), []
    for number in range(2):
        (tmp_path / f"part{number}").mkdir()
        for file in sorted(images.iterdir())[number * 8 : number * 8 + 40]:
            os.link(file, tmp_path / f"part{number}" / file.name)
        part = ("extract", tmp_path / f"part{number}", *command, "--json")
        processes.append(start(*part, program="frequent_stores", **s3.variables))
    for process in processes:
        out, messages = process.communicate(timeout=300)
        assert process.returncode == 0, messages
        assert (json.loads(out)["images"], json.loads(out)["failed"]) == (40, [])

    result = run("extract", images, *command, "--out", tmp_path / "shared.npy", "--json", **s3.variables).json
    assert (result["computed"], result["cached"]) == (0, 48)
    [listed] = run("cache", "--cache", "s3://overlapping/cache", "--json", **s3.variables).json["stores"]
    assert listed["images"] == 48
    run("extract", images, *BATCHES, "--cache", fresh_cache("alone"), "--out", tmp_path / "alone.npy")
    assert are_close(np.load(tmp_path / "shared.npy"), np.load(tmp_path / "alone.npy"))


def test_two_processes_with_one_output_do_not_mix_their_files(run, start, home: Path, tmp_path: Path) -> None:
    out, processes = tmp_path / "out.npz", []
    for number in range(2):
        images = make_images(tmp_path / f"images{number}", range(number * 4, number * 4 + 4 + number))
        processes.append(start("extract", images, *SMALL, "--out", out))
    for process in processes:
        _, messages = process.communicate(timeout=300)
        assert process.returncode == 0, messages
    with np.load(out) as saved:
        paths, features = saved["paths"].tolist(), saved["features"]
    number = len(paths) - 4
    run("extract", tmp_path / f"images{number}", *SMALL, "--out", tmp_path / "alone.npy")
    assert are_close(features, np.load(tmp_path / "alone.npy"))
    assert list(tmp_path.glob(".*")) == []


def test_a_run_in_training_cannot_be_resumed_by_another(run, start, small_run: SmallRun, tmp_path: Path) -> None:
    options = ("--models", tmp_path / "models", "--epochs", 100_000, "--api", "functional")
    command = ("train", small_run.images, "--targets", small_run.targets, *SMALL, *options)
    process = start(*command)
    wait_until(lambda: list(tmp_path.glob("models/*/run.json")), process)
    [folder] = (tmp_path / "models").iterdir()
    refused = run("train", "--resume", folder, "--quiet", code=2).err
    assert refused == f"error: {folder} is in training by process {process.pid}; wait for its end, or stop it first.\n"
    process.kill()


@pytest.mark.faults
def test_two_trainings_at_the_same_time(run, start, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images" / "red", range(4)).parent
    run("extract", images, *SMALL)
    options = ("--epochs", 2, "--models", tmp_path / "models", "--api", "functional")
    command = ("train", images, "--targets", write_targets(tmp_path, "red"), *SMALL, *options)
    processes = [start(*command) for _ in range(2)]
    for process in processes:
        _, messages = process.communicate(timeout=300)
        assert process.returncode == 0, messages
    runs = list((tmp_path / "models").iterdir())
    assert len(runs) == 2
    for folder in runs:
        assert run("evaluate", folder, "--json", "--quiet").json["images"] == 1
