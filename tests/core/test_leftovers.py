from pathlib import Path

import pytest

from pipeline.core.leftovers import create_file


def test_a_file_is_created_only_if_nothing_exists(tmp_path: Path) -> None:
    """Not through a planted link, whether it points to a file or is broken."""
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    (tmp_path / "broken").symlink_to(tmp_path / "new")
    for name in ("victim", "link", "broken"):
        with pytest.raises(FileExistsError):
            create_file(tmp_path / name)
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "new").exists()
    create_file(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b""
