from pathlib import Path

import pytest

from pipeline.core import processor


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512_vnni\n", True),
        ("model name\t: AMD EPYC\nflags\t\t: fpu avx2 avx_vnni\n", True),
        ("model name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512f\n", False),
        ("Features\t: fp asimd asimddp\n", True),
        ("isa\t: rv64\n", None),
        (None, None),
    ],
)
def test_int8_instructions(
    text: str | None, expected: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert processor.has_int8_instructions() is expected
    assert processor.processor_name() == ("AMD EPYC" if text and "AMD" in text else "unknown processor")
