"""The backend on this machine."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

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
    forecast = Forecast(1000, EXTRACTOR.dim, StoreGroup([FeatureStore(tmp_path, EXTRACTOR)]))
    for now[0] in ends:
        forecast.note(4, at_once)
    [said] = [message for message in caplog.messages if "images to go" in message]
    assert expected in said
