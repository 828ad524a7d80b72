"""Progress in the log if stderr is not a terminal."""

import logging
import time

import pytest

from pipeline.core import progress
from pipeline.core.progress import LoggedProgress, progress_bar


def test_lines_show_progress_rate_and_remaining_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    bar = LoggedProgress(10_000, "image", "features", initial=4000)
    for seconds, count in [(60, 100), (4, 200), (4, 200), (4, 200)]:  # a minute of preparation before the first image
        now[0] += seconds
        bar.update(count)
    assert bar.n == 4700
    assert caplog.messages == [
        "features: 4,100 of 10,000 images",
        "features: 4,700 of 10,000 images, 50 a second, 01:46 left",
    ]


def test_short_work_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with progress_bar(3, "image", "features") as bar:
        bar.update(3)
    assert caplog.text == ""


def test_quiet_shows_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "INTERVAL", 0)
    for shown, expected in [(True, 1), (False, 0)]:
        caplog.clear()
        with progress_bar(3, "image", "features", shown) as bar:
            bar.update()
        assert len(caplog.messages) == expected
