"""Images in memory, arrays and PIL images, treated like files."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pipeline.core.errors import ImageError, RequestError
from pipeline.data.decoding import rgb_pixels
from pipeline.data.images import ImageRef, ImageSet, content_digest


@dataclass(frozen=True, slots=True, eq=False)
class PixelsRef(ImageRef):
    """An image in memory.

    Attributes:
        pixels: RGB, shape (height, width, 3), uint8.
    """

    pixels: Any = None

    @property
    def is_file(self) -> bool:
        """False: the image is in memory."""
        return False

    def read(self) -> tuple[bytes, str | None]:
        """The content of a file with these pixels; see `ImageRef.read`."""
        return as_file(self.pixels), None


def as_file(pixels: np.ndarray) -> bytes:
    """Encode pixels as a PPM file (https://netpbm.sourceforge.net/doc/ppm.html), with the same bytes everywhere."""
    height, width, _ = pixels.shape
    return b"P6 %d %d 255\n" % (width, height) + pixels.tobytes()


def images_in_memory(images: Iterable[np.ndarray | Image.Image], resize: str = "squash") -> ImageSet:
    """Make a set of images in memory, in the same order.

    The feature store identifies them by their pixels. EXIF orientation, transparency and other modes of PIL images are
    treated as in files.

    Args:
        images: RGB arrays, shape (height, width, 3), uint8, or PIL images.
        resize: How they will be resized; see `rgb_pixels`.

    Raises:
        RequestError: An image has another shape or dtype, or cannot be loaded.
    """
    refs = []
    for number, image in enumerate(images):
        pixels = _pixels(image, f"image {number}", resize)
        refs.append(PixelsRef(f"memory:{number}", content_digest(as_file(pixels)), pixels=pixels))
    paths = [f"image {number}" for number in range(len(refs))]
    return ImageSet("these images", paths, refs, [""] * len(refs))


def _pixels(image: Any, name: str, resize: str) -> np.ndarray:
    if isinstance(image, Image.Image):
        try:
            return rgb_pixels(image, resize)
        except ImageError as error:
            raise RequestError(f"{name} cannot be read: {error}.") from error
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise RequestError(
            f"{name} is an array of shape {pixels.shape}, {pixels.dtype}; arrays must be RGB of shape "
            "(height, width, 3) and dtype uint8, from 0 to 255."
        )
    return pixels
