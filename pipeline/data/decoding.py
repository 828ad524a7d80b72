"""Decoding: the bytes of an image file -> 224 x 224 x 3 pixels, a thumbnail, or a preview for people."""

import io
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.core.errors import ImageError, first_line

SIDE = 224
THUMBNAIL = 24
# How an image becomes SIDE x SIDE pixels, and what fingerprints call it. "squash": Pillow's antialiased bilinear filter
# on the whole image, whose aspect ratio is not kept; "keras" is the default of Keras's `load_img`, the nearest pixel;
# "crop" resizes the shorter side to CROPPED_FROM and takes the centre, as VGG was tested (Simonyan and Zisserman 2014).
RESIZES = {"squash": "squash-bilinear", "keras": "squash-nearest", "crop": "crop-bilinear"}
CROPPED_FROM = 256
# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size (by its DCT coefficients, several times faster) where at least this
# many times SIDE remain each way. After resizing, no pixel of our test images then differs by more than 2 of 255 levels
# from the full decode; with 3 times, differences of 36 were seen.
REDUCED_AT_LEAST = 4

MAX_PIXELS = 178_956_970  # half a gigabyte in RGB; Pillow's own limit

# iPhones' HEIC is read where the extra `heic` is installed.
READS_HEIF = find_spec("pillow_heif") is not None
INSTALL_HEIF = "pip install 'image-vectors[heic]'"
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
if READS_HEIF:
    from pillow_heif import register_heif_opener

    register_heif_opener()

Result = TypeVar("Result")


def decode(data: bytes, max_pixels: int = MAX_PIXELS, resize: str = "squash") -> np.ndarray:
    """Decode an image file to the pixels that VGG16 takes.

    EXIF orientation is applied. Large JPEGs are decoded at reduced scale (see REDUCED_AT_LEAST). Of several frames the
    first is taken. Transparency is blended with white. 16-bit and wider integer greys are scaled from 0..65535; float
    images from 0..1, or from 0..255 where a value exceeds 1.

    Args:
        data: The content of an image file of any format that Pillow reads.
        max_pixels: The largest size to decode, in pixels. Above Pillow's own `Image.MAX_IMAGE_PIXELS`, that limit has
            to be raised too.
        resize: How to resize, a key of RESIZES.

    Returns:
        RGB pixels, shape (224, 224, 3), uint8.

    Raises:
        ImageError: The bytes are not an image, are damaged or cut short, or have more pixels than allowed.
    """
    return _opened(data, lambda image: np.asarray(_square(image, max_pixels, resize)))


def decode_with_thumbnail(
    data: bytes, max_pixels: int = MAX_PIXELS, resize: str = "squash"
) -> tuple[np.ndarray, np.ndarray, int]:
    """Decode an image file to all that the feature store needs of it.

    Args:
        data: See `decode`.
        max_pixels: See `decode`.
        resize: See `decode`.

    Returns:
        The pixels, as `decode`; the thumbnail, as `thumbnail`; the size of the image in pixels, width times height.

    Raises:
        ImageError: As `decode`.
    """

    def decoded(image: Image.Image) -> tuple[np.ndarray, np.ndarray, int]:
        pixel_count = image.width * image.height
        square = _square(image, max_pixels, resize)
        return np.asarray(square), _shrunk_grey(square), pixel_count

    return _opened(data, decoded)


def _square(image: Image.Image, max_pixels: int, resize: str) -> Image.Image:
    """An image as VGG16 sees it."""
    _check_size(image, max_pixels)
    if resize == "keras":  # which knows neither orientation nor transparency
        return image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
    image.draft(image.mode, (REDUCED_AT_LEAST * SIDE, REDUCED_AT_LEAST * SIDE))
    upright = _upright(image)
    return upright.resize((SIDE, SIDE), Image.Resampling.BILINEAR, _centre(upright) if resize == "crop" else None)


