import contextlib
import os
import shutil
from pathlib import Path

import lance
import numpy as np
import pytest
from helpers import no_file_descriptors

from pipeline.core.errors import PipelineError
from pipeline.data.images import DIGEST
from pipeline.features import merging
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


def test_features_are_returned_in_the_requested_order(tmp_path: Path) -> None:
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


def test_merging_keeps_every_vector_and_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "FRAGMENTS_BEFORE_MERGE", 3)
    monkeypatch.setattr(merging, "MERGED_ROWS", 12)
    monkeypatch.setattr(merging, "MERGED_BYTES", 1)  # one group of fragments at a time, which moves to the end
    store, other = FeatureStore(tmp_path, EXTRACTOR), FeatureStore(tmp_path, EXTRACTOR)
    rows = {}
    for seed in range(12):
        (other if seed % 5 == 4 else store).append(*batch(seed))
        rows[seed] = store.rows(batch(seed)[0]) if seed % 5 != 4 else None
        if seed in (6, 8):
            other.merge()
        if seed in (7, 11):
            store.merge()
    assert len(store._dataset.get_fragments()) < 12
    order = store._dataset.to_table(columns=["pixel_count"])["pixel_count"].to_pylist()
    assert order != sorted(order)
    for opened in (store, other, FeatureStore(tmp_path, EXTRACTOR)):
        opened.append(*batch(0))  # sees the latest merge
        for seed in range(12):
            digests, vectors, thumbnails, pixels = batch(seed)
            assert np.array_equal(opened.features(digests), vectors)
            assert np.array_equal(opened.thumbnails(digests), thumbnails)
            assert np.array_equal(opened.pixel_counts(digests), pixels)
            if opened is store and rows[seed] is not None:
                assert np.array_equal(store.rows(digests), rows[seed])


def test_rows_removed_by_another_process_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "FRAGMENTS_BEFORE_MERGE", 1)
    store, other = FeatureStore(tmp_path, EXTRACTOR), FeatureStore(tmp_path, EXTRACTOR)
    for seed in range(3):
        store.append(*batch(seed))
    other._delete(batch(1)[0][1:3])
    FeatureStore(tmp_path, EXTRACTOR).merge()
    store.append(*batch(3))
    assert store.contains(batch(1)[0]).tolist() == [True, False, False, True]
    for seed in (0, 2, 3):
        assert np.array_equal(store.features(batch(seed)[0]), batch(seed)[1])
    assert store.append(*batch(1)) == 2
    assert np.array_equal(store.features(batch(1)[0]), batch(1)[1])


