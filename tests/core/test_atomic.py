import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from pipeline.core.atomic import atomic_folder, atomic_write, check_new_folder, check_output_file, remove_unfinished
from pipeline.core.errors import PipelineError, RequestError


def test_a_file_appears_complete(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with atomic_write(file) as unfinished:
        unfinished.write_text("new")
        assert not file.exists()
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_failure_keeps_the_existing_file(tmp_path: Path) -> None:
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


def test_a_failed_write_names_the_path_and_the_cause(tmp_path: Path) -> None:
    file = tmp_path / "gone" / "a.txt"
    message = r"gone/a\.txt cannot be written \(No such file or directory\)"
    with pytest.raises(PipelineError, match=message), atomic_write(file) as unfinished:
        unfinished.write_text("new")


def test_a_url_is_refused_as_an_output() -> None:
    with pytest.raises(RequestError, match=r"out s3:/bucket/a\.npz is a URL; name a local place"):
        check_output_file(Path("s3://bucket/a.npz"), (".npz",), "out")
    with pytest.raises(RequestError, match="is a URL"):
        check_new_folder(Path("gs://bucket/model"), "out")


# Writes half a file and half a folder, then waits to be killed.
WRITER = """
import sys, time
from pathlib import Path
from pipeline.core.atomic import atomic_folder, atomic_write

here = Path(sys.argv[1])
with atomic_write(here / "a.txt") as file, atomic_folder(here / "b") as folder:
    file.write_text("half")
    (folder / "file").write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("again", ["a.txt", "another.txt"])
def test_the_next_write_removes_only_leftovers_of_a_kill(tmp_path: Path, again: str) -> None:
    others = [".unfinished-a.txt", ".unfinished-0123456789abcdef.txt~", "whole.txt"]  # other programs' names
    for name in others:
        (tmp_path / name).write_text("other")
    (tmp_path / ".unfinished-0123456789abcdef.txt").symlink_to("whole.txt")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert writer.stdout
    try:
        assert writer.stdout.readline() == "writing\n"
        with atomic_write(tmp_path / again) as unfinished:  # while another writer is alive
            unfinished.write_text("whole")
        assert len(list(tmp_path.glob(".unfinished-*"))) == 5
    finally:
        writer.kill()
        writer.communicate()
    with atomic_write(tmp_path / again) as unfinished:
        unfinished.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {*others, ".unfinished-0123456789abcdef.txt", again}
    remove_unfinished(tmp_path / "gone")


def test_nothing_is_written_through_a_planted_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("a.txt", "b"):
        (tmp_path / f".unfinished-{name}").symlink_to(victim)
    (tmp_path / "a.txt").symlink_to(victim)
    with atomic_write(tmp_path / "a.txt") as unfinished:
        unfinished.write_text("new")
    with atomic_folder(tmp_path / "b") as unfinished:
        (unfinished / "file").write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert victim.read_text() == "precious"


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with atomic_write(file) as first, atomic_write(file) as second:
        first.write_text("first, the longer one")
        second.write_text("second")
        assert first != second
    assert file.read_text() == "first, the longer one"  # it finished last
    assert list(tmp_path.iterdir()) == [file]


def test_wrong_outputs_are_refused_before_any_work(tmp_path: Path) -> None:
    check_output_file(tmp_path / "a.NPZ", (".npz", ".npy"), "out")
    with pytest.raises(RequestError, match=r"out .*a\.pickle: the name must end in \.npz or \.npy"):
        check_output_file(tmp_path / "a.pickle", (".npz", ".npy"), "out")
    with pytest.raises(RequestError, match=r"plot .*: the folder .*gone does not exist"):
        check_output_file(tmp_path / "gone" / "a.npz", (".npz",), "plot")
    (tmp_path / "b.npz").mkdir()
    with pytest.raises(RequestError, match=r"out .*b\.npz: this is a folder"):
        check_output_file(tmp_path / "b.npz", (".npz",), "out")
    for path in (tmp_path / f"{'n' * 300}.npz", tmp_path / ("n" * 300) / "a.npz"):
        with pytest.raises(RequestError, match=r"out .* cannot be written \(File name too long\)"):
            check_output_file(path, (".npz",), "out")
    (tmp_path / "nowhere").symlink_to("gone")
    with pytest.raises(RequestError, match="exists"):
        check_new_folder(tmp_path / "nowhere", "out")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no file system in which even root creates no file")
def test_an_unwritable_folder_is_refused_before_any_work() -> None:
    with pytest.raises(RequestError, match=r"out .*: the folder /proc is not writable \("):
        check_output_file(Path("/proc/a.npz"), (".npz",), "out")
    with pytest.raises(RequestError, match=r"the folder /proc/self/fd is not writable"):
        check_new_folder(Path("/proc/self/fd/model"), "out")


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "whole") as unfinished:
        (unfinished / "file").write_text("new")
        assert not (tmp_path / "whole").exists()
    with pytest.raises(PipelineError, match="cannot be written"), atomic_folder(tmp_path / "broken") as unfinished:
        (unfinished / "no folder" / "file").write_text("new")
    with pytest.raises(PipelineError, match="cannot be written"), atomic_folder(tmp_path / "gone" / "folder"):
        pass
    assert sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*")) == ["whole", "whole/file"]
