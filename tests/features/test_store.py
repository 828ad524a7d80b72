from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import PipelineError
from pipeline.data.images import DIGEST
from pipeline.features import store as store_module
from pipeline.features.extractor import Extractor
from pipeline.features.store import FeatureStore
from pipeline.features.weights import weights_from

EXTRACTOR = Extractor(weights_from("random:0"), "block5_pool")


def batch(seed: int, size: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return (
        np.frombuffer(random.bytes(16 * size), DIGEST),
        random.random((size, 512), np.float32),
        random.integers(0, 256, (size, 24, 24), np.uint8),
        np.full(size, seed),
    )


def test_features_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    batches = [batch(seed) for seed in range(5)]
    for each in batches:
        store.append(*each)
    digests, vectors, thumbnails, pixels = map(np.concatenate, zip(*batches, strict=True))
    order = [7, 0, 19, 7]
    for opened in (store, FeatureStore(tmp_path, EXTRACTOR)):
        assert len(opened) == 20
        assert opened.contains(digests[:4]).all()
        assert not opened.contains(batch(9)[0]).any()
        assert np.array_equal(opened.features(digests[order]), vectors[order])
        assert np.array_equal(opened.thumbnails(digests[order]), thumbnails[order])
        assert np.array_equal(opened.pixel_counts(digests), pixels)
    with pytest.raises(KeyError, match=batch(9)[0][0].tobytes().hex()):
        store.rows(batch(9)[0])


def test_merging_fragments_keeps_every_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "FRAGMENTS_BEFORE_MERGE", 3)
    store = FeatureStore(tmp_path, EXTRACTOR)
    batches = [batch(seed) for seed in range(10)]
    for each in batches:
        store.append(*each)
    for digests, vectors, *_ in batches:
        assert np.array_equal(store.features(digests), vectors)


def test_two_openers_see_each_others_appends(tmp_path: Path) -> None:
    first, second = FeatureStore(tmp_path, EXTRACTOR), FeatureStore(tmp_path, EXTRACTOR)
    first.append(*batch(1))
    second.append(*batch(2))
    assert second.arrived == set(batch(1)[0].tolist())
    second.append(*batch(1))
    assert len(second) == len(FeatureStore(tmp_path, EXTRACTOR)) == 8


def test_what_killed_processes_left_is_tidied_up(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    store.append(*batch(1))
    left = [store.path / "_transactions" / ".tmpabc", store.path / "_versions" / ".tmpdef"]
    for file in left:
        file.write_bytes(b"half")
    store.tidy()
    assert not any(file.exists() for file in left)
    assert len(FeatureStore(tmp_path, EXTRACTOR)) == 4


def test_a_data_file_that_is_gone_is_missed_at_the_end(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    store.append(*batch(1))
    [file] = (store.path / "data").iterdir()
    store.append(*batch(2))
    file.unlink()
    with pytest.raises(PipelineError, match=r"cannot be tidied \(.*No such file.*verify=True"):
        store.tidy()


def test_another_extractor_has_another_store(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    store.append(*batch(1))
    others = [Extractor(weights_from("random:1"), "block5_pool"), Extractor(weights_from("random:0"), "fc1")]
    assert [len(FeatureStore(tmp_path, other)) for other in others] == [0, 0]


def test_a_changed_vector_is_found_when_read(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    digests, vectors, *rest = batch(1)
    store.append(digests, vectors, *rest)
    file = next((store.path / "data").iterdir())
    data = bytearray(file.read_bytes())
    at = data.index(vectors[2].tobytes()[:64])
    data[at + 5] ^= 1
    file.write_bytes(data)
    opened = FeatureStore(tmp_path, EXTRACTOR)
    with pytest.raises(PipelineError, match=r"damaged.*verify=True"):
        opened.features(digests)
    assert opened.drop_damaged() == 1
    assert opened.contains(digests).tolist() == [True, True, False, True]
    assert np.array_equal(opened.features(digests[[0, 1, 3]]), vectors[[0, 1, 3]])


def test_a_place_that_cannot_hold_a_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file in the way")
    with pytest.raises(PipelineError, match="cannot be opened"):
        FeatureStore(tmp_path, EXTRACTOR)


def test_a_store_of_another_layout_is_refused(tmp_path: Path) -> None:
    import lance
    import pyarrow as pa

    (tmp_path / "features").mkdir()
    table = pa.table({"digest": pa.array([b"0" * 16], pa.binary(16))})
    lance.write_dataset(table, tmp_path / "features" / f"{EXTRACTOR.fingerprint}.lance")
    with pytest.raises(PipelineError, match=r"another version of this program created it.*delete this"):
        FeatureStore(tmp_path, EXTRACTOR)
