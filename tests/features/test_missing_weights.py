"""Unavailable weights and devices are reported before any work starts."""

import logging
from pathlib import Path

import pytest

from pipeline.core.errors import PipelineError, RequestError
from pipeline.data.sources import find_images
from pipeline.features.engines.mnn import converted_network
from pipeline.features.extraction import extract_features
from pipeline.features.extractor import Extractor
from pipeline.features.options import ExtractionOptions
from pipeline.features.weights import Weights, weights_from


def unavailable(*_: object) -> None:
    raise PipelineError("no weights")


EXTRACTOR = Extractor(Weights("random:0", "unavailable", unavailable, unavailable), "block5_pool")


@pytest.mark.parametrize("engine", ["keras", "mnn"])
def test_missing_weights_are_reported_before_images_are_read(tmp_path: Path, engine: str) -> None:
    (tmp_path / "damaged.png").write_bytes(b"x")  # reading it first would raise another error
    options = ExtractionOptions(engine=engine, cache=tmp_path / "cache", progress=False)
    with pytest.raises(PipelineError, match="no weights"):
        extract_features(find_images(tmp_path), EXTRACTOR, options)
    assert list((tmp_path / "cache").glob("features/*")) == []


def test_a_missing_device_is_reported_before_images_are_read(tmp_path: Path) -> None:
    (tmp_path / "damaged.png").write_bytes(b"x")
    options = ExtractionOptions(device="gpu:7", cache=tmp_path / "cache", progress=False)
    with pytest.raises(RequestError, match="There is no device 'gpu:7'"):
        extract_features(find_images(tmp_path), Extractor(weights_from("random:0"), "block5_pool"), options)
    assert list((tmp_path / "cache").glob("features/*")) == []


def test_missing_weights_are_reported_before_the_conversion(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(PipelineError, match="no weights"):
        converted_network([EXTRACTOR], tmp_path)
    assert "Converting" not in caplog.text


def test_a_converted_network_needs_no_weights(tmp_path: Path) -> None:
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks" / "unavailable-block5_pool-0.mnn").write_bytes(b"x")
    (tmp_path / "damaged.png").write_bytes(b"x")
    with pytest.raises(PipelineError, match="could be read"):
        extract_features(
            find_images(tmp_path), EXTRACTOR, ExtractionOptions(engine="mnn", cache=tmp_path, progress=False)
        )
