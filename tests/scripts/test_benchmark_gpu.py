from pathlib import Path

import benchmark_gpu
import pytest
from helpers import run_program
from PIL import Image

from pipeline.features.vgg import NETWORKS


@pytest.mark.slow
def test_it_runs_on_a_cpu_without_tensorflow() -> None:
    out = run_program("benchmark_gpu_narrow", KERAS_BACKEND="jax").out
    header, _, *rows = out.strip().splitlines()
    assert header.endswith("on jax | bfloat16 | tf32 | float32 |")
    names = (
        "matrix product",
        "VGG16, batch 1,",
        "VGG16, batch 2,",
        "VGG16 on 1 x",
        "decoding on",
        "8 JPEGs to the store",
    )
    for name, row in zip(names, rows, strict=True):
        title, *cells = row.strip("| ").split(" | ")
        assert title.startswith(name)
        assert len(cells) == 3
        assert all(float(cell.split()[0]) > 0 for cell in cells), row


def test_operations_are_those_of_vgg16() -> None:
    # The convolutions take 15.35 billion multiplications for an image of 224 x 224, fc1 and fc2 0.12.
    assert benchmark_gpu.flops_per_image(NETWORKS["vgg16"]) == 2 * 15_466_168_320


def test_jpegs_differ_and_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_gpu, "DIFFERENT", 2)
    files = sorted(benchmark_gpu.jpegs(tmp_path / "images", 5).iterdir())
    assert len({file.read_bytes() for file in files}) == 5
    for file in files:
        with Image.open(file) as image:
            assert image.convert("RGB").size == (500, 375)