def _centre(image: Image.Image) -> tuple[float, float, float, float]:
    """The centre that is SIDE pixels wide once the shorter side is CROPPED_FROM: left, upper, right, lower border."""
    part = min(image.size) * SIDE / CROPPED_FROM
    left, upper = (image.width - part) / 2, (image.height - part) / 2
    return left, upper, left + part, upper + part


def too_large(pixels: int, max_pixels: int) -> str:
    """Say that an image is too large.

    Args:
        pixels: Its size, in pixels.
        max_pixels: The largest size allowed.
    """
    return f"it has {pixels:,} pixels, more than max_pixels={max_pixels}"


def preview(data: bytes, side: int) -> bytes:
    """A small version of an image for people to look at; the aspect ratio is kept.

    Args:
        data: The content of an image file.
        side: The longer side, in pixels; a smaller image keeps its size.

    Returns:
        The content of a JPEG file.

    Raises:
        ImageError: As `decode`.
    """

    def shrunk(image: Image.Image) -> bytes:
        _check_size(image, MAX_PIXELS)
        image.draft(image.mode, (REDUCED_AT_LEAST * SIDE, REDUCED_AT_LEAST * SIDE))
        image = _upright(image)
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        written = io.BytesIO()
        image.save(written, "JPEG", quality=80)
        return written.getvalue()

    return _opened(data, shrunk)


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """A small grey version of an image, by which near-duplicates are found.

    Args:
        pixels: RGB, shape (224, 224, 3), uint8.

    Returns:
        Grey, shape (THUMBNAIL, THUMBNAIL), uint8.
    """
    return _shrunk_grey(Image.fromarray(pixels))


def _shrunk_grey(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR))


def _opened(data: bytes, use: Callable[[Image.Image], Result]) -> Result:
    """Apply `use` to an image as it is opened; anything a damaged file makes Pillow raise becomes an ImageError."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, which changes no pixel, and of large images, which are refused here.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as opened:
                return use(opened)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"it has more pixels than Pillow's limit, {2 * (Image.MAX_IMAGE_PIXELS or 0):,}") from error
    except UnidentifiedImageError as error:
        if _is_heif(data):
            raise ImageError(f"HEIC images need pillow-heif: {INSTALL_HEIF}") from error
        raise ImageError("not an image of a format that Pillow reads") from error
    except Exception as error:  # Pillow's parsers raise many types for damaged files
        raise ImageError(first_line(error)) from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise ImageError(too_large(image.width * image.height, max_pixels))


def rgb_pixels(image: Image.Image, resize: str = "squash") -> np.ndarray:
    """The pixels of an image in their own size, by the rules of `decode` for orientation, transparency and modes.

    Args:
        image: An image, which is left as it is.
        resize: How it will be resized, a key of RESIZES; "keras" knows neither orientation nor transparency.

    Returns:
        RGB, shape (height, width, 3), uint8.

    Raises:
        ImageError: The image cannot be loaded, or holds NaN or infinite values.
    """
    try:
        return np.asarray(image.convert("RGB") if resize == "keras" else _upright(image.copy()))
    except ImageError:
        raise
    except Exception as error:  # Pillow's parsers raise many types for damaged files
        raise ImageError(first_line(error)) from error


def _is_heif(data: bytes) -> bool:
    """Whether a file's type box (ISO/IEC 14496-12) names a brand of HEIF (ISO/IEC 23008-12)."""
    return data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS


def _upright(image: Image.Image) -> Image.Image:
    """An image in RGB, turned as its EXIF orientation says."""
    ImageOps.exif_transpose(image, in_place=True)  # without a copy where there is nothing to turn
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any of Pillow's modes to RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image  # `convert` would copy it
    if image.mode == "F" or image.mode.startswith("I"):
        return _grey(np.asarray(image)).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _grey(values: np.ndarray) -> Image.Image:
    """Grey values wider than 8 bits, shape (height, width), as an 8-bit image."""
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ImageError("the image holds NaN or infinite values")
        scale = 255.0 if values.max(initial=0) <= 1 else 1.0
    else:
        scale = 255 / 65535
    return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))
