from pathlib import Path

import pytest

from pipeline.core.leftovers import create_file


def test_a_file_is_created_only_where_nothing_is(tmp_path: Path) -> None:
    """Not through a link that lies ready, whether it leads to a file or nowhere."""
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
