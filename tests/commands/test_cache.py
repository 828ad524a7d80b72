"""The cache folder: what it holds, and removing what no longer serves."""

import os
import shutil
from pathlib import Path

import pytest
from helpers import SMALL, make_images, wait_until

DAY = 24 * 60 * 60


@pytest.fixture
def cache(run, fresh_cache, tmp_path: Path) -> Path:
    """A cache with the features of eight images by one layer, and of four of them by another."""
    folder = fresh_cache("cache")
    images = make_images(tmp_path / "images", range(8))
    make_images(tmp_path / "some", range(4))
    run("extract", images, *SMALL, "--cache", folder)
    run("extract", tmp_path / "some", *SMALL, "--engine", "keras", "--precision", "bfloat16", "--cache", folder)
    return folder


def test_the_cache_is_listed_with_what_made_it(run, cache: Path) -> None:
    found = run("cache", "--cache", cache, "--json").json
    assert set(found) == {"folder", "bytes", "stores", "networks", "leftovers", "indexed"}
    stores = {store["extractor"]["precision"]: store for store in found["stores"]}
    assert {precision: store["images"] for precision, store in stores.items()} == {"float32": 8, "bfloat16": 4}
    assert all(Path(store["path"]).is_dir() and store["bytes"] > 8 * 1024 for store in stores.values())
    [network] = found["networks"]
    assert network["bytes"] == Path(network["path"]).stat().st_size
    assert found["bytes"] == sum(item["bytes"] for item in [*found["stores"], network])
    assert found["leftovers"] == []
    shown = run("cache", "--cache", cache).out
    assert "random-he-normal-0 block5_pool bfloat16" in shown


def test_features_of_other_images_are_removed(run, cache: Path, tmp_path: Path) -> None:
    make_images(tmp_path / "kept", [1, 2, 77])
    result = run("cache", "prune", "--not-in", tmp_path / "kept", "--yes", "--cache", cache, "--json").json
    assert sorted(result["rows"].values()) == [2, 6]
    assert (result["removed"], result["bytes"] > 0) == ([], True)
    again = run("extract", tmp_path / "images", *SMALL, "--cache", cache, "--json").json
    assert (again["computed"], again["cached"]) == (6, 2)
    assert (
        "Nothing was removed" in run("cache", "prune", "--not-in", tmp_path / "images", "--yes", "--cache", cache).out
    )


def test_what_was_not_used_for_long_is_removed(run, cache: Path, tmp_path: Path) -> None:
    [old] = [store for store in run("cache", "--cache", cache, "--json").json["stores"] if store["images"] == 4]
    for file in Path(old["path"]).rglob("*"):
        os.utime(file, (file.stat().st_atime - 9 * DAY, file.stat().st_mtime - 9 * DAY))
    ten = run("cache", "prune", "--older-than", 10, "--yes", "--cache", cache, "--json").json
    assert ten["removed"] == []
    eight = run("cache", "prune", "--older-than", 8, "--yes", "--cache", cache, "--json")
    assert eight.json["removed"] == [old["path"]]
    assert f"to remove: {old['path']}" in eight.err
    assert not Path(old["path"]).exists()
    assert run("extract", tmp_path / "images", *SMALL, "--cache", cache, "--json").json["cached"] == 8


def test_what_killed_processes_left_is_removed(run, cache: Path) -> None:
    unfinished = cache / "networks" / ".unfinished-abc"
    unfinished.mkdir()
    (unfinished / "graph.onnx").write_bytes(bytes(1000))
    [store, _] = (cache / "features").glob("*.lance")
    aside = store.with_suffix(".damaged-1")
    shutil.copytree(store, aside)
    listed = run("cache", "--cache", cache, "--json").json["leftovers"]
    assert [item["path"] for item in listed] == [str(unfinished), str(aside)]
    assert run("cache", "prune", "--yes", "--cache", cache, "--json").json["removed"] == [str(unfinished), str(aside)]
    assert not unfinished.exists()
    assert not aside.exists()


def test_nothing_is_removed_without_consent(run_process, cache: Path, tmp_path: Path) -> None:
    make_images(tmp_path / "kept", [1])
    refused = run_process("cache", "prune", "--not-in", tmp_path / "kept", "--cache", cache, code=2)
    assert "say --yes" in refused.err
    assert run_process("cache", "prune", "--yes", "--cache", cache).out == "Nothing was removed.\n"


def test_pruning_during_an_extraction_costs_no_more_than_what_it_removes(
    run, start, fresh_cache, tmp_path: Path
) -> None:
    images, cache = make_images(tmp_path / "images", range(160)), fresh_cache("busy")
    make_images(tmp_path / "kept", [0, 1])
    process = start("extract", images, *SMALL, "--batch-size", 4, "--cache", cache, program="frequent_stores")
    wait_until(lambda: len(list(cache.glob("features/*/data/*"))) >= 2, process)
    run("cache", "prune", "--not-in", tmp_path / "kept", "--yes", "--cache", cache)
    _, messages = process.communicate(timeout=120)
    assert "Traceback" not in messages
    result = run("extract", images, *SMALL, "--cache", cache, "--json").json
    assert result["computed"] + result["cached"] == 160


def test_wrong_requests(run, cache: Path, tmp_path: Path) -> None:
    assert "There is no cache folder" in run("cache", "--cache", tmp_path / "none", code=2).err
    assert "does not exist" in run("cache", "prune", "--not-in", tmp_path / "none", "--cache", cache, code=2).err
    assert "--older-than" in run("cache", "prune", "--older-than", -1, "--cache", cache, code=2).err
