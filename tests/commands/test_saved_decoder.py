from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.commands.saved_decoder import ModelFile
from pipeline.core.runs import RunRecord, SplitRecord, write_run

RECORD = RunRecord({"images": "photos"}, {}, {}, 0, SplitRecord("random:0.2", {}, {}), "", {})
RESULT = {
    "models": {"functional": {"validation_cosine": 0.302}},
    "baselines": {"mean": 0.392},
    "shares": {"ridge": 0.4, "ramps": 0.0},
}


@pytest.mark.parametrize(
    ("result", "file", "message"),
    [
        (RESULT | {"above_mean": True}, "functional", ""),
        (RESULT | {"above_mean": None}, "functional", ""),
        (RESULT, "functional", ""),  # from an earlier version
        (None, "functional", ""),
        (RESULT | {"above_mean": False}, "ridge", ""),
        (RESULT | {"above_mean": False}, "functional", "held-out cosine 0.302, the mean target's 0.392"),
        (RESULT | {"shares": {}, "above_mean": False}, "functional", "not shown to be better than always answering"),
        (RESULT | {"shares": {"ridge": 0.0}, "above_mean": False}, "functional", "ignores the image"),
    ],
)
def test_weak_decoders_are_reported(
    result: dict | None, file: str, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_run(tmp_path, replace(RECORD, result=result))
    ModelFile(tmp_path / f"{file}.keras").warn_if_weak()
    assert message in caplog.text
    assert bool(caplog.text) == bool(message)


def test_a_decoder_without_a_run_is_not_judged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ModelFile(tmp_path / "functional.keras").warn_if_weak()
    assert not caplog.text
