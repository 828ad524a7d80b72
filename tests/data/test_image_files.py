"""Odd image files: read with the correct pixels, or refused with a cause."""

import io
import struct
import subprocess
import threading
from pathlib import Path

import numpy as np
import odd_images
import pytest
from helpers import encoded, make_image, run_program
from odd_images import DEEP, GREY, HEIGHT, RGB, WIDTH, chunk, png, tiff
from PIL import Image, ImageCms

from pipeline.core.errors import ImageError
from pipeline.data import rgb
from pipeline.data.decoding import decode, preview, rgb_pixels
from pipeline.data.image_files import FORMATS
from pipeline.data.image_names import SUFFIXES
from pipeline.data.images import content_digest

RIGHT = {name: (data, pixels) for zoo in (odd_images.served, odd_images.read) for name, data, pixels in zoo()}


def resized(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR)).astype(int)


def difference(data: bytes, pixels: np.ndarray) -> float:
    """The mean difference between decoded and correct pixels, of 255 levels."""
    return float(np.abs(decode(data) - resized(pixels)).mean())


@pytest.mark.parametrize("name", RIGHT)
def test_odd_files_are_read_with_the_correct_pixels(name: str) -> None:
    data, pixels = RIGHT[name]
    assert difference(data, pixels) < (0.7 if name.endswith("jpg") else 0.2)


def test_bands_give_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    transparent = make_image(3, 301, 277).convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize(transparent.size))
    files = [odd_images.jpeg_with(b"Exif\0\0" + odd_images.exif([(0x0112, 3, struct.pack("<HH", o, 0))]),
             np.asarray(make_image(2, 301, 277))) for o in range(1, 9)]  # fmt: skip
    files += [encoded(transparent), encoded(make_image(4, 301, 277).convert("P"), transparency=7)]
    files += [encoded(Image.fromarray(np.arange(0, 65000, dtype=np.uint16).reshape(250, 260)))]
    for resize in ("squash", "crop"):
        whole = [decode(data, resize=resize) for data in files]
        monkeypatch.setattr(rgb, "BAND_PIXELS", 4000)
        assert all(
            np.array_equal(decode(data, resize=resize), pixels) for data, pixels in zip(files, whole, strict=True)
        )
        monkeypatch.undo()


