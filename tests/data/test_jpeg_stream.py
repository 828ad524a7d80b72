"""JPEG data fed piece by piece gives the same pixels as Pillow, unless it is damaged."""

import io
import random

import numpy as np
import odd_images
import pytest
from helpers import encoded, make_image
from PIL import Image

from pipeline.core.errors import ImageError
from pipeline.data.jpeg_stream import CODEC, MOST_SCANS, pieces

KINDS = [
    {},
    {"progressive": True},
    {"subsampling": 0},
    {"quality": 1},
    {"quality": 98, "optimize": True},
    {"restart_marker_rows": 1},
    {"restart_marker_blocks": 3},
    {"restart_marker_rows": 2, "progressive": True},
]


def loaded(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    image.tile = [image.tile[0]._replace(codec_name=CODEC)]
    return np.asarray(image)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", KINDS, ids=str)
def test_pixels_match_pillow(mode: str, options: dict) -> None:
    for image in (make_image(1, 170, 130), Image.new("RGB", (90, 50), "navy"), Image.new("RGB", (1, 1))):
        data = encoded(image.convert(mode), "JPEG", **options)
        expected = np.asarray(Image.open(io.BytesIO(data)))
        assert np.array_equal(loaded(data), expected)
        # A few bytes or padding after a scan are not damage, nor is anything after the end.
        for put in (b"\x12\x34", bytes(3000), b"\xff" * 50):
            assert np.array_equal(loaded(data[:-2] + put + data[-2:]), expected)
        assert np.array_equal(loaded(data + data[len(data) // 2 :]), expected)


@pytest.mark.parametrize("name", dict(odd_images.damaged_jpegs()))
def test_damaged_data_is_refused(name: str) -> None:
    data = dict(odd_images.damaged_jpegs())[name]
    assert np.asarray(Image.open(io.BytesIO(data))).shape == (320, 480, 3)  # Pillow does not complain
    with pytest.raises(ImageError, match="JPEG data is damaged"):
        loaded(data)


def test_most_damage_is_detected() -> None:
    chance, seen = random.Random(0), 0
    for number in range(60):
        whole = encoded(make_image(number % 5, 300, 200), "JPEG", quality=90, progressive=number % 2 == 1)
        at = chance.randrange(len(whole) // 3, len(whole) - 300)
        try:
            loaded(whole[:at] + b"\x5a" * 200 + whole[at + 200 :])
        except (ImageError, OSError):
            seen += 1
    assert seen >= 36


def test_scans_and_restarts_are_found() -> None:
    photo = make_image(0, 64, 64)
    assert len(pieces(encoded(photo, "JPEG"))) == 1
    assert len(pieces(encoded(photo, "JPEG", progressive=True))) == 10
    assert len(pieces(encoded(photo, "JPEG", restart_marker_blocks=1))) == 16
    assert len(pieces(encoded(photo, "JPEG", exif=b"Exif\0\0" + b"\xff\xda\0\x04" * 500))) == 1
    assert len(pieces(odd_images.many_scans(MOST_SCANS - 9))) == MOST_SCANS
    with pytest.raises(ImageError, match="more than 200 scans"):
        pieces(odd_images.many_scans(MOST_SCANS - 8))
