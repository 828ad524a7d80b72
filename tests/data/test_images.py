import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import wait_for_tick

from pipeline.core.errors import ImageError
from pipeline.data import images
from pipeline.data.images import ImageRef, ImageSet, content_digest, file_ref


def test_files_are_read_with_the_version_that_was_read(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"content")
    assert file_ref(file).read() == (b"content", None)  # so recent that a change might go unnoticed
    os.utime(file, (1_000, 1_000))
    assert file_ref(file).version() is None  # its change time cannot be set
    wait_for_tick(tmp_path)
    content, version = file_ref(file).read()
    assert (content, version) == (b"content", file_ref(file).version())
    os.utime(file, (2_000, 2_000))
    wait_for_tick(tmp_path)
    assert file_ref(file).version() not in (version, None)


def test_files_that_exchange_names_have_other_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "TICK_NS", 0)
    for folder in "ab":
        (tmp_path / folder).mkdir()
        for name in ("x.bmp", "y.bmp"):
            (tmp_path / folder / name).write_bytes(f"{folder}{name}".encode())
            os.utime(tmp_path / folder / name, (1_000, 1_000))
    ref = file_ref(tmp_path / "a" / "x.bmp")
    versions = [ref.version()]

    def exchange(one: Path, other: Path) -> None:
        one.rename(tmp_path / "aside")
        other.rename(one)
        (tmp_path / "aside").rename(other)
        time.sleep(0.05)  # until the file system's clock ticks
        versions.append(ref.version())

    exchange(tmp_path / "a", tmp_path / "b")  # the times of the files in them do not change
    exchange(tmp_path / "a" / "x.bmp", tmp_path / "a" / "y.bmp")
    (tmp_path / "a" / "x.bmp").write_bytes(b"written")
    os.utime(tmp_path / "a" / "x.bmp", (1_000, 1_000))
    versions.append(ref.version())
    assert len({*versions, None}) == 5


def test_unreadable_files_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match="empty"):
        file_ref(tmp_path / "empty.png").read()
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        file_ref(tmp_path / "pipe.png").read()
    with pytest.raises(ImageError, match="No such file"):
        file_ref(tmp_path / "gone.png").read()
    assert file_ref(tmp_path / "gone.png").version() is None


def test_references_can_be_pickled_to_other_processes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"content")
    sent = pickle.loads(pickle.dumps(file_ref(tmp_path / "a.png")))
    assert sent == ImageRef(str(tmp_path / "a.png"))
    assert sent.read()[0] == b"content"
    assert not ImageRef("tfds:mnist:train#7").is_file


def test_a_subset_has_all_columns() -> None:
    images = ImageSet(
        source="folder",
        paths=["a", "b", "c"],
        refs=[ImageRef(f"/{name}") for name in "abc"],
        labels=["x", "y", "z"],
        splits=["train", "test", None],
        targets=np.arange(6, dtype=np.float32).reshape(3, 2),
    )
    some = images.subset([2, 0])
    assert (some.paths, some.labels, some.splits, some.groups) == (["c", "a"], ["z", "x"], [None, "train"], None)
    assert [ref.uri for ref in some.refs] == ["/c", "/a"]
    assert some.targets.tolist() == [[4, 5], [0, 1]]


def test_the_digest_depends_only_on_content() -> None:
    assert content_digest(b"a") == content_digest(b"a") != content_digest(b"b")
    assert len(content_digest(b"")) == 16
