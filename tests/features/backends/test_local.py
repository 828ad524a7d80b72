"""The backend on this machine."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.core import machine
from pipeline.features.backends import local
from pipeline.features.backends.local import Forecast
from pipeline.features.extractor import Extractor
from pipeline.features.store import FeatureStore
from pipeline.features.store_group import StoreGroup
from pipeline.features.weights import weights_from

EXTRACTOR = Extractor(weights_from("random:0"), "block5_pool")


@pytest.mark.parametrize(
    ("at_once", "ends", "expected"),
    [
        (1, [50, 60, 70], "about 41 minutes"),  # four images in ten seconds
        (2, [50, 50.1, 60, 60.1], "about 21 minutes"),  # eight
        (3, [50, 50.1, 50.1, 60, 60.1], "about 14 minutes"),
    ],
)
def test_the_estimate_accounts_for_concurrent_batches(
    at_once: int,
    ends: list[float],
    expected: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    now = [0.0]
    monkeypatch.setattr(local, "time", SimpleNamespace(monotonic=lambda: now[0]))
    forecast = Forecast(1000, [EXTRACTOR], StoreGroup([FeatureStore(tmp_path, EXTRACTOR)]))
    for now[0] in ends:
        forecast.note(4, SimpleNamespace(at_once=at_once, device="cpu"))
    [said] = [message for message in caplog.messages if "images to go" in message]
    assert expected in said


@pytest.mark.parametrize(
    ("flags", "precision", "device", "seconds", "advised"),
    [
        ("avx2 amx_bf16", "float32", "cpu", 9, True),
        ("avx2 amx_bf16", "float32", "cpu", 1, False),  # the computation is short
        ("avx2 amx_bf16", "float32", "gpu:0", 9, False),
        ("avx2 amx_bf16", "bfloat16", "cpu", 9, False),
        ("avx2 avx512_bf16", "float32", "cpu", 9, False),  # the gain is unclear
    ],
)
def test_a_long_computation_comes_with_advice(
    flags: str,
    precision: str,
    device: str,
    seconds: float,
    advised: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(local, "time", SimpleNamespace(monotonic=lambda: seconds * forecast.remaining / -4))
    extractor = Extractor(weights_from("random:0"), "block5_pool", precision)
    forecast = Forecast(1000, [extractor], StoreGroup([FeatureStore(tmp_path, extractor)]))
    for _ in range(3):
        forecast.note(4, SimpleNamespace(at_once=1, device=device))
    assert ("bfloat16" in caplog.text and "0.99997" in caplog.text) == advised
