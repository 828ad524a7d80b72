"""Storing features while the next ones are computed."""

import contextlib
import threading
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import PipelineError
from pipeline.features import merging, saving
from pipeline.features.backends import Result
from pipeline.features.backends.worker_process import Decoded
from pipeline.features.extractor import Extractor
from pipeline.features.saving import Saver
from pipeline.features.store import FeatureStore
from pipeline.features.store_folder import StoreFolder
from pipeline.features.store_group import StoreGroup
from pipeline.features.weights import weights_from

EXTRACTOR = Extractor(weights_from("random:0"), "block1_pool")  # 64 numbers


def result(number: int) -> Result:
    image = Decoded(number, 0, bytes([number] * 16), None, True, 1)
    return Result(image, (np.full(EXTRACTOR.dim, number, np.float32),), np.zeros((24, 24), np.uint8))


@pytest.fixture
def stores(tmp_path: Path) -> StoreGroup:
    return StoreGroup([FeatureStore(tmp_path, EXTRACTOR)])


def test_each_content_is_stored_once_with_its_features(stores: StoreGroup) -> None:
    saver = Saver(stores)
    for numbers in ([0], [1, 2], [], [2, 3], [1]):
        saver.add([result(number) for number in numbers])
    saver.add([Result(result(9).image)])  # not computed
    saver.close()
    [store] = stores.stores
    assert sorted(digest[0] for digest in store.digests.tolist()) == [0, 1, 2, 3]
    assert store.features(store.digests)[:, 0].tolist() == [0, 1, 2, 3]
    assert stores.computed[store.path] == 4


def test_features_are_gathered_while_the_store_is_slow(stores: StoreGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "STORE_SECONDS", 0.0)
    monkeypatch.setattr(saving, "STORE_BYTES", 6 * 4 * EXTRACTOR.dim)
    may_store, sizes, append = threading.Event(), [], stores.append

    def slow(digests: np.ndarray, *rest: np.ndarray) -> None:
        may_store.wait(60)
        sizes.append(len(digests))
        append(digests, *rest)

    monkeypatch.setattr(stores, "append", slow)
    saver = Saver(stores)
    for number in range(6):  # none of these waits for the store
        saver.add([result(number)])
    threading.Timer(0.1, may_store.set).start()
    saver.add([result(6)])  # too much is gathered: it waits
    assert sizes[0] == 1
    saver.close()
    assert sizes == [1, 6]


def test_merging_delays_no_append(stores: StoreGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "STORE_SECONDS", 0.0)
    monkeypatch.setattr(merging, "FRAGMENTS_BEFORE_MERGE", 2)
    [store], may_commit = stores.stores, threading.Event()
    commit = merging.Compaction.commit

    def commit_late(*arguments: object) -> None:
        may_commit.wait(10)
        commit(*arguments)

    def lock() -> contextlib.AbstractContextManager:
        in_merger = threading.current_thread().name.startswith("merger")
        return contextlib.nullcontext() if in_merger else StoreFolder.lock(store._lance)

    # Reading and writing take most of a merge's time; a slow commit without the lock simulates them.
    monkeypatch.setattr(store._lance, "lock", lock)
    monkeypatch.setattr(merging.Compaction, "commit", commit_late)
    saver = Saver(stores)
    for number in range(9):
        saver.add([result(number)])
        saver._storing.result()
    assert (len(store), len(store._dataset.get_fragments())) == (9, 9)
    may_commit.set()
    saver.close()
    opened = FeatureStore(store.path.parent.parent, EXTRACTOR)
    assert len(opened._dataset.get_fragments()) < 9
    assert opened.features(opened.digests)[:, 0].tolist() == list(range(9))


def test_an_error_of_the_store_is_raised(stores: StoreGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: np.ndarray) -> None:
        raise PipelineError("The disk is full.")

    monkeypatch.setattr(stores, "append", fail)
    saver = Saver(stores)
    saver.add([result(0)])
    with pytest.raises(PipelineError, match="The disk is full"):
        saver.close()


def test_an_error_of_merging_is_raised(stores: StoreGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "merge", lambda: stores.append(None, None, None, None))
    saver = Saver(stores)
    saver.add([result(0)])
    with pytest.raises(TypeError):
        saver.close()
