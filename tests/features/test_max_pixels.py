"""The limit on an image's size also applies to stored images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import PipelineError
from pipeline.data.sources import find_images
from pipeline.features.extraction import extract_features
from pipeline.features.extractor import Extractor
from pipeline.features.options import ExtractionOptions
from pipeline.features.weights import weights_from

EXTRACTOR = Extractor(weights_from("random:0"), "block5_pool")


@pytest.fixture
def sizes(tmp_path: Path) -> Path:
    """A folder with an image of 100 pixels and an image of 10,000 pixels."""
    folder = tmp_path / "images"
    folder.mkdir()
    for side in (10, 100):
        pixels = np.random.default_rng(side).integers(0, 255, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{side:03}.png")
    return folder


def test_too_large_stored_images_are_refused_like_new_ones(sizes: Path, tmp_path: Path) -> None:
    def extracted(folder: Path, max_pixels: int):
        options = ExtractionOptions(
            engine="keras", batch_size=2, workers=1, cache=tmp_path / "cache", progress=False, max_pixels=max_pixels
        )
        return extract_features(find_images(folder), EXTRACTOR, options)

    def summary(features):
        return list(features.paths), [(failure.path, failure.error) for failure in features.failed]

    small_only = ["010.png"], [("100.png", "it has 10,000 pixels, more than the limit of 9,999 (max_pixels)")]
    assert summary(extracted(sizes, 9999)) == small_only  # new
    assert summary(extracted(sizes, 10_000)) == (["010.png", "100.png"], [])
    assert summary(extracted(sizes, 9999)) == small_only  # stored
    renamed = sizes.rename(tmp_path / "renamed")
    again = extracted(renamed, 9999)
    assert summary(again) == small_only  # stored under another name
    assert again.computed == 0
    with pytest.raises(PipelineError, match=r"None of the 2 images.*more than the limit of 10 "):
        extracted(renamed, 10)


def test_an_error_names_a_cache_that_cannot_be_created(sizes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    options = ExtractionOptions(cache=tmp_path / "file" / "cache", progress=False)
    with pytest.raises(PipelineError, match=r"cache folder .* cannot be created .*cache=DIR") as raised:
        extract_features(find_images(sizes), EXTRACTOR, options)
    assert "delete" not in str(raised.value)
