"""Images in memory, as a source of the feature stage: the feature store knows them by their pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pipeline.core.errors import RequestError
from pipeline.data.decoding import upright
from pipeline.data.images import ImageRef, ImageSet, content_digest


@dataclass(frozen=True, slots=True)
class PixelRef(ImageRef):
    """An image in memory, which travels to the process that decodes it.

    Attributes:
        content: The image as a PPM file, whose bytes depend on the pixels alone.
    """

    content: bytes = b""

    @property
    def is_file(self) -> bool:
        """No."""
        return False

    def read(self) -> tuple[bytes, str | None]:
        """The content; there is no version, for it cannot change."""
        return self.content, None


def images_in_memory(images: Sequence[Any] | np.ndarray) -> ImageSet:
    """Make a set of images that are in memory.

    Args:
        images: `PIL.Image.Image`s, or arrays of RGB pixels, shape (H, W, 3), uint8.

    Returns:
        The images in the given order, named by their number.

    Raises:
        RequestError: One is neither.
    """
    refs = [_ref(number, image) for number, image in enumerate(images)]
    names = [str(number) for number in range(len(refs))]
    return ImageSet("X", names, refs, [""] * len(refs))


def _ref(number: int, image: Any) -> PixelRef:
    if isinstance(image, Image.Image):
        # A copy, for turning it upright would change the caller's.
        pixels = np.asarray(upright(image.copy() if image.getexif() else image))
    elif isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        pixels = image
    else:
        what = f"an array {image.shape} of {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise RequestError(f"Image {number} is {what}; give paths, PIL images, or uint8 arrays (height, width, 3).")
    content = b"P6\n%d %d\n255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes()
    return PixelRef(f"memory:{number}", content_digest(content), content)
