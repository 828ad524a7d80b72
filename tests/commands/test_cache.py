"""The cache folder: listing its content, and removing what is no longer needed."""

import contextlib
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from faulty_storage import faulty_storage
from helpers import SMALL, encoded, make_image, make_images, no_file_descriptors, wait_for_tick, wait_until

from pipeline.commands.cache import list_cache, plan_pruning
from pipeline.commands.cache_merge import merge_caches
from pipeline.core.errors import PipelineError
from pipeline.data.images import DIGEST, content_digest
from pipeline.data.sources import find_images
from pipeline.features.extractor import Extractor
from pipeline.features.file_index import FileIndex
from pipeline.features.store import FeatureStore
from pipeline.features.weights import weights_from

DAY = 24 * 60 * 60
EXTRACTOR, OTHER = (Extractor(weights_from(name), "block5_pool") for name in ("random:0", "random:1"))


def fill(cache: Path, images: Path, extractor: Extractor) -> None:
    """Store made-up features for the images in a folder."""
    digests = np.array([content_digest(ref.read()[0]) for ref in find_images(images).refs], DIGEST)
    made = np.random.default_rng(0).random((len(digests), extractor.dim), np.float32)
    thumbnails = np.zeros((len(digests), 24, 24), np.uint8)
    FeatureStore(cache, extractor).append(digests, made, thumbnails, np.ones(len(digests), np.int64))


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A cache with features of eight images from one extractor, and of four of them from another."""
    make_images(tmp_path / "some", range(4))
    fill(tmp_path / "filled", make_images(tmp_path / "images", range(8)), EXTRACTOR)
    fill(tmp_path / "filled", tmp_path / "some", OTHER)
    with contextlib.closing(FileIndex(tmp_path / "filled")):
        return tmp_path / "filled"


@pytest.fixture
def cache(run, fresh_cache, tmp_path: Path) -> Path:
    """A cache with features of eight images from one layer, and of four of them from another."""
    folder = fresh_cache("cache")
    images = make_images(tmp_path / "images", range(8))
    make_images(tmp_path / "some", range(4))
    run("extract", images, *SMALL, "--cache", folder)
    run("extract", tmp_path / "some", *SMALL, "--engine", "keras", "--precision", "bfloat16", "--cache", folder)
    return folder


def test_the_cache_is_listed_with_its_extractors(run, cache: Path) -> None:
    found = run("cache", "--cache", cache, "--json").json
    assert set(found) == {"folder", "bytes", "stores", "networks", "leftovers", "set_aside", "indexed"}
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


def test_unused_stores_and_networks_are_removed(run, cache: Path, tmp_path: Path) -> None:
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


def test_leftovers_of_killed_processes_are_removed(run, cache: Path) -> None:
    unfinished = cache / "networks" / ".unfinished-abc"
    unfinished.mkdir()
    (unfinished / "graph.onnx").write_bytes(bytes(1000))
    [store, _] = (cache / "features").glob("*.lance")
    aside = store.with_suffix(".damaged-1")
    shutil.copytree(store, aside)
    listed = run("cache", "--cache", cache, "--json").json
    assert [item["path"] for item in listed["leftovers"]] == [str(unfinished)]
    assert [item["path"] for item in listed["set_aside"]] == [str(aside)]
    assert aside.name in run("cache", "--cache", cache).out
    pruned = run("cache", "prune", "--yes", "--cache", cache)
    assert pruned.out.startswith("Removed 1 item and 0 features of others")
    assert aside.exists()  # it may hold features
    assert not unfinished.exists()
    named = run("cache", "prune", "--set-aside", "--yes", "--cache", cache, "--json").json
    assert named["removed"] == [str(aside)]
    assert not aside.exists()


def rows(run, cache: Path) -> list[int]:
    return sorted(store["images"] for store in run("cache", "--cache", cache, "--json").json["stores"])


def test_features_of_unreadable_images_are_kept(run, filled: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"

    def refused(code: int, *options: object) -> str:
        finished = run("cache", "prune", "--not-in", *options, "--yes", "--cache", filled, code=code)
        assert rows(run, filled) == [4, 8]
        return finished.err

    (tmp_path / "gone.txt").write_text("images/0000.png\nimages/9999.png\n")
    assert "1 image of" in (missing := refused(1, tmp_path / "gone.txt"))
    assert "9999.png: No such file" in missing
    images.rename(tmp_path / "away")
    assert "does not exist" in refused(2, images)
    images.mkdir()
    assert "no images in this folder" in refused(2, images)
    (tmp_path / "away").rename(images / "disk")
    make_images(images, [77])
    (images / "other").symlink_to(tmp_path / "not mounted")
    assert "leads nowhere; is its disk mounted?" in refused(1, images)
    (images / "other").unlink()
    (images / "0077.png").write_bytes(b"")  # an empty file has no features
    assert "Nothing was removed" not in run("cache", "prune", "--not-in", images, "--yes", "--cache", filled).err
    assert rows(run, filled) == [4, 8]


def test_features_of_an_emptied_folder_are_kept(run, tmp_path: Path) -> None:
    images, cache = make_images(tmp_path / "images" / "disk", range(3)).parent, tmp_path / "cache"
    make_images(images, [7])
    wait_for_tick(images)
    with contextlib.closing(FileIndex(cache)) as index:
        refs = find_images(images).refs
        index.record([(ref, ref.version(), content_digest(ref.read()[0])) for ref in refs])
    fill(cache, images, EXTRACTOR)
    (images / "disk").rename(tmp_path / "unmounted")
    (images / "disk").mkdir()
    (images / "never used").mkdir()
    refused = run("cache", "prune", "--not-in", images, "--yes", "--cache", cache, code=1)
    assert f"{images / 'disk'} is empty, but images were read there before" in refused.err
    assert rows(run, cache) == [4]
    (images / "disk").rmdir()
    run("cache", "prune", "--not-in", images, "--yes", "--cache", cache)
    assert rows(run, cache) == [1]


def test_features_of_failing_objects_in_a_bucket_are_kept(run, filled: Path) -> None:
    objects = {f"{seed}.png": encoded(make_image(seed)) for seed in range(4)}
    with faulty_storage(objects, {"2.png": "cut"}) as server:
        variables = {"AWS_ENDPOINT_URL": server.url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        command = ("cache", "prune", "--not-in", "s3://bucket", "--yes", "--cache", filled)
        refused = run(*command, code=1, AWS_REGION="us-east-1", **variables)
    assert "2.png: the server does not deliver it" in refused.err
    assert rows(run, filled) == [4, 8]


def test_a_store_that_cannot_be_opened_is_listed_with_its_error_and_kept(run, filled: Path, tmp_path: Path) -> None:
    stores = {store["images"]: store for store in run("cache", "--cache", filled, "--json").json["stores"]}
    for manifest in Path(stores[4]["path"]).glob("_versions/*.manifest"):
        manifest.write_bytes(b"")
    listed = run("cache", "--cache", filled, "--json").json["stores"]
    [broken] = [store for store in listed if store["images"] is None]
    assert broken["error"]
    assert [store["error"] for store in listed if store is not broken] == [None]
    assert "unreadable" in run("cache", "--cache", filled).out
    pruned = run("cache", "prune", "--not-in", tmp_path / "some", "--yes", "--cache", filled)
    assert "cannot be opened" in pruned.err
    assert Path(broken["path"]).is_dir()


def test_the_last_use_of_an_empty_store_is_its_creation(run, tmp_path: Path) -> None:
    cache = tmp_path / "empty"
    FeatureStore(cache, EXTRACTOR)
    [store] = run("cache", "--cache", cache, "--json").json["stores"]
    assert time.time() - store["last_used"] < 100
    assert run("cache", "prune", "--older-than", 1, "--yes", "--cache", cache, "--json").json["removed"] == []


def test_pruning_works_with_a_damaged_file_index(run, filled: Path) -> None:
    database = filled / "images.sqlite"
    database.write_bytes(database.read_bytes().replace(b"CREATE TABLE files", b"CREATE TABLE fil\xe9s"))
    assert run("cache", "--cache", filled, "--json").json["indexed"] == 0


def test_nothing_is_removed_without_confirmation(run_process, cache: Path, tmp_path: Path) -> None:
    make_images(tmp_path / "kept", [1])
    refused = run_process("cache", "prune", "--not-in", tmp_path / "kept", "--cache", cache, code=2)
    assert "say --yes" in refused.err
    assert run_process("cache", "prune", "--yes", "--cache", cache).out == "Nothing was removed.\n"


def test_pruning_during_an_extraction_loses_only_what_it_removes(run, start, fresh_cache, tmp_path: Path) -> None:
    images, cache = make_images(tmp_path / "images", range(160)), fresh_cache("busy")
    make_images(tmp_path / "kept", [0, 1])
    process = start("extract", images, *SMALL, "--batch-size", 4, "--cache", cache, program="frequent_stores")
    wait_until(lambda: len(list(cache.glob("features/*/data/*"))) >= 2, process)
    run("cache", "prune", "--not-in", tmp_path / "kept", "--yes", "--cache", cache)
    _, messages = process.communicate(timeout=120)
    assert "Traceback" not in messages
    assert "it changed" not in messages
    result = run("extract", images, *SMALL, "--cache", cache, "--json").json
    assert result["computed"] + result["cached"] == 160


def test_wrong_requests(run, cache: Path, tmp_path: Path) -> None:
    assert "There is no cache folder" in run("cache", "--cache", tmp_path / "none", code=2).err
    assert "does not exist" in run("cache", "prune", "--not-in", tmp_path / "none", "--cache", cache, code=2).err
    assert "--older-than" in run("cache", "prune", "--older-than", -1, "--cache", cache, code=2).err


def test_a_cache_that_cannot_be_listed_is_an_error(fresh_cache, tmp_path: Path) -> None:
    cache = fresh_cache("cache")
    FeatureStore(cache, Extractor(weights_from("random:0"), "block5_pool"))
    with no_file_descriptors():
        for task in (list_cache, plan_pruning, lambda folder: merge_caches([folder], tmp_path / "other")):
            with pytest.raises(PipelineError, match=rf"{cache} cannot be listed.*Too many open files"):
                task(cache)
