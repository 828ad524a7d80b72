"""Merging the features of several caches into one."""

import contextlib
import shutil
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from helpers import PROGRAMS, SMALL, check_ended, environment_at, make_images, run_python, wait_for_tick, wait_until
from object_storage import s3_server

from pipeline.commands import cache_merge
from pipeline.commands.cache_merge import merge_caches
from pipeline.core.errors import PipelineError
from pipeline.data.images import DIGEST, file_ref
from pipeline.features import store_bucket
from pipeline.features.extractor import Extractor
from pipeline.features.file_index import FileIndex
from pipeline.features.store import FeatureStore
from pipeline.features.weights import weights_from

EXTRACTOR = Extractor(weights_from("random:0"), "block5_pool")
OTHERS = (
    Extractor(weights_from("imagenet"), "fc2", precision="int8"),
    Extractor(weights_from("random:1"), "block4_conv3", pool="grid:2", project="300:7", resize="crop"),
)


def fill(cache: Path | str, seeds: range, extractor: Extractor = EXTRACTOR) -> FeatureStore:
    """A store with one row per seed, all in one file."""
    store = FeatureStore(cache, extractor)
    made = [np.random.default_rng(seed) for seed in seeds]
    store.append(
        np.frombuffer(b"".join(random.bytes(16) for random in made), DIGEST),
        np.array([random.random(extractor.dim, np.float32) for random in made]),
        np.array([random.integers(0, 256, (24, 24), np.uint8) for random in made]),
        np.array([random.integers(1, 10**9) for random in made]),
    )
    return store


def content(cache: Path, extractor: Extractor = EXTRACTOR) -> dict[bytes, tuple]:
    """Digest -> the rest of the row; fails on duplicate digests."""
    rows = lance.dataset(cache / "features" / f"{extractor.fingerprint}.lance").to_table().to_pylist()
    found = {row.pop("digest"): (*row.pop("vector"), *row.values()) for row in rows}
    assert len(found) == len(rows)
    return found


def flip(store: FeatureStore, vector: np.ndarray) -> None:
    """Change one bit of a stored vector on disk."""
    [file] = (store.path / "data").iterdir()
    data = bytearray(file.read_bytes())
    data[data.index(vector.tobytes()[:64]) + 5] ^= 1
    file.write_bytes(data)


def test_missing_features_are_copied(run, tmp_path: Path) -> None:
    fill(tmp_path / "a", range(10))
    fill(tmp_path / "b", range(5, 20))
    fill(tmp_path / "into", range(3))
    done = run("cache", "merge", tmp_path / "a", tmp_path / "b", "--cache", tmp_path / "into", "--json").json
    store = tmp_path / "into" / "features" / f"{EXTRACTOR.fingerprint}.lance"
    assert (done["folder"], done["indexed"]) == (str(tmp_path / "into"), 0)
    assert [(each["copied"], each["known"], each["damaged"]) for each in done["stores"]] == [(7, 3, 0), (10, 5, 0)]
    assert [each["source"] for each in done["stores"]] == [
        str(tmp_path / name / "features" / store.name) for name in "ab"
    ]
    assert [each["store"] for each in done["stores"]] == [str(store)] * 2
    fill(tmp_path / "whole", range(20))
    assert content(tmp_path / "into") == content(tmp_path / "whole")


def test_a_second_merge_copies_nothing(run, tmp_path: Path) -> None:
    fill(tmp_path / "a", range(10))
    for shown in ("10 features copied, 0 known", "0 features copied, 10 known"):
        assert shown in run("cache", "merge", tmp_path / "a", "--cache", tmp_path / "into").out
    assert content(tmp_path / "into") == content(tmp_path / "a")


def test_every_store_of_a_cache_is_merged(tmp_path: Path) -> None:
    for extractor in (EXTRACTOR, *OTHERS):
        fill(tmp_path / "a", range(4), extractor)
    result = merge_caches([tmp_path / "a"], tmp_path / "into")
    assert [each.copied for each in result.stores] == [4, 4, 4]
    for extractor in (EXTRACTOR, *OTHERS):
        assert content(tmp_path / "into", extractor) == content(tmp_path / "a", extractor)
        assert len(FeatureStore(tmp_path / "into", extractor)) == 4


def test_a_merge_in_small_blocks_gives_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.commands.cache_merge.MERGED_ROWS", 3)
    fill(tmp_path / "a", range(10))
    merge_caches([tmp_path / "a"], tmp_path / "into")
    assert len(lance.dataset(next((tmp_path / "into" / "features").glob("*.lance"))).get_fragments()) == 4
    assert content(tmp_path / "into") == content(tmp_path / "a")


