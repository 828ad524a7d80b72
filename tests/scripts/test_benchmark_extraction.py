import importlib.util
from pathlib import Path

import benchmark_extraction
import pytest
from helpers import run_program


@pytest.mark.slow
def test_gpu_part_runs_on_a_cpu_with_a_small_batch(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    found = benchmark_extraction.gpu(tmp_path, side=256, batch=2, count=4, rounds=1)
    assert all(value > 0 for value in found.values())
    assert found["extract_fraction"] == pytest.approx(found["extract"] / min(found["decode"], found["vgg16"]))
    assert "VGG16 against the matrix product" in capsys.readouterr().out


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
