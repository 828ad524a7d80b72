"""Full, read-only and vanishing disks."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL, make_images, wait_until, write_targets

BATCHES = (*SMALL, "--batch-size", 4)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A 2 MB disk in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here ({mounted.stderr.strip()})")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def cache(disk: Path, fresh_cache) -> Path:
    """A cache on the small disk; the network is elsewhere."""
    (disk / "networks").symlink_to(fresh_cache("big") / "networks")
    return disk


def fill(disk: Path, leave: int) -> Path:
    """Fill a disk except for some bytes."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free - leave))
    return ballast


def test_a_full_disk_is_reported_and_the_next_run_resumes(run, cache: Path, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(48))
    command = ("extract", images, *BATCHES, "--cache", cache)
    ballast = fill(cache, 150_000)
    finished = run(*command, code=1)
    assert str(cache / "features") in finished.err
    assert "What was stored before is kept; make room" in finished.err
    ballast.unlink()
    result = run(*command, "--out", tmp_path / "out.npy", "--json").json
    assert 4 <= result["cached"] < 48
    assert result["cached"] + result["computed"] == 48
    assert len(np.unique(np.load(tmp_path / "out.npy"), axis=0)) == 48


def test_a_disk_that_is_full_from_the_start(run, cache: Path, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(4))
    fill(cache, 0)
    finished = run("extract", images, *BATCHES, "--cache", cache, code=1)
    assert str(cache) in finished.err


def test_outputs_on_a_full_disk_leave_no_partial_files(run, disk: Path, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images" / "red", range(40)).parent
    make_images(tmp_path / "images" / "blue", range(40, 44))
    fill(disk, 50_000)
    before = sorted(disk.iterdir())
    for suffix in ("npz", "npy", "parquet"):
        finished = run("extract", images, *BATCHES, "--out", disk / f"out.{suffix}", code=1)
        assert f"{disk / f'out.{suffix}'} cannot be written" in finished.err
    train = ("train", images, "--targets", write_targets(tmp_path, "red", "blue"), *BATCHES, "--epochs", 2)
    assert str(disk) in run(*train, "--models", disk / "models", code=1).err
    assert sorted(disk.iterdir()) == [*before, disk / "models"]
    assert list((disk / "models").iterdir()) == []


def test_an_export_to_a_full_disk_leaves_nothing(run, small_run, disk: Path) -> None:
    names = {"onnx": "model.onnx", "litert": "model.tflite", "keras": "model.keras", "savedmodel": "model"}
    for kind, name in names.items():
        finished = run("export", small_run.folder, "--format", kind, "--out", disk / name, "--quiet", code=1)
        assert f"{disk / name} cannot be written (No space left on device" in finished.err
    assert list(disk.iterdir()) == []


def test_a_read_only_cache_is_reported(run, cache: Path, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(4))
    subprocess.run(["mount", "-o", "remount,ro", cache], check=True)
    assert str(cache) in run("extract", images, *BATCHES, "--cache", cache, code=1).err
    refused = run("extract", images, *BATCHES, "--out", cache / "out.npz", code=2)
    assert f"the folder {cache} is not writable" in refused.err


def test_a_store_removed_during_extraction(run, start, fresh_cache, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(160))
    cache = fresh_cache("cache")
    process = start("extract", images, *BATCHES, "--cache", cache, program="frequent_stores")
    wait_until(lambda: len(list(cache.glob("features/*/data/*"))) >= 2, process)
    shutil.rmtree(cache / "features", ignore_errors=True)
    shutil.rmtree(cache / "features", ignore_errors=True)
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 1, messages
    assert f"The feature store {cache / 'features'}" in messages
    assert "Traceback" not in messages
    shutil.rmtree(cache / "features", ignore_errors=True)
    assert run("extract", images, *BATCHES, "--cache", cache, "--json").json["computed"] == 160