def test_duplicate_rows_are_copied_once(tmp_path: Path) -> None:
    store = fill(tmp_path / "a", range(10))
    lance.write_dataset(lance.dataset(store.path).to_table(), store.path, mode="append")
    [merged] = merge_caches([tmp_path / "a"], tmp_path / "into").stores
    assert (merged.copied, merged.damaged) == (10, 0)
    fill(tmp_path / "whole", range(10))
    assert content(tmp_path / "into") == content(tmp_path / "whole")


def test_damaged_features_are_skipped_and_counted(run, tmp_path: Path) -> None:
    store = fill(tmp_path / "a", range(40))
    digests, vectors = store.digests, store.features(store.digests)
    lost = [7, 31]
    for row in lost:
        flip(store, vectors[row])
    done = run("cache", "merge", tmp_path / "a", "--cache", tmp_path / "into", "--json")
    assert "2 vectors of the feature store" in done.err
    assert [(each["copied"], each["damaged"]) for each in done.json["stores"]] == [(38, 2)]
    merged = FeatureStore(tmp_path / "into", EXTRACTOR)
    assert not merged.contains(digests[lost]).any()
    assert np.array_equal(merged.features(np.delete(digests, lost)), np.delete(vectors, lost, axis=0))
    assert len(content(tmp_path / "a")) == 40  # the source is unchanged


def test_a_failing_bucket_is_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_bucket, "PATIENCE", store_bucket.NO_PATIENCE)
    with contextlib.ExitStack() as running:
        server = running.enter_context(s3_server(tmp_path / "requests.log"))
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        server.create_bucket("parts")
        fill("s3://parts/a", range(2))
        blocks = cache_merge._blocks

        def end_server(digests: np.ndarray, dim: int) -> list[np.ndarray]:
            running.close()
            return blocks(digests, dim)

        monkeypatch.setattr(cache_merge, "_blocks", end_server)
        with pytest.raises(PipelineError, match=r"s3://parts/a/.* cannot be read: the server does not answer"):
            merge_caches(["s3://parts/a"], tmp_path / "merged", progress=False)


def test_an_unreadable_data_file_is_skipped_and_counted(run, tmp_path: Path) -> None:
    fill(tmp_path / "a", range(4))
    [first] = (tmp_path / "a" / "features").glob("*.lance/data/*")
    fill(tmp_path / "a", range(4, 10))
    first.write_bytes(b"damaged")
    done = run("cache", "merge", tmp_path / "a", "--cache", tmp_path / "into", "--json")
    assert [(each["copied"], each["damaged"]) for each in done.json["stores"]] == [(6, 4)]
    assert len(content(tmp_path / "into")) == 6


def test_a_killed_merge_is_completed_by_the_next_during_another(start, run, tmp_path: Path) -> None:
    fill(tmp_path / "a", range(60))
    fill(tmp_path / "b", range(30, 90))
    both = [tmp_path / "a", tmp_path / "b"]
    into = tmp_path / "into"
    killed = start("cache", "merge", *both, "--cache", into, program="small_blocks")
    beside = start("cache", "merge", *reversed(both), "--cache", into, program="small_blocks")
    wait_until(lambda: len(list(into.glob("features/*/data/*"))) > 10, killed)
    killed.kill()
    killed.wait()
    stored = content(into)
    assert stored
    _, messages = beside.communicate(timeout=120)
    assert (beside.returncode, "Traceback" in messages) == (0, False), messages
    run("cache", "merge", *both, "--cache", into)
    assert content(into).items() >= stored.items()
    assert content(into) == content(tmp_path / "a") | content(tmp_path / "b")


def test_an_interrupted_merge_says_how_to_continue(start, tmp_path: Path) -> None:
    fill(tmp_path / "a", range(200))
    process = start("cache", "merge", tmp_path / "a", "--cache", tmp_path / "into", program="small_blocks")
    wait_until(lambda: len(list(tmp_path.glob("into/features/*/data/*"))) > 5, process)
    process.terminate()
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "What was copied so far is kept" in messages


def test_no_deep_learning_library_is_imported(tmp_path: Path) -> None:
    fill(tmp_path / "a", range(4))
    command = ("cache", "merge", tmp_path / "a", "--cache", tmp_path / "into")
    finished = check_ended(
        run_python(PROGRAMS / "imported_by_command.py", *command, env=environment_at(tmp_path / "home"))
    )
    assert finished.out.splitlines()[-1] == "['lance']"


