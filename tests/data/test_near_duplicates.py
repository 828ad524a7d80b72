import sys

import numpy as np
import pytest
from conftest import ROOT, picture

sys.path.insert(0, str(ROOT / "scripts"))

from measure_copies import CHANGES, digits, misses, thumbnails
from PIL import Image

from pipeline.cli import extract
from pipeline.data import near_duplicates as copies
from pipeline.data.near_duplicates import find_near_duplicates, number_near_duplicates
from pipeline.data.sources import find_images
from pipeline.features.extraction import ExtractionOptions
from pipeline.features.extractor import Extractor
from pipeline.features.weights import weights_from


@pytest.fixture(scope="module")
def tiles() -> list[Image.Image]:
    return [Image.open(file).convert("RGB") for file in sorted((ROOT / "images").glob("*/*.jpg"))]


def test_different_pictures_are_no_copies(tiles: list[Image.Image]) -> None:
    assert groups(number_near_duplicates(thumbnails(tiles))) == []
    assert groups(number_near_duplicates(thumbnails(digits(300)))) == []


@pytest.mark.parametrize("change", [name for name in CHANGES if "10 %" not in name])
def test_changed_pictures_are_found(tiles: list[Image.Image], change: str) -> None:
    chosen = tiles[::12]  # of grass and gravel and the sky too
    originals = thumbnails(chosen + [tile for tile in tiles if tile not in chosen])
    assert misses(originals, thumbnails([CHANGES[change](tile) for tile in chosen])) == 0


def test_many_copies_of_one_picture_are_one_group() -> None:
    pictures = [picture(seed) for seed in range(20)]
    many = pictures + [pictures[3].resize((side, side)) for side in range(200, 260, 4)]
    numbers = number_near_duplicates(thumbnails(many))
    assert groups(numbers) == [[3, *range(20, 35)]]


def test_small_sets_and_flat_pictures() -> None:
    assert number_near_duplicates(thumbnails([picture(0)])).tolist() == [0]
    assert groups(number_near_duplicates(thumbnails([picture(0), picture(1)]))) == []
    flat = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue", "white")]
    assert groups(number_near_duplicates(thumbnails(flat))) == []


def test_blocks_change_nothing(tiles: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    found = thumbnails([*tiles[:30], CHANGES["half the size"](tiles[4])])
    whole = number_near_duplicates(found)
    monkeypatch.setattr(copies, "BLOCK", 7)
    assert np.array_equal(number_near_duplicates(found), whole)
    assert groups(whole) == [[4, 30]]


def test_copies_are_found_in_the_store(tmp_path, caplog: pytest.LogCaptureFixture, monkeypatch) -> None:
    images = tmp_path / "pictures"
    images.mkdir()
    for number in range(8):
        picture(number, 300, 300).save(images / f"{number}.png")
    (images / "8.png").write_bytes((images / "2.png").read_bytes())
    picture(5, 300, 300).save(images / "9.jpg", quality=60)
    extractor = Extractor(weights_from("random:0"), "block5_pool")
    features = extract(find_images(images), extractor, ExtractionOptions(cache=tmp_path / "cache", progress=False))
    assert groups(find_near_duplicates(features)) == [[2, 8], [5, 9]]
    monkeypatch.setattr(copies, "AT_MOST", 5)
    assert groups(find_near_duplicates(features)) == [[2, 8]]
    assert "Near-copies are not looked for" in caplog.text
