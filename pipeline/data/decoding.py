"""Decoding: the bytes of an image file -> 224 x 224 x 3 pixels, a thumbnail, or a preview."""

import io

import numpy as np
from PIL import Image

from pipeline.core.errors import ImageError, first_line
from pipeline.data.image_files import Picture, open_picture, picture_in_memory
from pipeline.data.options import MAX_PIXELS
from pipeline.data.rgb import rgb_bands, turned, upright_size

SIDE = 224
THUMBNAIL = 24
# Ways to resize an image to SIDE x SIDE pixels, with their names in fingerprints. "squash" applies Pillow's antialiased
# bilinear filter to the whole image and ignores its aspect ratio; "keras" takes the nearest pixel, the default of
# Keras's `load_img`; "crop" resizes the shorter side to CROPPED_FROM and takes the centre, as VGG was tested (Simonyan
# and Zisserman 2014); "squash-bicubic" is "squash" with the bicubic filter and without decoding JPEGs at reduced scale,
# as scripts around Caffe do (https://github.com/KamitaniLab/brain-decoding-cookbook-public/pull/15).
RESIZES = {
    "squash": "squash-bilinear",
    "crop": "crop-bilinear",
    "keras": "squash-nearest",
    "squash-bicubic": "squash-bicubic",
}
CROPPED_FROM = 256
# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size (from its DCT coefficients, several times faster) if both sides keep
# at least this multiple of SIDE. After resizing, no pixel of our test images differs by more than 2 of 255 levels from
# the full decode; with a multiple of 3, we saw differences of 36.
REDUCED_AT_LEAST = 4


def decode(data: bytes, max_pixels: int = MAX_PIXELS, resize: str = "squash") -> np.ndarray:
    """Decode an image file to VGG16's input size.

    EXIF orientation is applied, or XMP's if EXIF has none. Large JPEGs are decoded at reduced scale (see
    REDUCED_AT_LEAST). The first of several frames is used. Transparency is blended with white. Grey of more than 8 bits
    is scaled from 0..65535 (12-bit grey from 0..4095), floats from 0..1 or 0..255, depending on their maximum (see
    `pipeline.data.rgb`). Colour profiles are ignored.

    Args:
        data: The content of an image file, in one of `pipeline.data.image_files.FORMATS`.
        max_pixels: The largest size to decode, in pixels.
        resize: A key of RESIZES.

    Returns:
        RGB pixels, shape (224, 224, 3), uint8.

    Raises:
        ImageError: The bytes are not an image, are damaged or truncated, have more pixels than allowed, or samples
            outside the range from black to white.
    """
    with open_picture(data, max_pixels) as picture:
        return np.asarray(_resize_square(picture, resize))


def decode_with_thumbnail(
    data: bytes, max_pixels: int = MAX_PIXELS, resize: str = "squash"
) -> tuple[np.ndarray, np.ndarray, int]:
    """Decode an image file to everything that the feature store needs.

    Args:
        data: See `decode`.
        max_pixels: See `decode`.
        resize: See `decode`.

    Returns:
        The pixels, see `decode`; the thumbnail, see `thumbnail`; the number of pixels of the image.

    Raises:
        ImageError: See `decode`.
    """

    with open_picture(data, max_pixels) as picture:
        pixel_count = picture.image.width * picture.image.height
        square = _resize_square(picture, resize)
        return np.asarray(square), _shrink_grey(square), pixel_count


def _resize_square(picture: Picture, resize: str) -> Image.Image:
    """Resize a picture to VGG16's input."""
    if resize == "keras":  # ignores transparency, and orientation except in TIFFs, where Pillow applies it itself
        image = turned(picture) if picture.image.format == "TIFF" else picture.image
        return image.resize((SIDE, SIDE), Image.Resampling.NEAREST).convert("RGB")
    if resize != "squash-bicubic":
        picture.image.draft(picture.image.mode, (REDUCED_AT_LEAST * SIDE, REDUCED_AT_LEAST * SIDE))
    picture.image.load()
    size = upright_size(picture)
    box = _centre(*size) if resize == "crop" else (0, 0, *size)
    resampling = Image.Resampling.BICUBIC if resize == "squash-bicubic" else Image.Resampling.BILINEAR
    return _resize_part(picture, (SIDE, SIDE), resampling, box)


def _resize_part(
    picture: Picture, size: tuple[int, int], resampling: Image.Resampling, box: tuple[float, float, float, float]
) -> Image.Image:
    """Crop and resize a picture, upright and in RGB.

    Pillow resizes rows first, then columns, so resizing by bands gives the same pixels. Pictures narrower than
    `size` are the exception: Pillow resizes their columns first, and levels may differ by 1.
    """
    height, (left, upper, right, lower) = upright_size(picture)[1], box
    narrow = Image.new("RGB", (size[0], height))
    top = 0
    for band in rgb_bands(picture):
        if band.height == height:
            return band.resize(size, resampling, box)
        narrow.paste(band.resize((size[0], band.height), resampling, (left, 0, right, band.height)), (0, top))
        top += band.height
    return narrow.resize(size, resampling, (0, upper, size[0], lower))


def _centre(width: int, height: int) -> tuple[float, float, float, float]:
    """The central crop, SIDE pixels wide if the shorter side is CROPPED_FROM: left, upper, right, lower border."""
    part = min(width, height) * SIDE / CROPPED_FROM
    left, upper = (width - part) / 2, (height - part) / 2
    return left, upper, left + part, upper + part


def preview(data: bytes, side: int) -> bytes:
    """A small version of an image, for display; the aspect ratio is kept.

    Args:
        data: The content of an image file.
        side: The longer side, in pixels; a smaller image keeps its size.

    Returns:
        The content of a JPEG file.

    Raises:
        ImageError: See `decode`.
    """

    with open_picture(data, MAX_PIXELS) as picture:
        picture.image.draft(picture.image.mode, (REDUCED_AT_LEAST * SIDE, REDUCED_AT_LEAST * SIDE))
        picture.image.load()
        width, height = upright_size(picture)
        scale = min(side / max(width, height), 1)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        jpeg = io.BytesIO()
        _resize_part(picture, size, Image.Resampling.LANCZOS, (0, 0, width, height)).save(jpeg, "JPEG", quality=80)
        return jpeg.getvalue()


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """A small grey version of an image, for the detection of near-duplicates.

    Args:
        pixels: RGB, shape (224, 224, 3), uint8.

    Returns:
        Grey, shape (THUMBNAIL, THUMBNAIL), uint8.
    """
    return _shrink_grey(Image.fromarray(pixels))


def _shrink_grey(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR))


def rgb_pixels(image: Image.Image, resize: str = "squash") -> np.ndarray:
    """The pixels of an image at its own size, with orientation, transparency and modes treated as in `decode`.

    Args:
        image: An image, which is not changed.
        resize: How it will be resized, a key of RESIZES; "keras" ignores orientation and transparency.

    Returns:
        RGB, shape (height, width, 3), uint8.

    Raises:
        ImageError: The image cannot be loaded, or has samples outside the range from black to white.
    """
    try:
        image.load()
        if resize == "keras":
            return np.asarray(image.convert("RGB"))
        return np.concatenate([np.asarray(band) for band in rgb_bands(picture_in_memory(image))])
    except ImageError:
        raise
    except Exception as error:  # Pillow's parsers raise many types for damaged files
        raise ImageError(first_line(error)) from error
