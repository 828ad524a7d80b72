"""Conversion of pictures of any mode to 8-bit RGB, band by band, so that a large one is not in memory twice."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from pipeline.core.errors import ImageError
from pipeline.data.image_files import Picture

BAND_PIXELS = 2**20  # pixels per band, at up to 20 bytes per pixel; smaller images are one band
# EXIF orientation (JEITA CP-3451, section 4.6.4) -> the operation that turns the image upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS, FROM_THE_END = (5, 6, 7, 8), (3, 4, 7, 8)  # rows are stored as columns; the first row or column comes last
# How far samples of a float image may be outside the range from black to white, as a share of white: resampling may
# overshoot.
OVERSHOOT = 0.1
DIMMEST = 16.0  # floats with at least this maximum are interpreted as 0..255


def turned(picture: Picture) -> Image.Image:
    """The image of a picture, turned upright, in its own mode."""
    turn = TURNS.get(picture.orientation)
    return picture.image if turn is None else picture.image.transpose(turn)


def upright_size(picture: Picture) -> tuple[int, int]:
    """Width and height of the upright picture, in pixels."""
    width, height = picture.image.size
    return (height, width) if picture.orientation in SIDEWAYS else (width, height)


def rgb_bands(picture: Picture) -> Iterator[Image.Image]:
    """The bands of a picture in RGB, turned upright, from top to bottom.

    Args:
        picture: A picture; this loads its image.

    Yields:
        Images of mode RGB, as wide as the upright picture; their heights add up to its height.

    Raises:
        ImageError: Its samples cannot be interpreted as levels from black to white.
    """
    picture.image.load()
    to_rgb = _Converter(picture)
    width, height = upright_size(picture)
    if to_rgb.is_needless and picture.orientation not in TURNS:
        yield picture.image
        return
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        band = to_rgb(_stored_rows(picture, top, min(top + rows, height)))
        yield band.transpose(TURNS[picture.orientation]) if picture.orientation in TURNS else band


def _stored_rows(picture: Picture, top: int, bottom: int) -> Image.Image:
    """The part of the stored image that contains these rows of the upright picture."""
    width, height = picture.image.size
    length = width if picture.orientation in SIDEWAYS else height
    if bottom - top == length:
        return picture.image
    if picture.orientation in FROM_THE_END:
        top, bottom = length - bottom, length - top
    box = (top, 0, bottom, height) if picture.orientation in SIDEWAYS else (0, top, width, bottom)
    return picture.image.crop(box)


class _Converter:
    """Converts parts of a picture to RGB, depending on the samples of the whole picture."""

    def __init__(self, picture: Picture) -> None:
        image = picture.image
        self._picture, self._transparent = picture, image.info.get("transparency")
        self._is_deep = image.mode == "F" or image.mode.startswith("I")
        self._white = _white(picture) if self._is_deep else 255
        palette_has_alpha = image.palette is not None and image.palette.mode.endswith("A")
        self._has_alpha = picture.has_alpha and (
            self._transparent is not None or image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or palette_has_alpha
        )
        if self._has_alpha and picture.zero_alpha_is_none and image.mode == "RGBA":
            self._has_alpha = image.getchannel("A").getextrema() != (0, 0)

    @property
    def is_needless(self) -> bool:
        """Whether the picture is already RGB."""
        return self._picture.image.mode == "RGB" and not self._has_alpha

    def __call__(self, part: Image.Image) -> Image.Image:
        if self._is_deep:
            return self._grey(np.asarray(part)).convert("RGB")
        if not self._has_alpha:
            return part.convert("RGB")
        if part.mode == "La":
            part = part.convert("LA")
        part = part.convert("RGBA")
        white = Image.new("RGBA", part.size, "white")
        return Image.alpha_composite(white, part).convert("RGB")

    def _grey(self, values: np.ndarray) -> Image.Image:
        """Convert grey of more than 8 bits, shape (height, width), to 8 bits."""
        levels = np.multiply(values, 255 / self._white, dtype=np.float64)
        levels = np.clip(np.rint(levels, out=levels), 0, 255, out=levels).astype(np.uint8)
        if self._picture.white_is_zero:
            levels = 255 - levels
        if self._picture.image.mode != "F" and isinstance(self._transparent, int):
            levels[values == self._transparent] = 255
        return Image.fromarray(levels)


def _white(picture: Picture) -> float:
    """The value of white in grey of more than 8 bits.

    Integers range from 0 to `Picture.white`; floats from 0 to 1 or from 0 to 255, depending on their maximum.

    Raises:
        ImageError: Values are out of range or NaN, or the range is ambiguous.
    """
    low, high = _range(picture.image)
    if not np.isfinite([low, high]).all():
        raise ImageError("the image contains NaN or infinite values")
    if picture.image.mode != "F":
        if low < 0 or high > picture.white:
            raise ImageError(
                f"its levels are from {low:,.0f} to {high:,.0f}; integers are read from 0 to {picture.white:,}"
            )
        if 0 < high < picture.dimmest:
            raise ImageError(f"its levels are at most {high:,.0f}: integers of 32 bits may be meant as 8 bits or as 16")
        return picture.white
    white = 1.0 if high <= 1 + OVERSHOOT else 255.0
    if low < -OVERSHOOT * white or high > (1 + OVERSHOOT) * white or 1 + OVERSHOOT < high < DIMMEST:
        raise ImageError(
            f"its levels are floats from {low:.4g} to {high:.4g}; floats are read from 0 to 1, or from 0 to 255 if "
            f"they reach {DIMMEST:.0f}"
        )
    return white


def _range(image: Image.Image) -> tuple[float, float]:
    """The lowest and highest value of a single-channel image; NaN if it contains NaN."""
    rows = max(1, BAND_PIXELS // image.width)
    ranges = []
    for top in range(0, image.height, rows):
        values = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        ranges.append((values.min().item(), values.max().item()))
    return float(np.min(ranges)), float(np.max(ranges))
