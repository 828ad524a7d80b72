import importlib.util
from pathlib import Path

import benchmark_extraction
import pytest
from helpers import run_program


@pytest.mark.slow
def test_engines_are_compared_with_a_new_cache(tmp_path: Path) -> None:
    out = run_program("benchmark_narrow", tmp_path / "cache").out
    for name in ("Keras predict, batch 32", "MNN, batch 8"):
        assert f"| {name} |" in out
    if importlib.util.find_spec("onnxruntime"):
        assert "| ONNX Runtime, int8, batch 8 |" in out


def test_photographs_are_all_different(tmp_path: Path) -> None:
    folder = benchmark_extraction.photographs(tmp_path / "a", 20)
    assert len({file.read_bytes() for file in folder.iterdir()}) == 20