PROGRAM = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    "data", [PROGRAM, b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 30, len(PROGRAM), 0, 0, 0, 0) + b"\xff\xff" + PROGRAM]
)
def test_no_external_program_is_run_for_a_file(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a program was run")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr("os.system", refuse)
    for use in (decode, lambda content: preview(content, 100)):
        with pytest.raises(ImageError, match="not an image of a format that is read"):
            use(data)


@pytest.mark.parametrize("kind", ["PCX", "SGI", "PDF", "DDS", "MSP", "XBM", "SPIDER"])
def test_other_formats_of_pillow_are_refused(kind: str) -> None:
    image = make_image(1).convert({"MSP": "1", "XBM": "1", "SPIDER": "F"}.get(kind, "RGB"))
    with pytest.raises(ImageError):
        decode(encoded(image, kind))


def test_suffixes_match_formats() -> None:
    Image.init()
    assert {Image.EXTENSION.get(suffix, "HEIF") for suffix in SUFFIXES} <= set(FORMATS) | {"MPO"}


RAMP = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
REFUSED = {
    "floats to 4000": (tiff([(RAMP * 4000).astype(np.float32)], 1), "floats from 0 to 4000"),
    "floats to 3": (tiff([(RAMP * 3).astype(np.float32)], 1), "floats from 0 to 3;"),
    "floats from -1": (tiff([(RAMP * 2 - 1).astype(np.float32)], 1), "floats from -1 to 1"),
    "NaN": (tiff([np.where(GREY > 90, np.nan, 0.5).astype(np.float32)], 1), "NaN or infinite"),
    "infinite": (tiff([np.where(GREY > 90, np.inf, 0.5).astype(np.float32)], 1), "NaN or infinite"),
    "32 bits": (tiff([DEEP.astype(np.int32) * 100], 1), "read from 0 to 65,535"),
    "unsigned 32 bits": (tiff([DEEP.astype(np.uint32) * 65537], 1), "read from 0 to 65,535"),
    "negative": (tiff([(RAMP * 999).astype(np.int16) - 99], 1), r"from -99 to .*read from 0 to 32,767"),
    "32 bits for 8": (tiff([GREY.astype(np.uint32)], 1), r"at most 2\d\d: integers of 32 bits may be meant as 8"),
    "signed bytes": (tiff([(GREY // 2).astype(np.int8)], 1), "signed bytes"),
    "checksum of data": (RIGHT["rgb 16.png"][0].replace(b"IDAT", b"IDAS"), "(?i)png"),
    "checksum of transparency": (png(DEEP.astype(">u2"), WIDTH, 16, 0, chunk(b"tRNS", b"\0\0", 1)), "a damaged PNG"),
    **{name: (data, "JPEG data is damaged") for name, data in odd_images.damaged_jpegs()},
    "scans": (odd_images.many_scans(30_000), "a JPEG of more than 200 scans"),
    "end of a JPEG": (RIGHT["grey.jpg"][0][:-2], "truncated"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_cannot_be_read_correctly_are_refused(name: str) -> None:
    data, message = REFUSED[name]
    for resize in ("squash", "keras") if "JPEG" in message else ("squash",):
        with pytest.raises(ImageError, match=message):
            decode(data, resize=resize)


def test_colour_profiles_are_ignored() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
        plain, tagged = (encoded(Image.fromarray(RGB), kind, **more) for more in ({}, {"icc_profile": profile}))
        assert profile in tagged or kind == "PNG"
        assert np.array_equal(decode(tagged), decode(plain))


def test_max_pixels_works_above_and_below_pillows_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [encoded(make_image(0, 40, 30), kind) for kind in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "JPEG2000")]
    for limit in (100, 10_000, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # 1,200 pixels are above or below Pillow's limit
        for data in files:
            assert decode(data, 1200).shape == (224, 224, 3)
            with pytest.raises(ImageError, match=r"^it has 1,200 pixels, more than the limit of 1,199 \(max_pixels\)$"):
                decode(data, 1199)
        assert limit == Image.MAX_IMAGE_PIXELS


def test_threads_leave_pillows_limit_unchanged() -> None:
    data, before = encoded(make_image(0, 40, 30)), Image.MAX_IMAGE_PIXELS
    threads = [threading.Thread(target=decode, args=(data, 1200 + number)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert before == Image.MAX_IMAGE_PIXELS


def test_an_icon_has_the_size_of_its_picture() -> None:
    inside = encoded(Image.new("L", (3000, 2000)))
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 32, 32, 0, 0, 1, 32, len(inside), 22) + inside
    with pytest.raises(ImageError, match="6,000,000 pixels, more than the limit of 5,000,000 "):
        decode(icon, 5_000_000)


def test_formats_with_copying_decoders_have_lower_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.image_files.MAX_PIXELS", 2000)
    data = encoded(make_image(0, 40, 30), "WEBP")
    assert decode(data, 2400).shape == (224, 224, 3)
    with pytest.raises(ImageError, match="more than the 1,000 of a WEBP, unless max_pixels is raised"):
        decode(data, 2000)


@pytest.mark.parametrize(
    ("mode", "color", "kind", "options"),
    [
        ("RGBA", (9, 9, 9, 99), "PNG", {}),
        ("RGBA", (9, 9, 9, 99), "PNG", {"turned": 6}),
        ("I;16", 999, "PNG", {}),
        ("F", 0.5, "TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_memory_is_bounded(mode: str, color: object, kind: str, options: dict, tmp_path: Path) -> None:
    if turned := options.pop("turned", None):
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = turned
    for name, side in (("large", 4000), ("small", 300)):
        (tmp_path / name).write_bytes(encoded(Image.new(mode, (side, side), color), kind, **options))
    measured = run_program("decode_large", tmp_path / "large", tmp_path / "small").json
    assert measured["bytes_a_pixel"] < 8


def test_images_in_memory_follow_the_same_rules() -> None:
    none = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    opened = Image.open(io.BytesIO(odd_images.bitmap(np.dstack([RGB, none]), is_icon=False)))
    assert np.array_equal(rgb_pixels(opened), RGB)
    assert np.array_equal(rgb_pixels(Image.open(io.BytesIO(tiff([65535 - DEEP], 0)))), odd_images.rgb_of(GREY))
    photo = Image.fromarray(RGB)
    half = photo.convert("RGBA")
    half.putalpha(128)
    blended = np.rint(RGB * (128 / 255) + 127)
    for image in (half, half.convert("RGBa")):
        assert np.abs(rgb_pixels(image) - blended).max() <= 2
    grey_half = half.convert("LA")
    for image in (grey_half, grey_half.convert("La")):
        assert np.abs(rgb_pixels(image) - np.rint(odd_images.rgb_of(GREY) * (128 / 255) + 127)).max() <= 2
    with pytest.raises(ImageError, match="floats from 0 to 4000"):
        rgb_pixels(Image.fromarray((RAMP * 4000).astype(np.float32)))
    palette = photo.quantize(8)
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert (rgb_pixels(palette)[0, 0] == 255).all()
    assert palette.info["transparency"] == palette.getpixel((0, 0))


def test_vectors_of_files_that_are_now_decoded_differently_are_recomputed() -> None:
    import hashlib

    def is_as_before(data: bytes) -> bool:
        return content_digest(data) == hashlib.blake2b(data, digest_size=16).digest()

    photo = make_image(0)
    assert all(is_as_before(encoded(photo, kind)) for kind in ("JPEG", "PNG", "GIF", "WEBP", "PPM", "JPEG2000"))
    assert is_as_before(encoded(photo.convert("P"), transparency=1))
    names = ("white is zero big.tif", "planes little.tif", "alpha none.tga", "alpha none.ico", "alpha none.bmp")
    for name in (*names, "grey 4 transparent.png", "grey 16 transparent.png"):
        assert not is_as_before(RIGHT[name][0])
