"""Image files opened by Pillow: the supported formats, and the meaning of samples where Pillow does not report it."""

import io
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.IcoImagePlugin import IcoImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    EXTRASAMPLES,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    TiffImageFile,
)

from pipeline.core.errors import ImageError, first_line
from pipeline.data import jpeg_stream, png_chunks
from pipeline.data.options import MAX_PIXELS

# HEIC, the format of iPhones, is read if the extra `heic` is installed.
READS_HEIF = find_spec("pillow_heif") is not None
INSTALL_HEIF = "pip install 'image-vectors[heic]'"
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
if READS_HEIF:
    from pillow_heif import register_heif_opener

    register_heif_opener()

# Only these formats are read, whatever the file's suffix: Pillow knows others, and runs Ghostscript for one of them.
# TGA comes last, because it has no signature at its start.
FORMATS = (
    *("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "ICO", "JPEG2000", "AVIF"),
    *(("HEIF",) if READS_HEIF else ()),
    "TGA",
)
SIGNATURES = {
    **{b"\xff\xd8\xff": "JPEG", png_chunks.SIGNATURE: "PNG", b"GIF8": "GIF", b"BM": "BMP"},
    **{b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF"},
}
# Formats in which the fourth byte of a pixel may be unused: writers then leave it at zero in the whole image.
ZERO_ALPHA_IS_NONE = ("BMP", "DIB", "ICO", "TGA")
# Memory for decoding, in bytes per pixel: in most formats 4 for the image in Pillow, and sometimes twice that. The
# libraries of other formats make copies. The limit is BYTES_A_PIXEL times MAX_PIXELS, 1.4 GB.
BYTES_A_PIXEL, BYTES_OF_FORMAT = 8, {"AVIF": 10, "HEIF": 10, "WEBP": 16, "JPEG2000": 20}
ORIENTATION = 0x0112  # the tag in EXIF and TIFF
SIGNED = 2  # a TIFF sample format

_limit_lock = threading.RLock()


@dataclass(frozen=True)
class Picture:
    """An image, and how to interpret its samples.

    Attributes:
        image: The image, not necessarily loaded.
        orientation: EXIF's orientation number; 1 for upright.
        white: The value of white in grey of more than 8 bits.
        dimmest: The lowest possible maximum of such grey integers, unless all are 0: a lower one suggests fewer bits.
        white_is_zero: Whether such grey is stored inverted.
        has_alpha: Whether transparency counts.
        zero_alpha_is_none: Whether alpha that is zero everywhere means that there is no alpha.
    """

    image: Image.Image
    orientation: int = 1
    white: int = 65535
    dimmest: int = 0
    white_is_zero: bool = False
    has_alpha: bool = True
    zero_alpha_is_none: bool = False


@contextmanager
def open_picture(data: bytes, max_pixels: int) -> Iterator[Picture]:
    """Open an image file. Its declared size is checked before anything is decoded.

    Args:
        data: The content of the file.
        max_pixels: The largest size to open, in pixels; it replaces Pillow's own limit.

    Yields:
        The picture. Pillow's exceptions within the context become ImageErrors, too.

    Raises:
        ImageError: The bytes are not an image in one of FORMATS, are damaged or truncated, or have more pixels than
            allowed.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns about odd metadata, which changes no pixel, and about large images, which are refused here.
            warnings.simplefilter("ignore")
            with _pillow_limit(max_pixels):
                image = _open(data)
            with image:
                count = image.width * image.height
                _check_size(count, image.format, max_pixels)
                with _pillow_limit(max_pixels) if count > (Image.MAX_IMAGE_PIXELS or count) else nullcontext():
                    yield _file_picture(image, data)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        counts = re.findall(r"(\d+) pixels", str(error))
        raise ImageError(too_large(int(counts[0]) if counts else max_pixels + 1, max_pixels)) from error
    except UnidentifiedImageError as error:
        raise ImageError(_not_identified(data)) from error
    except Exception as error:  # Pillow's parsers raise many types for damaged files
        raise ImageError(first_line(error)) from error


def _check_size(pixels: int, kind: str | None, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise ImageError(too_large(pixels, max_pixels))
    limit = BYTES_A_PIXEL * max(max_pixels, MAX_PIXELS) // BYTES_OF_FORMAT.get(kind or "", BYTES_A_PIXEL)
    if pixels > limit:
        raise ImageError(f"it has {pixels:,} pixels, more than the {limit:,} of a {kind}, unless max_pixels is raised")


def too_large(pixels: int, max_pixels: int) -> str:
    """The error message for an image that is too large.

    Args:
        pixels: Its size, in pixels.
        max_pixels: The largest size allowed.
    """
    return f"it has {pixels:,} pixels, more than the limit of {max_pixels:,} (max_pixels)"


def picture_in_memory(image: Image.Image) -> Picture:
    """The picture of an open image, by the same rules as for files."""
    tags = getattr(image, "tag_v2", {})
    return Picture(
        image,
        _orientation(image),
        white_is_zero=_is_deep_negative(tags),
        zero_alpha_is_none=image.format in ZERO_ALPHA_IS_NONE,
    )


@contextmanager
def _pillow_limit(max_pixels: int) -> Iterator[None]:
    """Make Pillow refuse larger images, which it does at twice its limit. All threads share that limit."""
    with _limit_lock:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, (max_pixels + 1) // 2
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _open(data: bytes) -> Image.Image:
    if SIGNATURES.get(data[:4]) == "TIFF":
        try:
            return _Tiff(io.BytesIO(data))
        except SyntaxError as error:
            raise UnidentifiedImageError from error
    is_png = data.startswith(png_chunks.SIGNATURE)
    image = Image.open(io.BytesIO(png_chunks.essential(data) if is_png else data), formats=FORMATS)
    # The frame of an icon is a separate image; the icon may declare a different size.
    return image.ico.getimage(image.size) if isinstance(image, IcoImageFile) else image


def _file_picture(image: Image.Image, data: bytes) -> Picture:
    if isinstance(image, ImageFile.ImageFile) and image.format in ("JPEG", "MPO"):
        image.tile = [image.tile[0]._replace(codec_name=jpeg_stream.CODEC)]
    if isinstance(image, _Tiff):
        return image.picture()
    if image.format == "PNG" and "transparency" in image.info and data.startswith(png_chunks.SIGNATURE):
        image.info["transparency"] = _scaled_transparency(image.info["transparency"], *data[24:26])
    icon = data.startswith(b"\0\0\1\0")
    return Picture(
        image,
        _orientation(image),
        has_alpha=image.format != "TGA" or bool(data[17] & 0x0F),  # the number of alpha bits in the header
        zero_alpha_is_none=icon or image.format in ZERO_ALPHA_IS_NONE,
    )


def _scaled_transparency(value: Any, depth: int, colour_type: int) -> Any:
    """The transparent colour of a PNG, converted to Pillow's levels."""
    if colour_type == 0 and depth in (2, 4):
        return value * 255 // (2**depth - 1)
    if colour_type == 2 and depth == 16:
        return tuple(level >> 8 for level in value)
    return value


def _orientation(image: Image.Image) -> int:
    """The orientation from EXIF or, if EXIF has none, from XMP; 1 if the metadata is damaged."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow's parsers raise many types for damaged metadata
        return 1


def _is_deep_negative(tags: Mapping[int, Any]) -> bool:
    """Whether a TIFF is grey of more than 8 bits with white at zero, which Pillow reads as if black were zero."""
    return tags.get(PHOTOMETRIC_INTERPRETATION) == 0 and max(tags.get(BITSPERSAMPLE, (1,))) > 8


class _Tiff(TiffImageFile):
    """A TIFF file, with corrections for variants that Pillow reads wrongly."""

    def _setup(self) -> None:
        self._white_is_zero = _is_deep_negative(self.tag_v2)
        if self._white_is_zero:
            self.tag_v2[PHOTOMETRIC_INTERPRETATION] = 1
        super()._setup()
        self._bits = max(self.tag_v2.get(BITSPERSAMPLE, (1,)))
        if self._bits == 16 and self.tag_v2.get(PLANAR_CONFIGURATION, 1) == 2 and not self.use_load_libtiff:
            # Pillow reads only 8 bits of each sample.
            order = "L" if self.tag_v2.prefix == b"II" else "B"
            self.tile = [
                tile._replace(args=(f"{args[0]};16{order}", *args[1:])) if len(args[0]) == 1 else tile
                for tile, args in ((tile, cast(tuple, tile.args)) for tile in self.tile)
            ]

    def load_end(self) -> None:
        self._size = self._tile_size  # Pillow would rotate the image here

    def picture(self) -> Picture:
        is_signed = SIGNED in self.tag_v2.get(SAMPLEFORMAT, ())
        if self._bits == 8 and is_signed:
            raise ImageError("it is a TIFF of signed bytes, which is not supported")
        return Picture(
            self,
            _orientation(self),
            white={12: 4095, 16: 32767 if is_signed else 65535}.get(self._bits, 65535),
            dimmest=256 if self._bits == 32 else 0,
            white_is_zero=self._white_is_zero,
            zero_alpha_is_none=EXTRASAMPLES not in self.tag_v2,
        )


def _not_identified(data: bytes) -> str:
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:  # the type box of ISO/IEC 14496-12
        return f"HEIC images need pillow-heif: {INSTALL_HEIF}"
    for signature, name in SIGNATURES.items():
        if data.startswith(signature):
            return f"a damaged {name} file, or one of a kind that is not read"
    return "not an image of a format that is read"
