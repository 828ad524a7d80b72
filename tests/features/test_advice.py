"""Warnings about the processor; `backends/test_local.py` tests the advice."""

from pathlib import Path

import pytest

from pipeline.core import machine
from pipeline.features.engines.advice import warn_about_processor


@pytest.mark.parametrize(
    ("text", "precision", "warned"),
    [
        ("flags : avx2 avx512f avx512_vnni\n", "bfloat16", True),
        ("flags : avx2 avx512f avx512_bf16\n", "bfloat16", False),
        ("flags : avx2 amx_bf16\n", "bfloat16", False),
        ("Features : fp asimd\n", "bfloat16", True),
        ("Features : fp asimd bf16\n", "bfloat16", False),
        ("isa : rv64\n", "bfloat16", False),  # unknown
        ("flags : avx2\n", "float32", False),
    ],
)
def test_a_processor_without_bfloat16_gets_a_warning(
    text: str,
    precision: str,
    warned: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    warn_about_processor(precision)
    assert ("has no instructions for bfloat16" in caplog.text) == warned
