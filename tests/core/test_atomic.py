from pathlib import Path

import pytest

from pipeline.core.atomic import atomic_folder, atomic_write, check_new_folder, check_output_file, remove_unfinished
from pipeline.core.errors import PipelineError, RequestError


def test_a_file_appears_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with atomic_write(file) as unfinished:
        unfinished.write_text("new")
        assert not file.exists()
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")

    def fail_half_way() -> None:
        with atomic_write(file) as unfinished:
            unfinished.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_what_cannot_be_written_is_named_with_its_cause(tmp_path: Path) -> None:
    file = tmp_path / "gone" / "a.txt"
    message = r"gone/a\.txt cannot be written \(No such file or directory\)"
    with pytest.raises(PipelineError, match=message), atomic_write(file) as unfinished:
        unfinished.write_text("new")


def test_a_url_is_no_place_to_write_to() -> None:
    with pytest.raises(RequestError, match=r"out s3:/bucket/a\.npz is a URL; name a local place"):
        check_output_file(Path("s3://bucket/a.npz"), (".npz",), "out")
    with pytest.raises(RequestError, match="is a URL"):
        check_new_folder(Path("gs://bucket/model"), "out")


def test_what_a_kill_leaves_can_be_removed(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-a.txt").write_text("half")
    (tmp_path / "b.txt").write_text("whole")
    remove_unfinished(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["b.txt"]


def test_wrong_outputs_are_refused_before_any_work(tmp_path: Path) -> None:
    check_output_file(tmp_path / "a.NPZ", (".npz", ".npy"), "out")
    with pytest.raises(RequestError, match=r"out .*a\.pickle: the format must be one of \.npz, \.npy"):
        check_output_file(tmp_path / "a.pickle", (".npz", ".npy"), "out")
    with pytest.raises(RequestError, match=r"plot .*: the folder .*gone does not exist"):
        check_output_file(tmp_path / "gone" / "a.npz", (".npz",), "plot")
    (tmp_path / "b.npz").mkdir()
    with pytest.raises(RequestError, match=r"out .*b\.npz: this is a folder"):
        check_output_file(tmp_path / "b.npz", (".npz",), "out")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-whole").mkdir()  # as a kill leaves it
    (tmp_path / ".unfinished-whole" / "left").write_text("old")
    with atomic_folder(tmp_path / "whole") as unfinished:
        (unfinished / "file").write_text("new")
        assert not (tmp_path / "whole").exists()
    with pytest.raises(PipelineError, match="cannot be written"), atomic_folder(tmp_path / "broken") as unfinished:
        (unfinished / "no folder" / "file").write_text("new")
    with pytest.raises(PipelineError, match="cannot be written"), atomic_folder(tmp_path / "gone" / "folder"):
        pass
    assert sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*")) == ["whole", "whole/file"]
