"""The vector index of a feature store: its results, and when it is rebuilt."""

import json
import logging
import shutil
from pathlib import Path

import lance
import numpy as np
import pytest
from helpers import no_file_descriptors

from pipeline.core.errors import PipelineError
from pipeline.core.vectors import unit
from pipeline.data.decoding import THUMBNAIL
from pipeline.data.images import DIGEST
from pipeline.features.extractor import Extractor
from pipeline.features.merging import FRAGMENTS_BEFORE_MERGE
from pipeline.features.store import FeatureStore
from pipeline.features.vector_index import NOTE, VectorIndex, build_index, open_index
from pipeline.features.weights import weights_from

EXTRACTOR = Extractor(weights_from("random:0"), "block1_pool")  # 64 numbers
COUNT = 3000


def digests_of(numbers: range) -> np.ndarray:
    return np.frombuffer(b"".join(number.to_bytes(16, "big") for number in numbers), DIGEST)


def vectors_of(numbers: range) -> np.ndarray:
    """Vectors with few degrees of freedom, like features; with independent numbers any index misses neighbours."""
    axes = np.random.default_rng(0).normal(size=(5, EXTRACTOR.dim))
    return np.stack([np.random.default_rng(number).normal(size=5) @ axes for number in numbers]).astype("f4")


def fill(store: FeatureStore, numbers: range) -> None:
    thumbnails = np.zeros((len(numbers), THUMBNAIL, THUMBNAIL), np.uint8)
    store.append(digests_of(numbers), vectors_of(numbers), thumbnails, np.ones(len(numbers), np.int64))


def found_by(index: VectorIndex, number: int, count: int = 1) -> list[int]:
    nearby = index.nearest(vectors_of(range(number, number + 1))[0], count)
    return [int.from_bytes(digest, "big") for digest in nearby.tolist()]


def files_of(store: FeatureStore) -> list[Path]:
    return sorted(store.path.glob("_indices/*/*"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with an indexed store, to be copied."""
    cache = tmp_path_factory.mktemp("built")
    store = FeatureStore(cache, EXTRACTOR)
    for start in range(0, COUNT, 500):
        fill(store, range(start, start + 500))
    build_index(store, lambda index: 0.5)
    return cache


@pytest.fixture
def store(built: Path, tmp_path: Path) -> FeatureStore:
    shutil.copytree(built, tmp_path / "cache")
    return FeatureStore(tmp_path / "cache", EXTRACTOR)


def test_the_index_finds_stored_vectors_and_stores_its_recall(store: FeatureStore) -> None:
    index = open_index(store)
    assert index
    assert index.recall == 0.5
    assert [found_by(index, number) for number in range(0, COUNT, 500)] == [[at] for at in range(0, COUNT, 500)]
    vectors = unit(vectors_of(range(COUNT)))
    exact = np.argsort(-vectors @ vectors[7])[:10].tolist()
    assert len(set(found_by(index, 7, 10)) & set(exact)) >= 9


def test_a_store_without_an_index_has_none(tmp_path: Path) -> None:
    assert open_index(FeatureStore(tmp_path, EXTRACTOR)) is None


def test_vectors_stored_later_are_also_found(store: FeatureStore) -> None:
    fill(store, range(COUNT, COUNT + 50))
    index = open_index(store)
    assert index
    assert found_by(index, COUNT + 7) == [COUNT + 7]


def test_removed_vectors_are_not_found(store: FeatureStore) -> None:
    lance.dataset(store.path).delete(f"digest = X'{digests_of(range(5, 6))[0].tobytes().hex()}'")
    index = open_index(store)
    assert index
    assert found_by(index, 5) != [5]


def test_the_index_survives_compaction(store: FeatureStore) -> None:
    before = files_of(store)
    for number in range(COUNT, COUNT + FRAGMENTS_BEFORE_MERGE + 20):
        fill(store, range(number, number + 1))
    store.merge()
    assert len(lance.dataset(store.path).get_fragments()) < FRAGMENTS_BEFORE_MERGE
    assert files_of(store) == before
    index = open_index(store)
    assert index
    assert [found_by(index, at) for at in (7, COUNT + 7)] == [[7], [COUNT + 7]]


def test_a_store_opened_before_indexing_still_works(store: FeatureStore) -> None:
    build_index(store, lambda index: 1.0)
    fill(store, range(COUNT, COUNT + 5))
    assert np.array_equal(store.features(digests_of(range(COUNT + 5))), vectors_of(range(COUNT + 5)))
    store.tidy()
    index = open_index(store)
    assert index
    assert found_by(index, COUNT + 4) == [COUNT + 4]


def test_an_outdated_index_is_not_used(store: FeatureStore) -> None:
    fill(store, range(COUNT, COUNT + COUNT // 5))
    assert open_index(store) is None
    index = build_index(store, lambda index: 1.0)
    assert found_by(index, COUNT + 7) == [COUNT + 7]
    assert open_index(store)


@pytest.mark.parametrize("which", [0, 1], ids=["auxiliary", "index"])
@pytest.mark.parametrize("kind", ["flipped", "cut", "gone"])
def test_damage_is_detected(store: FeatureStore, which: int, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    file = files_of(store)[which]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if kind == "gone":
        file.unlink()
    else:
        file.write_bytes(content if kind == "flipped" else content[:100])
    with caplog.at_level(logging.WARNING):
        assert open_index(store) is None
    assert "is rebuilt" in caplog.text
    build_index(store, lambda index: 1.0)
    index = open_index(store)
    assert index
    assert found_by(index, 7) == [7]


def test_errors_of_the_system_do_not_rebuild_the_index(store: FeatureStore) -> None:
    file = files_of(store)[0]
    with no_file_descriptors(), pytest.raises(PipelineError, match=r"cannot be opened \(.*Too many open files"):
        open_index(store)
    whole = file.rename(file.with_suffix(".whole"))
    file.symlink_to("/proc/self/mem")  # reading it gives an I/O error
    with pytest.raises(PipelineError, match=r"vector index .* cannot be opened \(.*Input/output error"):
        open_index(store)
    whole.replace(file)
    assert open_index(store)


def test_the_folder_of_an_index_may_be_missing(store: FeatureStore) -> None:
    shutil.rmtree(store.path / "_indices")
    assert open_index(store) is None
    for number in range(COUNT, COUNT + FRAGMENTS_BEFORE_MERGE + 20):
        fill(store, range(number, number + 1))
    store.merge()
    assert len(store) == COUNT + FRAGMENTS_BEFORE_MERGE + 20
    assert build_index(store, lambda index: 1.0)


@pytest.mark.parametrize("note", ["", "[]", "{}", json.dumps({"index": "other"}), "null"])
def test_an_index_without_its_config_entry_is_not_used(store: FeatureStore, note: str) -> None:
    lance.dataset(store.path).update_config({NOTE: note})
    assert open_index(store) is None


def test_an_index_that_was_only_partly_built_is_not_used(store: FeatureStore) -> None:
    def interrupted(index: VectorIndex) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(store, interrupted)
    assert open_index(store) is None


def test_too_few_vectors_cannot_be_indexed(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    fill(store, range(3))
    with pytest.raises(PipelineError, match="cannot be built"):
        build_index(store, lambda index: 1.0)
