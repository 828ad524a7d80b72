"""The engine at work: what is said of the time to come."""

import logging
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.core.progress import LoggedProgress
from pipeline.features import engine_loop
from pipeline.features.engine_loop import Saver
from pipeline.features.extractor import Extractor
from pipeline.features.slots import Slots
from pipeline.features.store import FeatureStore
from pipeline.features.store_group import StoreGroup
from pipeline.features.weights import weights_from
from pipeline.features.workers import Decoded

EXTRACTOR = Extractor(weights_from("random:0"), "block5_pool")


@pytest.mark.parametrize(
    ("at_once", "ends", "expected"),
    [
        (1, [50, 60, 70], "about 42 minutes"),  # four images in ten seconds
        (2, [50, 50.1, 60, 60.1], "about 21 minutes"),  # eight
        (3, [50, 50.1, 50.1, 60, 60.1], "about 14 minutes"),
    ],
)
def test_the_estimate_knows_how_many_batches_are_computed_at_once(
    at_once: int,
    ends: list[float],
    expected: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    now = [0.0]
    monkeypatch.setattr(engine_loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
    saver = Saver(
        StoreGroup([FeatureStore(tmp_path, EXTRACTOR)]), EXTRACTOR.dim, LoggedProgress(1000, "image", "features")
    )
    for batch, now[0] in enumerate(ends):
        computed = Future[list[np.ndarray]]()
        computed.set_result([np.ones((4, EXTRACTOR.dim), np.float32)])
        images = [Decoded(4 * batch + slot, slot, bytes([batch, slot] * 8), None, True, 1) for slot in range(4)]
        saver.save(images, Slots(4), computed, at_once)
    [said] = [message for message in caplog.messages if "images to go" in message]
    assert expected in said
