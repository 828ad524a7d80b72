import contextlib
import os
import time
from pathlib import Path

import pytest

from pipeline.core.errors import PipelineError
from pipeline.features.file_index import FileIndex, Stamp


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    os.utime(path, (1_000, 1_000))
    return path


def record(index: FileIndex, file: Path, digest: str) -> None:
    index.record([(file, Stamp.of(file.stat()), digest)], time.time_ns())


def test_unchanged_files_are_known_to_the_next_run(tmp_path: Path, file: Path) -> None:
    index = FileIndex(tmp_path)
    assert index.digest(file) is None
    record(index, file, "d1")
    index.close()
    assert FileIndex(tmp_path).digest(file) == "d1"


def test_another_size_or_time_makes_a_file_unknown(tmp_path: Path, file: Path) -> None:
    index = FileIndex(tmp_path)
    record(index, file, "d1")
    os.utime(file, (2_000, 2_000))
    assert index.digest(file) is None
    file.write_bytes(b"longer")
    os.utime(file, (1_000, 1_000))
    assert index.digest(file) is None
    file.unlink()
    assert index.digest(file) is None


def test_a_file_written_just_now_is_not_trusted(tmp_path: Path, file: Path) -> None:
    index = FileIndex(tmp_path)
    file.write_bytes(b"two")
    record(index, file, "d2")
    assert index.digest(file) is None


def test_a_damaged_index_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "files.sqlite").write_bytes(b"no database at all" * 100)
    file = tmp_path / "a.png"
    file.write_bytes(b"a")
    with contextlib.closing(FileIndex(tmp_path)) as index:
        assert "is damaged" in caplog.text
        assert index.digest(file) is None
        index.record([(file, Stamp.of(file.stat()), "d")], time.time_ns() + 10**10)
        assert index.digest(file) == "d"


def test_a_place_that_cannot_hold_an_index_is_named(tmp_path: Path) -> None:
    (tmp_path / "files.sqlite").mkdir()
    with pytest.raises(PipelineError, match=r"files.sqlite cannot be used.*--cache DIR"):
        FileIndex(tmp_path)