def test_rows_stored_twice_during_a_merge_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This happens in buckets, where no lock prevents it."""
    monkeypatch.setattr(merging, "FRAGMENTS_BEFORE_MERGE", 1)
    store = FeatureStore(tmp_path, EXTRACTOR)
    for seed in range(3):
        store.append(*batch(seed))
    before = lance.dataset(store.path)
    FeatureStore(tmp_path, EXTRACTOR).merge()
    lance.write_dataset(before.take([5]), store.path, mode="append")
    for seed in range(3, 7):
        store.append(*batch(seed))
        if seed == 4:
            FeatureStore(tmp_path, EXTRACTOR).merge()
        for earlier in range(seed + 1):
            assert np.array_equal(store.features(batch(earlier)[0]), batch(earlier)[1])


def test_files_that_another_process_is_merging_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "FRAGMENTS_BEFORE_MERGE", 1)
    store, other = FeatureStore(tmp_path, EXTRACTOR), FeatureStore(tmp_path, EXTRACTOR)
    for seed in range(3):
        store.append(*batch(seed))
    commit = merging.Compaction.commit

    def commit_late(*arguments: object) -> None:
        other.append(*batch(9))
        other.tidy()
        other.merge()  # does nothing
        commit(*arguments)

    # The store's lock is held during the real commit, so that the other process would wait here.
    monkeypatch.setattr(store._lance, "lock", contextlib.nullcontext)
    monkeypatch.setattr(merging.Compaction, "commit", commit_late)
    store.merge()
    opened = FeatureStore(tmp_path, EXTRACTOR)
    assert len(opened._dataset.get_fragments()) == 2
    for seed in (0, 1, 2, 9):
        assert np.array_equal(opened.features(batch(seed)[0]), batch(seed)[1])


def test_two_stores_see_each_others_appends(tmp_path: Path) -> None:
    first, second = FeatureStore(tmp_path, EXTRACTOR), FeatureStore(tmp_path, EXTRACTOR)
    first.append(*batch(1))
    second.append(*batch(2))
    assert second.arrived == set(batch(1)[0].tolist())
    second.append(*batch(1))
    assert len(second) == len(FeatureStore(tmp_path, EXTRACTOR)) == 8


def test_leftovers_of_killed_processes_are_removed_by_the_store(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    store.append(*batch(1))
    left = [store.path / "_transactions" / ".tmpabc", store.path / "_versions" / ".tmpdef"]
    for file in left:
        file.write_bytes(b"half")
    store.tidy()
    assert not any(file.exists() for file in left)
    assert len(FeatureStore(tmp_path, EXTRACTOR)) == 4


def test_a_missing_data_file_is_detected_at_the_end(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    store.append(*batch(1))
    [file] = (store.path / "data").iterdir()
    store.append(*batch(2))
    file.unlink()
    with pytest.raises(PipelineError, match=r"cannot be tidied \(.*No such file.*extract --verify"):
        store.tidy()


def test_another_extractor_has_another_store(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    store.append(*batch(1))
    others = [Extractor(weights_from("random:1"), "block5_pool"), Extractor(weights_from("random:0"), "fc1")]
    assert [len(FeatureStore(tmp_path, other)) for other in others] == [0, 0]


def test_a_changed_vector_is_detected_on_reading(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    digests, vectors, *rest = batch(1)
    store.append(digests, vectors, *rest)
    file = next((store.path / "data").iterdir())
    data = bytearray(file.read_bytes())
    at = data.index(vectors[2].tobytes()[:64])
    data[at + 5] ^= 1
    file.write_bytes(data)
    opened = FeatureStore(tmp_path, EXTRACTOR)
    with pytest.raises(PipelineError, match=r"damaged.*extract --verify"):
        opened.features(digests)
    assert opened.drop_damaged() == 1
    assert opened.contains(digests).tolist() == [True, True, False, True]
    assert np.array_equal(opened.features(digests[[0, 1, 3]]), vectors[[0, 1, 3]])


def test_an_unusable_location_of_a_store_is_reported(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file in the way")
    with pytest.raises(PipelineError, match="cannot be opened"):
        FeatureStore(tmp_path, EXTRACTOR)


def test_a_store_with_another_layout_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa

    (tmp_path / "features").mkdir()
    table = pa.table({"digest": pa.array([b"0" * 16], pa.binary(16))})
    lance.write_dataset(table, tmp_path / "features" / f"{EXTRACTOR.fingerprint}.lance")
    with pytest.raises(PipelineError, match=r"another version of this program created it.*delete this"):
        FeatureStore(tmp_path, EXTRACTOR)


def content(folder: Path) -> dict[Path, bytes | str]:
    """The content of a cache, without locks."""
    files = [file for file in folder.rglob("*") if not file.is_dir() and file.suffix != ".lock"]
    return {file: os.readlink(file) if file.is_symlink() else file.read_bytes() for file in files}


def newest_manifest(store: FeatureStore) -> Path:
    return min((Path(store.path) / "_versions").glob("*.manifest"))


def add_to_manifest(file: Path, added: bytes) -> None:
    """Add fields to the protobuf message of a manifest."""
    data = file.read_bytes()
    start = int.from_bytes(data[-16:-8], "little")
    end = start + 4 + int.from_bytes(data[start : start + 4], "little")
    length = (end - start - 4 + len(added)).to_bytes(4, "little")
    file.write_bytes(data[:start] + length + data[start + 4 : end] + added + data[end:])


# Feature flags for readers and writers (fields 9 and 10) that no version of Lance knows yet; a storage format (field
# 15) of a future version.
UNKNOWN_READER, UNKNOWN_WRITER = b"\x48\x80\x80\x80\x80\x20", b"\x50\x80\x80\x80\x80\x20"
FORMAT_TO_COME = b"\x7a\x0d\x0a\x05lance\x12\x049.41"


@pytest.mark.parametrize("added", [UNKNOWN_READER, UNKNOWN_READER + UNKNOWN_WRITER, FORMAT_TO_COME])
def test_a_store_of_a_later_version_is_refused_and_left_unchanged(tmp_path: Path, added: bytes) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    for seed in range(3):
        store.append(*batch(seed))
    for manifest in (store.path / "_versions").glob("*.manifest"):
        add_to_manifest(manifest, added)
    before = content(tmp_path)
    for _ in range(2):
        with pytest.raises(PipelineError, match=r"cannot be opened \(.*Nothing in it was changed"):
            FeatureStore(tmp_path, EXTRACTOR)
    assert content(tmp_path) == before


def test_a_possible_future_storage_format_is_not_damage(tmp_path: Path) -> None:
    """Another version may read a format that this one cannot decode; here its bytes are zeros.

    Tested by hand with real versions: pylance 9.0.0 opens and fills stores of 14.0.2 in its default format, 2.2,
    also with stable row ids, indexes, tags, branches and deletions. It panics on 2.3; such a store is refused and left
    unchanged.
    """
    store = FeatureStore(tmp_path, EXTRACTOR)
    store.append(*batch(1))
    table, schema = lance.dataset(store.path).to_table(), lance.dataset(store.path).schema
    shutil.rmtree(store.path)
    lance.write_dataset(table, store.path, schema=schema, data_storage_version="next")
    assert len(FeatureStore(tmp_path, EXTRACTOR)) == 4
    [file] = (store.path / "data").iterdir()
    file.write_bytes(bytes(file.stat().st_size - 100) + file.read_bytes()[-100:])
    before = content(tmp_path)
    with pytest.raises(PipelineError, match=r"needs a later pylance.*Nothing in it was changed"):
        FeatureStore(tmp_path, EXTRACTOR)
    assert content(tmp_path) == before


def test_files_in_other_locations_are_not_reported_missing(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    store.append(*batch(1))
    table, schema = lance.dataset(store.path).to_table(), lance.dataset(store.path).schema
    shutil.rmtree(store.path)
    places = {"initial_bases": [lance.DatasetBasePath(str(tmp_path / "elsewhere"), "elsewhere")]}
    lance.write_dataset(table, store.path, schema=schema, target_bases=["elsewhere"], **places)
    (store.path / "data").mkdir(exist_ok=True)
    (tmp_path / "elsewhere").rename(tmp_path / "not mounted")
    before = content(tmp_path)
    with pytest.raises(PipelineError, match="lie in other places"):
        FeatureStore(tmp_path, EXTRACTOR)
    assert content(tmp_path) == before


def test_a_store_with_newer_writer_flags_is_read_only(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    store.append(*batch(1))
    add_to_manifest(newest_manifest(store), UNKNOWN_WRITER)
    before = content(tmp_path)
    opened = FeatureStore(tmp_path, EXTRACTOR)
    assert np.array_equal(opened.features(batch(1)[0]), batch(1)[1])
    with pytest.raises(PipelineError, match="cannot be written"):
        opened.append(*batch(2))
    assert {file: data for file, data in content(tmp_path).items() if file in before} == before


@pytest.mark.parametrize("place", ["_versions", "data"])
def test_read_errors_of_the_system_are_not_damage(tmp_path: Path, place: str) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    store.append(*batch(1))
    store.append(*batch(2))
    file = min((store.path / place).glob("*.[lm]a*"))
    file.rename(tmp_path / "whole")
    file.symlink_to("/proc/self/mem")  # reading its first bytes gives an I/O error
    before = content(tmp_path)
    with pytest.raises(PipelineError, match="cannot be opened"):
        FeatureStore(tmp_path, EXTRACTOR)
    assert content(tmp_path) == before
    file.unlink()
    (tmp_path / "whole").rename(file)
    assert len(FeatureStore(tmp_path, EXTRACTOR)) == 8


def test_a_lack_of_file_descriptors_is_not_damage(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    store.append(*batch(1))
    before = content(tmp_path)
    with no_file_descriptors():
        with pytest.raises(PipelineError, match="cannot be opened"):
            FeatureStore(tmp_path, EXTRACTOR)
        for task in (store.drop_damaged, store.tidy, lambda: store.append(*batch(2))):
            with pytest.raises(PipelineError, match="Too many open files"):
                task()
    assert content(tmp_path) == before
    assert np.array_equal(store.features(batch(1)[0]), batch(1)[1])


@pytest.mark.parametrize("hidden", ["_versions", "data", "."])
def test_a_folder_without_permission_is_not_damage(tmp_path: Path, hidden: str) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    store.append(*batch(1))
    before = content(tmp_path)
    folder = store.path / hidden
    mode = folder.stat().st_mode
    folder.chmod(0)
    try:
        if os.access(folder, os.R_OK):
            pytest.skip("this user may read everything")
        with pytest.raises(PipelineError, match="cannot be opened"):
            FeatureStore(tmp_path, EXTRACTOR)
    finally:
        folder.chmod(mode)
    assert content(tmp_path) == before


def test_a_missing_data_folder_is_not_damage(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    store.append(*batch(1))
    (store.path / "data").rename(tmp_path / "elsewhere")  # as if a disk were not mounted
    before = content(tmp_path)
    with pytest.raises(PipelineError, match="cannot be opened"):
        FeatureStore(tmp_path, EXTRACTOR)
    (tmp_path / "elsewhere").rename(store.path / "data")
    assert len(FeatureStore(tmp_path, EXTRACTOR)) == 4
    assert len(before) == len(content(tmp_path))


@pytest.mark.parametrize("harm", ["zeros", "cut", "empty"])
def test_a_damaged_manifest_loses_only_its_version(tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    store.append(*batch(1))
    store.append(*batch(2))
    manifest = newest_manifest(store)
    data = manifest.read_bytes()
    manifest.write_bytes({"zeros": data[:-100] + bytes(100), "cut": data[:-100], "empty": b""}[harm])
    assert len(FeatureStore(tmp_path, EXTRACTOR)) == 4
    assert "newest version" in caplog.text
    assert manifest.with_suffix(".damaged").exists()


@pytest.mark.parametrize("harm", ["magic", "cut", "longer", "gone"])
def test_a_damaged_data_file_loses_only_its_rows(tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    store.append(*batch(1))
    [file] = (store.path / "data").iterdir()
    store.append(*batch(2))
    data = file.read_bytes()
    file.write_bytes({"magic": data[:-4] + b"LINC", "cut": data[:-100], "longer": data + data, "gone": b""}[harm])
    if harm == "gone":
        file.unlink()
    opened = FeatureStore(tmp_path, EXTRACTOR)
    opened.drop_damaged()
    assert opened.contains(batch(1)[0]).sum() in (0, 4)
    assert np.array_equal(opened.features(batch(2)[0]), batch(2)[1])
    assert harm == "longer" or "1 data files" in caplog.text


def test_a_changed_size_on_disk_is_detected_before_it_skips_an_image(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    digests, vectors, thumbnails, _ = batch(1)
    store.append(digests, vectors, thumbnails, np.array([2**20 + 1, 2**20 + 3, 2**20 + 5, 2**20 + 7]))
    [file] = (store.path / "data").iterdir()
    data = bytearray(file.read_bytes())
    at = data.index((2**20 + 5).to_bytes(8, "little"))
    data[at + 5] ^= 64
    file.write_bytes(data)
    opened = FeatureStore(tmp_path, EXTRACTOR)
    assert opened.pixel_counts(digests).max() > 2**45
    opened.check(digests[:2])
    with pytest.raises(PipelineError, match=r"damaged.*extract --verify"):
        opened.check(digests)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_nonfinite_feature_is_refused_with_its_digest(tmp_path: Path, value: float) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    digests, vectors, *rest = batch(1)
    vectors[2, 7] = value
    with pytest.raises(PipelineError, match=digests[2].tobytes().hex()):
        store.append(digests, vectors, *rest)
    assert len(store) == 0


def test_an_empty_store_returns_no_rows(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, EXTRACTOR)
    for opened in (store, FeatureStore(tmp_path, EXTRACTOR)):
        assert opened.features(opened.digests).shape == (0, 512)
        assert opened.thumbnails(opened.digests).shape == (0, 24, 24)
        assert opened.drop_damaged() == 0
    store.append(*batch(1))
    assert store.take(np.zeros(0, np.int64)).shape == (0, 512)