@pytest.fixture
def shards(run, fresh_cache, tmp_path: Path) -> list[Path]:
    """Caches with the features of three shards of twelve images, older than a tick of the file system's clock."""
    images = make_images(tmp_path / "images", range(12))
    wait_for_tick(images)
    caches = [fresh_cache(f"shard{number}") for number in (1, 2, 3)]
    for number, cache in enumerate(caches, 1):
        run("extract", images, *SMALL, "--shard", f"{number}/3", "--cache", cache, "--out", cache / "vectors.npz")
    return caches


def test_merged_shards_are_neither_computed_nor_read_again(run, shards: list[Path], tmp_path: Path) -> None:
    into = tmp_path / "into"
    done = run("cache", "merge", *shards, "--cache", into, "--json").json
    assert sum(each["copied"] for each in done["stores"]) == done["indexed"] == 12
    with contextlib.closing(FileIndex(into)) as index:
        assert all(index.digest(file_ref(file)) for file in (tmp_path / "images").iterdir())
    whole = run("extract", tmp_path / "images", *SMALL, "--cache", into, "--out", tmp_path / "all.npz", "--json").json
    assert (whole["computed"], whole["cached"], whole["failed"], whole["engine"]) == (0, 12, [], None)
    with np.load(tmp_path / "all.npz") as merged:
        found = dict(zip(merged["paths"], merged["features"], strict=True))
    for cache in shards:
        with np.load(cache / "vectors.npz") as shard:
            for path, vector in zip(shard["paths"], shard["features"], strict=True):
                assert np.array_equal(found.pop(path), vector)
    assert not found
    assert run("cache", "merge", *shards, "--cache", into, "--json").json["indexed"] == 0


def test_damaged_features_are_recomputed_by_the_next_extraction(run, shards: list[Path], tmp_path: Path) -> None:
    [cache, *_] = [each for each in shards if len(FeatureStore(each, EXTRACTOR)) > 1]
    store = FeatureStore(cache, EXTRACTOR)
    flip(store, store.features(store.digests[:1])[0])
    into = tmp_path / "into"
    shutil.copytree(cache / "networks", into / "networks")
    run("cache", "merge", *shards, "--cache", into)
    whole = run("extract", tmp_path / "images", *SMALL, "--cache", into, "--json").json
    assert (whole["computed"], whole["cached"]) == (1, 11)


def test_wrong_requests(run, tmp_path: Path) -> None:
    fill(tmp_path / "a", range(2))
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    into = ("--cache", tmp_path / "a")
    assert "There is no cache folder" in run("cache", "merge", tmp_path / "none", *into, code=2).err
    assert "is not a cache folder" in run("cache", "merge", tmp_path / "other", *into, code=2).err
    assert "is the cache to merge into" in run("cache", "merge", tmp_path / "link", *into, code=2).err
    assert "Missing argument 'CACHE...'" in run("cache", "merge", *into, code=2).err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "link", "other"]


def test_incompatible_stores_are_refused(run, tmp_path: Path) -> None:
    good = fill(tmp_path / "good", range(2))

    def message(cache: str, *others: str) -> str:
        refused = run(
            "cache", "merge", *(tmp_path / name for name in (cache, *others)), "--cache", tmp_path / "into", code=1
        )
        assert str(tmp_path / cache) in refused.err
        return refused.err

    (tmp_path / "layout" / "features").mkdir(parents=True)
    metadata = good._schema.metadata
    table = pa.table({"digest": pa.array([b"0" * 16], pa.binary(16))}).replace_schema_metadata(metadata)
    lance.write_dataset(table, tmp_path / "layout" / "features" / good.path.name)
    assert "another version of this program created it" in message("layout")

    shutil.copytree(tmp_path / "good", tmp_path / "renamed")
    [store] = (tmp_path / "renamed" / "features").glob("*.lance")
    store.rename(store.with_stem("0123456789abcdef"))
    assert "was created by another version of this program, or renamed" in message("renamed", "good")
    assert not (tmp_path / "into" / "features" / good.path.name).is_dir()  # all are checked before anything is copied

    shutil.copytree(tmp_path / "good", tmp_path / "cut")
    for manifest in (tmp_path / "cut" / "features").glob("*.lance/_versions/*.manifest"):
        manifest.write_bytes(b"")
    assert "extract with its cache folder repairs what it can" in message("cut")

    wide = pa.field("vector", pa.list_(pa.float32(), 7), nullable=False)
    schema = good._schema.set(good._schema.get_field_index("vector"), wide)
    (tmp_path / "narrow" / "features").mkdir(parents=True)
    lance.write_dataset(schema.empty_table(), tmp_path / "narrow" / "features" / good.path.name)
    assert "its vectors have 7 numbers, not 512" in message("narrow")
