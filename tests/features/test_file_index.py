import contextlib
import os
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import no_file_descriptors

from pipeline.core.errors import PipelineError
from pipeline.data import images as data_images
from pipeline.data.images import TICK_NS, ImageRef, file_ref
from pipeline.features import file_index
from pipeline.features.file_index import CRASHED, CREATE, FileIndex


@pytest.fixture
def index(tmp_path: Path) -> Iterator[FileIndex]:
    with contextlib.closing(FileIndex(tmp_path / "cache")) as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is old enough to have a version."""
    monkeypatch.setattr(data_images, "TICK_NS", 0)
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    os.utime(path, (1_000, 1_000))
    return path


def record(index: FileIndex, file: Path, digest: bytes) -> None:
    index.record([(file_ref(file), file_ref(file).version(), digest)])


def test_unchanged_files_are_cache_hits_in_the_next_run(tmp_path: Path, index: FileIndex, file: Path) -> None:
    assert index.digest(file_ref(file)) is None
    record(index, file, b"d1")
    with contextlib.closing(FileIndex(tmp_path / "cache")) as next_run:
        assert next_run.digest(file_ref(file)) == b"d1"


def test_another_size_or_time_is_a_cache_miss(index: FileIndex, file: Path) -> None:
    record(index, file, b"d1")
    os.utime(file, (2_000, 2_000))
    assert index.digest(file_ref(file)) is None
    file.write_bytes(b"longer")
    os.utime(file, (1_000, 1_000))
    assert index.digest(file_ref(file)) is None
    file.unlink()
    assert index.digest(file_ref(file)) is None


def test_a_file_written_just_now_is_not_trusted(index: FileIndex, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(index, file, b"d1")
    monkeypatch.setattr(data_images, "TICK_NS", TICK_NS)
    for change in (lambda: file.write_bytes(b"two"), lambda: os.utime(file, (1_000, 1_000))):
        change()
        assert index.digest(file_ref(file)) is None


def test_digests_known_to_the_source_are_not_recorded(index: FileIndex) -> None:
    assert index.digest(ImageRef("tfds:mnist:train#7", b"d7")) == b"d7"


def test_many_images_are_looked_up_in_their_order(
    index: FileIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_index, "LOOKED_UP", 2)
    refs = [ImageRef(f"s3://photos/{number}.png", listed="1-a") for number in range(5)]
    index.record([(ref, "1-a", b"%d" % number) for number, ref in enumerate(refs)])
    stored = index.digests([*refs[::-1], ImageRef("s3://photos/0.png", listed="1-b")])
    with contextlib.closing(FileIndex(tmp_path / "cache")) as other:  # which can still write in the meantime
        first = next(stored)
        other.record([(refs[0], "1-b", b"changed")])
    assert [first, *stored] == [b"4", b"3", b"2", b"1", None, b"changed"]


def test_a_damaged_index_is_recreated(tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "images.sqlite").write_bytes(b"not a database" * 100)
    with contextlib.closing(FileIndex(tmp_path)) as index:
        assert "is damaged" in caplog.text
        assert index.digest(file_ref(file)) is None
        record(index, file, b"d")
        assert index.digest(file_ref(file)) == b"d"


def test_a_flipped_bit_only_causes_files_to_be_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    refs = [ImageRef(f"s3://photos/{number:03}.png", listed=f"{number}-a") for number in range(60)]
    rows = [(ref, ref.listed, bytes([number]) * 16) for number, ref in enumerate(refs)]
    rows[-1] = (*rows[-1][:2], CRASHED)
    with contextlib.closing(FileIndex(tmp_path)) as index:
        index.record(rows)
    database, chance = tmp_path / "images.sqlite", random.Random(0)
    whole, right = database.read_bytes(), [digest for *_, digest in rows]
    for at in [*range(16, 64, 2), *(chance.randrange(len(whole)) for _ in range(60))]:  # the first bytes are the header
        data = bytearray(whole)
        data[at] ^= 1 << chance.randrange(8)
        database.write_bytes(data)
        with contextlib.closing(FileIndex(tmp_path)) as index:
            found = list(index.digests(refs))
            assert all(digest in (None, true) for digest, true in zip(found, right, strict=True))
            list(index.pages())
            index.record(rows)
            assert list(index.digests(refs)) == right
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("schema", ["files \xe9", "CREATE TABLE \xff\xfe (uri"])
def test_an_error_message_that_is_not_utf_8_is_damage(tmp_path: Path, file: Path, schema: str) -> None:
    with contextlib.closing(FileIndex(tmp_path)):
        pass
    database = tmp_path / "images.sqlite"
    table = b"CREATE TABLE files (uri"
    data, harm = database.read_bytes(), schema.encode("latin-1").ljust(len(table))[: len(table)]
    assert data.count(table) == 1
    database.write_bytes(data.replace(table, harm))
    with contextlib.closing(FileIndex(tmp_path)) as index:
        record(index, file, b"d")
        assert index.digest(file_ref(file)) == b"d"


def test_an_index_of_another_layout_is_recreated(tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "images.sqlite")) as earlier, earlier:
        earlier.execute("CREATE TABLE files (uri BLOB PRIMARY KEY, version TEXT, digest BLOB)")
        earlier.execute("INSERT INTO files VALUES (?, '3-1000', x'00')", (os.fsencode(file),))
    with contextlib.closing(FileIndex(tmp_path)) as index:
        assert index.digest(file_ref(file)) is None
        record(index, file, b"d")
        assert index.digest(file_ref(file)) == b"d"
    assert not caplog.text


def test_errors_of_the_system_are_not_damage(tmp_path: Path, file: Path) -> None:
    with contextlib.closing(FileIndex(tmp_path)) as index:
        record(index, file, b"d")
    database = tmp_path / "images.sqlite"
    content = database.read_bytes()
    with no_file_descriptors(), pytest.raises(PipelineError, match="cannot be used"):
        FileIndex(tmp_path)
    assert database.read_bytes() == content
    database.rename(tmp_path / "whole")
    database.symlink_to("/proc/self/mem")  # reading it gives an I/O error
    with pytest.raises(PipelineError, match="cannot be used"):
        FileIndex(tmp_path)
    assert database.is_symlink()


def test_an_unusable_location_of_an_index_is_reported(tmp_path: Path) -> None:
    (tmp_path / "images.sqlite").mkdir()
    with pytest.raises(PipelineError, match=r"images\.sqlite cannot be used"):
        FileIndex(tmp_path)


def test_an_index_with_a_write_ahead_log_is_converted(tmp_path: Path, file: Path) -> None:
    (tmp_path / "cache").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "cache" / "images.sqlite")) as earlier:
        earlier.execute("PRAGMA journal_mode = WAL")
        earlier.executescript(CREATE)
        with contextlib.closing(FileIndex(tmp_path / "cache")) as beside:
            record(beside, file, b"d1")
    with contextlib.closing(FileIndex(tmp_path / "cache")) as alone:
        assert alone.digest(file_ref(file)) == b"d1"
        record(alone, file, b"d2")
        assert {path.name for path in (tmp_path / "cache").iterdir()} == {"images.sqlite"}


@pytest.mark.parametrize("page", [1, 2, 10_000])
def test_an_index_merges_another(tmp_path: Path, index: FileIndex, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(file_index, "PAGE", page)
    ours = {
        "same": ("1", b"a"),
        "older": ("1", b"a"),
        "crashed": ("1", CRASHED),
        "decoded": ("1", b"a"),
        "own": ("1", b"a"),
    }
    theirs = {
        "same": ("1", b"a"),
        "older": ("2", b"b"),
        "crashed": ("1", b"b"),
        "decoded": ("1", CRASHED),
        "new": ("1", b"b"),
    }
    index.record([(ImageRef(name), *known) for name, known in ours.items()])
    with contextlib.closing(FileIndex(tmp_path / "other")) as other:
        other.record([(ImageRef(name), *known) for name, known in theirs.items()])
        other.record([(ImageRef("fatal"), "1", CRASHED)])
        assert index.learn(other) == 4
        assert index.learn(other) == 0
    known = {uri.decode(): (version, digest) for rows in index.pages() for uri, version, digest in rows}
    assert known == {
        **dict.fromkeys(("same", "decoded", "own"), ("1", b"a")),
        **{"older": ("2", b"b"), "crashed": ("1", b"b"), "new": ("1", b"b"), "fatal": ("1", CRASHED)},
    }


def test_merged_entries_are_found(tmp_path: Path, index: FileIndex, file: Path) -> None:
    with contextlib.closing(FileIndex(tmp_path / "other")) as other:
        record(other, file, b"d1")
        index.learn(other)
    assert index.digest(file_ref(file)) == b"d1"


def test_readable_entries_of_a_damaged_index_are_merged(
    tmp_path: Path, index: FileIndex, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.closing(FileIndex(tmp_path / "other")) as other:
        other.record([(ImageRef(f"/photos/{number:06}.jpg"), "1", b"d" * 16) for number in range(20_000)])
    database = tmp_path / "other" / "images.sqlite"
    data = bytearray(database.read_bytes())
    data[len(data) * 3 // 4 :] = bytes(len(data) - len(data) * 3 // 4)
    database.write_bytes(data)
    with contextlib.closing(FileIndex(tmp_path / "other")) as other:
        index.learn(other)
    assert "is damaged" in caplog.text
