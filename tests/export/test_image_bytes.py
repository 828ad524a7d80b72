"""Image files decoded by TensorFlow's operations, against our own decoding."""

import io

import numpy as np
import pytest
from helpers import encoded, make_image
from PIL import Image

from pipeline.data.decoding import decode
from pipeline.export.image_bytes import decode_batch


def levels_apart(data: bytes) -> int:
    """By how many of 255 levels the worst pixel differs from ours."""
    return int(np.abs(decode_batch([data]).numpy()[0].astype(int) - decode(data)).max())


def oriented(orientation: int, endian: str = "<") -> bytes:
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010E] = "a description before it"
    exif[0x0112] = orientation
    return encoded(make_image(1, 300, 200), "JPEG", exif=exif)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("endian", ["<", ">"])
def test_the_orientation_of_a_jpeg_is_applied(orientation: int, endian: str) -> None:
    assert levels_apart(oriented(orientation, endian)) <= 1


def test_pictures_of_other_kinds_are_near_ours() -> None:
    photo = make_image(2, 640, 480)
    transparent = photo.convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize(photo.size))
    for data in (
        encoded(photo),
        encoded(photo.convert("L")),
        encoded(photo.convert("P")),
        encoded(transparent),
        encoded(photo, "JPEG", progressive=True),
        encoded(photo.convert("L"), "JPEG"),
        encoded(make_image(3, 3000, 2000), "JPEG", quality=90),  # ours is decoded at reduced size
    ):
        assert levels_apart(data) <= 2


def test_damaged_metadata_is_passed_over() -> None:
    data = oriented(6)
    at = data.index(b"Exif\0\0") + 6
    for offset in (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00"):
        broken = data[: at + 4] + offset + data[at + 8 :]
        assert decode_batch([broken]).shape == (1, 224, 224, 3)


def test_what_would_be_answered_wrongly_is_refused() -> None:
    from tensorflow.errors import InvalidArgumentError

    exif = Image.Exif()
    exif[0x0112] = 6
    for data, message in [
        (encoded(make_image(1), "GIF"), "neither a JPEG nor a PNG"),
        (b"text", "neither a JPEG nor a PNG"),
        (encoded(make_image(1), "PNG", exif=exif), "save it upright"),
    ]:
        with pytest.raises(InvalidArgumentError, match=message):
            decode_batch([data])
    whole = io.BytesIO(oriented(1)).getvalue()
    with pytest.raises(InvalidArgumentError):
        decode_batch([whole[:200]])
