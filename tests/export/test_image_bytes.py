"""Image files decoded by TensorFlow's operations, compared with our decoder."""

import struct

import numpy as np
import odd_images
import pytest
from helpers import encoded, make_image
from PIL import Image

from pipeline.data.decoding import decode
from pipeline.export.image_bytes import decode_batch


@pytest.fixture(scope="module")
def decode_file():
    """Decodes a file as an exported model does, in a graph."""
    import tensorflow as tf

    graph = tf.function(decode_batch, input_signature=[tf.TensorSpec((None,), tf.string)])
    return lambda data: graph(tf.constant([data])).numpy()[0].astype(int)


def oriented(orientation: int, endian: str = "<") -> bytes:
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010E] = "a description before it"
    exif[0x0112] = orientation
    return encoded(make_image(1, 300, 200), "JPEG", exif=exif)


@pytest.mark.parametrize("endian", ["<", ">"])
def test_the_orientation_of_a_jpeg_is_applied(endian: str, decode_file) -> None:
    for orientation in range(10):
        data = oriented(orientation, endian)
        assert np.abs(decode_file(data) - decode(data)).max() <= 1


def test_a_zoo_of_files_is_decoded_like_extract(decode_file) -> None:
    apart = {name: int(np.abs(decode_file(data) - decode(data)).max()) for name, data, _ in odd_images.served()}
    assert {name: levels for name, levels in apart.items() if levels > 1} == {}


def test_other_kinds_of_images_are_decoded_similarly(decode_file) -> None:
    photo = make_image(2, 640, 480)
    transparent = photo.convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize(photo.size))
    for data in (
        encoded(photo),
        encoded(photo.convert("L")),
        encoded(photo.convert("P")),
        encoded(photo.convert("P"), transparency=3),
        encoded(photo.convert("1")),
        encoded(transparent),
        encoded(transparent.convert("LA")),
        encoded(photo, "JPEG", progressive=True),
        encoded(photo.convert("L"), "JPEG"),
        encoded(photo.convert("CMYK"), "JPEG"),
        encoded(make_image(3, 3000, 2000), "JPEG", quality=90),  # our decoder uses a reduced size
    ):
        assert np.abs(decode_file(data) - decode(data)).max() <= 2


def test_damaged_metadata_is_ignored(decode_file) -> None:
    data = oriented(6)
    at = data.index(b"Exif\0\0") + 6
    for offset in (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00"):
        broken = data[: at + 4] + offset + data[at + 8 :]
        assert decode_file(broken).shape == (224, 224, 3)


def declared(data: bytes, at: int, size: str, *values: int) -> bytes:
    """A file with changed numbers in its header."""
    put = struct.pack(size, *values)
    return data[:at] + put + data[at + len(put) :]


def test_files_that_would_be_decoded_differently_are_refused(decode_file) -> None:
    from tensorflow.errors import InvalidArgumentError

    photo = make_image(1, 60, 40)
    jpeg, png = encoded(photo, "JPEG"), encoded(photo)
    frame = jpeg.index(b"\xff\xc0")
    xmp = odd_images.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + odd_images.XMP)
    profile = odd_images.chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 0\n")
    for data, message in [
        *[(encoded(photo, kind), "neither a JPEG nor a PNG") for kind in ("GIF", "WEBP", "TIFF", "BMP")],
        (b"text", "neither a JPEG nor a PNG"),
        (b"", "neither a JPEG nor a PNG"),
        (declared(jpeg, frame + 1, ">B", 0xC1), "baseline and progressive"),
        (declared(jpeg, frame + 1, ">B", 0xC9), "baseline and progressive"),
        (declared(jpeg, frame + 4, ">B", 12), "in 8 bits"),
        (declared(jpeg, frame + 9, ">B", 2), "grey, RGB and CMYK"),
        (declared(jpeg, frame + 5, ">HH", 60_000, 60_000), "up to 50,000,000 pixels"),
        (declared(png, 16, ">II", 60_000, 60_000), "up to 50,000,000 pixels"),
        (declared(png, 16, ">II", 2**31 - 1, 2**31 - 1), "up to 50,000,000 pixels"),
        (odd_images.many_scans(300), "up to 200 scans"),
        (odd_images.jpeg_with(odd_images.XMP), "in XMP alone"),
        (png[:33] + xmp + png[33:], "in the text of a PNG"),
        (png[:33] + profile + png[33:], "in the text of a PNG"),
        (png[:-12] + odd_images.chunk(b"eXIf", odd_images.exif([odd_images.TURN])) + png[-12:], "behind the data"),
    ]:
        with pytest.raises(InvalidArgumentError, match=message):
            decode_file(data)
    for data in (jpeg, png):
        for size in (10, 30, len(data) // 2):
            with pytest.raises(InvalidArgumentError):
                decode_file(data[:size])
