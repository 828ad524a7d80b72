"""The forecast of a blend, and of banded ridge regression."""

import logging
import re

import pytest

from pipeline.decoders.banded import BandedConfig
from pipeline.decoders.blend import BlendConfig
from pipeline.decoders.forecast import LIBRARIES, Size, announce, expected_seconds, peak_memory
from pipeline.decoders.network import NETWORK

CONFIG = BlendConfig()


@pytest.mark.parametrize(("small", "large"), [((100, 50), (4000, 50)), ((10_000, 50), (100_000, 1000))])
def test_training_time_grows_with_images_and_targets(
    small: tuple[int, int], large: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.decoders.forecast._operations_per_second", lambda: 1e11)  # whatever else runs
    before, after = (expected_seconds(CONFIG, Size(rows, rows // 4, 4096, dim)) for rows, dim in (small, large))
    assert 0 < before < after  # only from 4,999 to 5,000 images it drops, as fewer networks are trained


def test_a_long_training_is_announced_with_time_and_memory(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    announce(CONFIG, Size(100, 25, 20, 5), 10**9)
    assert "about" not in caplog.text
    announce(CONFIG, Size(100, 25, 4096, 5), 10**10, times=10**6)
    assert re.search(r"takes about \d+ minutes on this processor, and about 1\.1 GB of memory", caplog.text)


def test_a_network_is_announced_if_it_needs_much_memory(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    announce(NETWORK, Size(1000, 250, 4096, 300), 10**9)
    assert caplog.messages == []
    announce(NETWORK, Size(10_000, 2500, 4096, 20_000), 10**9)
    assert re.fullmatch(r"Training and scoring take about \d\.\d GB of memory\.", caplog.messages[0])


def test_banded_ridge_regression_is_announced_with_its_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    announce(BandedConfig(draws=1), Size(50, 12, 20, 5), 10**9)
    assert caplog.messages == [
        "Banded ridge regression tries 1 combination of layer weights on folds of its training images."
    ]
    announce(BandedConfig(), Size(4000, 1000, 30_000, 50_000), 10**12)
    expected = r"That takes about \d\d+ minutes on this processor, and about \d+\.\d GB of memory\."
    assert re.fullmatch(expected, caplog.messages[-2])


def test_the_memory_of_banded_ridge_regression_follows_the_budget() -> None:
    size, config = Size(4000, 40, 100, 20_000, bands=3), BandedConfig()
    small, large = (peak_memory(config, size, budget * 10**9) for budget in (1, 2))
    assert LIBRARIES < small < large - 0.5e9


def test_too_little_memory_is_reported_with_the_option(caplog: pytest.LogCaptureFixture) -> None:
    announce(CONFIG, Size(10**8, 10**7, 4096, 1000), 10**18)
    announce(NETWORK, Size(10**8, 10**7, 4096, 1000), 10**18)
    blend, network = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    short = r"Training and scoring take about \d+\.\d GB of memory, but only \d+\.\d GB are free\. "
    advice = r"With a smaller --memory \(in Python: memory\), such as \d+GB, a single network is trained instead\."
    assert re.fullmatch(short + advice, blend)
    assert re.fullmatch(short + r"Train on fewer images or dimensions, or free memory\.", network)
