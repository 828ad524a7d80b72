from pathlib import Path

import benchmark_training
import pytest


@pytest.mark.slow
def test_training_is_measured_in_memory_and_from_a_store(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    benchmark_training.stream(1, tmp_path, memory=2**24)
    out = capsys.readouterr().out
    assert "| 8192 x 4096 features, an epoch |" in out
    for name in ("in memory", "streamed, an eighth in memory", "reading the store, no training"):
        assert f"| {name} |" in out
