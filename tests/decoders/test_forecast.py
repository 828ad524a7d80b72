"""The forecast of a blend, and of banded ridge regression."""

import logging
import re

import pytest

from pipeline.decoders.banded import BandedConfig
from pipeline.decoders.blend import BlendConfig
from pipeline.decoders.forecast import announce, expected_seconds
from pipeline.decoders.network import NETWORK

CONFIG = BlendConfig()


@pytest.mark.parametrize(("small", "large"), [((100, 50), (4000, 50)), ((10_000, 50), (100_000, 1000))])
def test_training_time_grows_with_images_and_targets(small: tuple[int, int], large: tuple[int, int]) -> None:
    before, after = (expected_seconds(CONFIG, rows, 4096, dim) for rows, dim in (small, large))
    assert 0 < before < after  # only from 4,999 to 5,000 images it drops, as fewer networks are trained


def test_a_long_training_is_announced_with_time_and_memory(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    announce(CONFIG, (100, 20), 5, 10**9)
    assert "about" not in caplog.text
    announce(CONFIG, (100, 4096), 5, 10**10, times=10**6)
    assert re.search(r"takes about \d+ minutes on this processor, and about 1\.1 GB of memory", caplog.text)
    caplog.clear()
    announce(NETWORK, (10**6, 4096), 5, 10**18)
    announce(CONFIG, (10**6, 4096), 5, 10**9)  # above the budget, so no blend is trained
    assert caplog.text == ""


def test_banded_ridge_regression_is_announced_with_its_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    announce(BandedConfig(draws=1), (50, 20), 5, 10**9)
    assert caplog.messages == [
        "Banded ridge regression tries 1 combination of layer weights on folds of its training images."
    ]
    announce(BandedConfig(), (4000, 30_000), 50_000, 10**12)
    assert re.fullmatch(r"That takes about \d\d+ minutes on this processor\.", caplog.messages[-1])


def test_too_little_memory_is_reported_with_the_option(caplog: pytest.LogCaptureFixture) -> None:
    announce(CONFIG, (10**8, 4096), 1000, 10**18)
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert re.fullmatch(
        r"A blend takes about \d+\.\d GB of memory, but only \d+\.\d GB are free. With a smaller --memory \(in "
        r"Python: memory\), such as \d+GB, a single network is trained instead.",
        warning,
    )
