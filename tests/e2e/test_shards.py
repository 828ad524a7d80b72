"""Shards: several processes each extract a part of one set of images."""

import json
from pathlib import Path

import lance
import numpy as np
import pyarrow.parquet
import pytest
from helpers import SMALL, are_close, make_images

from pipeline.data.shards import Shard

BATCHES = (*SMALL, "--batch-size", 4, "--workers", 1)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """24 images, a damaged one, and one in an unsupported format."""
    folder = make_images(tmp_path / "images", range(24))
    (folder / "bad.png").write_bytes(b"bad")
    (folder / "photo.nef").write_bytes(b"raw")
    return folder


def test_two_shards_at_once_fill_one_store(run, start, fresh_cache, images: Path, tmp_path: Path) -> None:
    cache = fresh_cache("shared")
    options = ("--cache", cache, "--json", "--strict")
    processes = [start("extract", images, *BATCHES, "--shard", f"{number}/2", *options) for number in (1, 2)]
    ended = [(*process.communicate(timeout=300), process.returncode) for process in processes]
    assert all("Traceback" not in messages for _, messages, _ in ended)
    results = [json.loads(out) for out, _, _ in ended]
    assert [result["shard"] for result in results] == ["1/2", "2/2"]
    assert sum(result["computed"] for result in results) == 24
    assert sum(result["images"] for result in results) == 25
    assert [each["path"] for result in results for each in result["failed"]] == ["bad.png"]
    assert [name for result in results for name in result["passed_over"]] == ["photo.nef"]
    # --strict applies to the images of the shard
    assert [code for *_, code in ended] == [int(bool(each["failed"] or each["passed_over"])) for each in results]

    whole = run("extract", images, *BATCHES, "--cache", cache, "--out", tmp_path / "shared.npy", "--json").json
    assert (whole["computed"], whole["cached"], whole["shard"]) == (0, 24, None)
    stored = lance.dataset(next(cache.glob("features/*.lance"))).to_table(columns=["digest"])["digest"].to_pylist()
    assert len(stored) == len(set(stored)) == 24
    run("extract", images, *BATCHES, "--cache", fresh_cache("alone"), "--out", tmp_path / "alone.npy")
    assert are_close(np.load(tmp_path / "shared.npy"), np.load(tmp_path / "alone.npy"))


@pytest.mark.parametrize("layers", ["block5_pool", "block5_pool,fc2"])
def test_an_empty_shard_is_not_an_error(run, tmp_path: Path, layers: str) -> None:
    images = make_images(tmp_path / "one", [0])
    empty = next(number for number in (1, 2) if not Shard(number, 2).holds("0000.png"))
    command = ("extract", images, "--weights", "random:0", "--layer", layers, "--shard", f"{empty}/2", "--verify")
    for out in ("out.npz", "out.parquet", *(["out.npy"] if layers == "block5_pool" else [])):
        done = run(*command, "--cache", tmp_path / "cache", "--out", tmp_path / out, "--json")
        assert (done.json["images"], done.json["computed"], done.json["failed"]) == (0, 0, [])
        assert f"Shard {empty}/2: 0 of 1 image." in done.err
    with np.load(tmp_path / "out.npz") as saved:
        assert len(saved["paths"]) == 0
        assert [saved[name].shape for name in saved.files[1:]] == [(0, 512), (0, 4096)][: len(saved.files) - 1]
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").num_rows == 0
    assert run(*command, "--cache", tmp_path / "cache").out.startswith("0 images: 0 computed, 0 cached, 0 failed")


def test_a_shard_of_broken_images_is_not_an_error(run, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "bad.png").write_text("no image")
    result = run("extract", tmp_path / "images", *SMALL, "--shard", "1/1", "--cache", tmp_path / "cache", "--json").json
    assert (result["images"], result["computed"], len(result["failed"])) == (1, 0, 1)


def test_wrong_shards_are_refused_before_images_are_listed(run, tmp_path: Path) -> None:
    refused = run("extract", tmp_path / "none", *SMALL, "--shard", "0/16", code=2)
    assert refused.err == "error: --shard 0/16 does not exist; the first is 1/16, the last 16/16.\n"
    assert "--shard '' is not NUMBER/COUNT" in run("extract", tmp_path / "none", *SMALL, "--shard", "", code=2).err
