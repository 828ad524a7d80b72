from pathlib import Path

import large_store
import pytest


def test_appends_to_a_filled_store_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    large_store.large_store(tmp_path, count=100, appends=3, size=10)
    assert "| 100 rows, " in capsys.readouterr().out
