import io
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, encoded, make_image
from PIL import Image

from pipeline.core.errors import ImageError
from pipeline.data import decoding
from pipeline.data.decoding import THUMBNAIL, decode, preview, thumbnail


def flat(mode: str, color, kind: str = "PNG") -> np.ndarray:
    """The colour of the first pixel of a one-coloured image after writing and decoding it."""
    return decode(encoded(Image.new(mode, (8, 8), color), kind))[0, 0]


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("LA", (50, 0), (255, 255, 255)),
        ("I;16", 0x8080, (128, 128, 128)),
    ],
)
def test_modes_are_converted_to_rgb(mode: str, color, expected: tuple[int, int, int]) -> None:
    assert tuple(flat(mode, color)) == expected


def test_other_formats_are_converted_to_rgb() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    assert tuple(decode(encoded(palette))[0, 0]) == (200, 100, 50)
    assert tuple(decode(encoded(palette, transparency=1))[0, 0]) == (255, 255, 255)
    assert tuple(flat("CMYK", (0, 255, 255, 0), kind="TIFF")) == (255, 0, 0)
    assert abs(flat("CMYK", (0, 255, 255, 0), kind="JPEG").astype(int) - (255, 0, 0)).max() < 8
    assert tuple(flat("F", 0.5, kind="TIFF")) == (128, 128, 128)
    assert tuple(flat("F", 77.0, kind="TIFF")) == (77, 77, 77)
    with pytest.raises(ImageError, match="NaN or infinite"):
        flat("F", float("nan"), kind="TIFF")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_the_first_frame_is_used(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert decode(data)[0, 0, 0] > 240


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (20, 10), "white")
    image.paste("black", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees clockwise
    pixels = decode(encoded(image, exif=exif))
    assert pixels[:100].max() < 30
    assert pixels[-100:].min() > 225


def test_resize_squashes_the_whole_image() -> None:
    image = Image.new("RGB", (300, 30), "white")
    image.paste("black", (0, 0, 150, 30))
    pixels = decode(encoded(image))
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8
    assert pixels[:, :110].max() < 10
    assert pixels[:, -110:].min() > 245


def test_damaged_images_raise_errors() -> None:
    data = encoded(make_image(0), "JPEG")
    with pytest.raises(ImageError, match=r"(?i)truncated"):
        decode(data[: len(data) // 2])
    with pytest.raises(ImageError, match="not an image"):
        decode(b"<html>not found</html>")


def test_previews_are_small_jpegs_with_the_same_aspect_ratio() -> None:
    with Image.open(io.BytesIO(preview(encoded(make_image(0, 300, 200)), 128))) as small:
        assert (small.format, small.size) == ("JPEG", (128, 85))
    with Image.open(io.BytesIO(preview(encoded(make_image(0, 30, 20)), 128))) as small:
        assert small.size == (30, 20)


def test_thumbnails_are_small_and_grey() -> None:
    left_dark = np.repeat(np.arange(224, dtype=np.uint8)[None, :, None], 224, axis=0).repeat(3, axis=2)
    found = thumbnail(left_dark)
    assert (found.shape, found.dtype) == ((THUMBNAIL, THUMBNAIL), np.uint8)
    assert (np.diff(found.astype(int), axis=1) > 0).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_large_jpegs_at_reduced_scale_stay_within_two_levels(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = [Image.open(ROOT / "images" / name / "1-1.jpg") for name in ("cat", "gravel", "galaxy", "retina")]
    mosaic = Image.new("RGB", (2400, 2000))
    for row in range(2000 // 200):
        for column in range(2400 // 200):
            mosaic.paste(tiles[(row + column) % 4].resize((200, 200)), (column * 200, row * 200))
    data = encoded(mosaic.convert(mode), "JPEG", quality=90)
    reduced = decode(data).astype(int)
    monkeypatch.setattr(decoding, "REDUCED_AT_LEAST", 1000)
    full = decode(data).astype(int)
    assert 0 < abs(reduced - full).max() <= 2
    assert abs(reduced - full).mean() < 0.3


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_resize_keras_gives_the_pixels_of_load_img(mode: str, tmp_path: Path) -> None:
    import keras

    file = tmp_path / "a.png"
    image = make_image(3, 301, 177).convert(mode)
    if mode == "RGBA":
        image.putalpha(100)
    image.save(file)
    expected = keras.utils.img_to_array(keras.utils.load_img(file, target_size=(224, 224)))
    assert np.array_equal(decode(file.read_bytes(), resize="keras"), expected)


def test_resize_keras_neither_rotates_nor_decodes_at_reduced_scale(tmp_path: Path) -> None:
    import keras

    file = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    make_image(3, 2000, 1500).save(file, exif=exif)
    expected = keras.utils.img_to_array(keras.utils.load_img(file, target_size=(224, 224)))
    assert np.array_equal(decode(file.read_bytes(), resize="keras"), expected)


@pytest.mark.parametrize(("size", "mode"), [((1200, 1000), "RGB"), ((100, 300), "RGB"), ((640, 480), "L")])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_resize_bicubic_gives_pillows_pixels(size: tuple[int, int], mode: str, kind: str) -> None:
    """Bit for bit, also where a JPEG could be decoded at reduced scale, and for a grey image."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    data = encoded(Image.fromarray(noise).convert(mode), kind)
    expected = Image.open(io.BytesIO(data)).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    difference = np.abs(np.int16(decode(data, resize="squash-bicubic")) - np.asarray(expected))
    assert difference.max() == 0
    assert np.abs(np.int16(decode(data)) - np.asarray(expected)).max() > 2


@pytest.mark.parametrize("size", [(512, 256), (256, 512), (256, 256)])
def test_resize_crop_takes_the_centre(size: tuple[int, int]) -> None:
    image = make_image(4, *size)
    left, upper = (size[0] - 224) // 2, (size[1] - 224) // 2
    expected = np.asarray(image.crop((left, upper, left + 224, upper + 224)))
    assert np.array_equal(decode(encoded(image), resize="crop"), expected)


def test_resize_crop_keeps_the_aspect_ratio() -> None:
    image = make_image(4, 700, 350)
    whole = image.resize((512, 256), Image.Resampling.BILINEAR)
    expected = np.asarray(whole.crop((144, 16, 368, 240))).astype(int)
    assert abs(decode(encoded(image), resize="crop") - expected).max() <= 1
