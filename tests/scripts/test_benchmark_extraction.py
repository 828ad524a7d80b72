import importlib.util
from pathlib import Path

import benchmark_extraction
import extraction_flow
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


def test_the_main_process_is_measured_with_simulated_devices(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flow = extraction_flow.driver(tmp_path, count=100, devices=4, rate=500, batch=8)
    assert 0 < flow.rate <= 1.1 * 4 * 500
    assert f"| {flow.rate:,.0f} | {flow.rate / 2000:.2f} |" in capsys.readouterr().out
