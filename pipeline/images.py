"""Images: a set of them, and how the bytes of one become 224 x 224 x 3 pixels."""

import contextlib
import dataclasses
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import ImageError
from pipeline.fileindex import Stamp

SIDE = 224
THUMBNAIL = 24
# The whole picture is resized to SIDE x SIDE, its aspect ratio given up, by Pillow's antialiased bilinear filter.
RESIZE = "squash-bilinear"
# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size (by its DCT coefficients, several times faster) where at least this
# many times SIDE remain each way. Resized, no pixel of our test pictures then differs by more than 2 of 255 levels from
# the full decode; with 3 times, differences of 36 were seen.
REDUCED_AT_LEAST = 4

MAX_BYTES = 2**30
MAX_PIXELS = 178_956_970  # half a gigabyte in RGB; what Pillow allows by itself

Used = TypeVar("Used")

# A pipe must not be waited for; on Windows there are none, but text files.
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class ImageSet:
    """Images in path order, and what a list says of them.

    Attributes:
        source: What the images were asked for by: the path of a folder or a list, or `tfds:...`.
        paths: Their names: paths relative to the folder (or to the list's folder), with "/", sorted; or TFDS ids.
        files: Where each one lies on disk, or in a data set.
        labels: Their labels: the list's, or the name of the folder that holds the image, "" for one at the top.
        groups: Their groups, or None.
        splits: The side of the split that each belongs to, in the list's own words, or None.
        targets: Their target embeddings, shape (N, D), float32, or None.
    """

    source: str
    paths: Sequence[str]
    files: Sequence["Path | Record"]
    labels: Sequence[str]
    groups: Sequence[str] | None = None
    splits: Sequence[str] | None = None
    targets: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: Sequence[int]) -> "ImageSet":
        """Some of the images, by row number."""
        columns = ("paths", "files", "labels", "groups", "splits")
        chosen = {
            name: [getattr(self, name)[row] for row in rows] for name in columns if getattr(self, name) is not None
        }
        return dataclasses.replace(self, **chosen, targets=None if self.targets is None else self.targets[list(rows)])


@dataclass(frozen=True)
class Record:
    """An image that lies in a data set rather than in a file of its own.

    Attributes:
        digest: Its content digest.
        read: Gives its content, the bytes of an image file.
    """

    digest: str
    read: Callable[[], bytes]


def as_text(path: str) -> str:
    """A path as text that any format can hold: bytes that are no UTF-8 appear escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def digest(data: bytes) -> str:
    """The content digest by which the feature store knows an image: BLAKE2b, 128 bits, 32 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def read(file: Path) -> tuple[bytes, Stamp]:
    """Read an image file.

    Returns:
        Its content, and its stamp from before it was read.

    Raises:
        ImageError: It is no regular file (a pipe would wait for ever), is empty or larger than MAX_BYTES, or cannot be
            read.
    """
    try:
        with open(os.open(file, OPEN_FLAGS), "rb") as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("not a regular file")
            if status.st_size > MAX_BYTES:
                raise ImageError(f"the file is larger than {MAX_BYTES:,} bytes")
            data = opened.read()
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error
    if not data:
        raise ImageError("the file is empty")
    return data, Stamp.of(status)


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Turn the bytes of an image file into pixels.

    EXIF orientation is applied. Large JPEGs are decoded at reduced scale (see REDUCED_AT_LEAST). Of several frames the
    first is taken. Transparency is laid on white. 16-bit and wider integer greys are scaled from 0..65535; float
    pictures from 0..1, or from 0..255 where a value exceeds 1.

    Args:
        data: The content of an image file of any format that Pillow reads.
        max_pixels: How many pixels it may unpack to.

    Returns:
        RGB pixels, shape (224, 224, 3), uint8, resized by the rule RESIZE.

    Raises:
        ImageError: The bytes are no image, are damaged or cut short, or unpack to more pixels than are allowed.
    """

    def resized(picture: Image.Image) -> np.ndarray:
        return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))

    return _opened(data, resized, max_pixels)


def preview(data: bytes, side: int) -> bytes:
    """A small version of an image for people to look at, its aspect ratio kept.

    Args:
        data: The content of an image file.
        side: The longer side, in pixels; a smaller picture keeps its size.

    Returns:
        The content of a JPEG file.

    Raises:
        ImageError: As `decode`.
    """

    def shrunk(picture: Image.Image) -> bytes:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        written = io.BytesIO()
        picture.save(written, "JPEG", quality=80)
        return written.getvalue()

    return _opened(data, shrunk, MAX_PIXELS)


@contextlib.contextmanager
def _at_most(pixels: int) -> Iterator[None]:
    """Let Pillow refuse what unpacks to more pixels; its other warnings are of odd metadata, which touch no pixel."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"it unpacks to more than {pixels:,} pixels, the limit of --max-pixels") from error
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _opened(data: bytes, use: Callable[[Image.Image], Used], max_pixels: int) -> Used:
    """What can be made of a picture, upright and in RGB; whatever a damaged one makes Pillow raise is an ImageError."""
    try:
        with _at_most(max_pixels), Image.open(io.BytesIO(data)) as opened:
            opened.draft(opened.mode, (REDUCED_AT_LEAST * SIDE, REDUCED_AT_LEAST * SIDE))
            return use(_to_rgb(ImageOps.exif_transpose(opened)))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not an image of a format that Pillow reads") from error
    except Exception as error:  # Pillow's parsers raise whatever a damaged file makes them stumble on
        raise ImageError(str(error) or type(error).__name__) from error


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """A small grey version of an image, by which copies are found.

    Args:
        pixels: RGB, shape (224, 224, 3), uint8.

    Returns:
        Grey, shape (THUMBNAIL, THUMBNAIL), uint8.
    """
    grey = Image.fromarray(pixels).convert("L")
    return np.asarray(grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR))


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Convert any of Pillow's modes to RGB."""
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _grey(np.asarray(picture)).convert("RGB")
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _grey(values: np.ndarray) -> Image.Image:
    """Grey values wider than 8 bits, shape (height, width), as an 8-bit picture."""
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ImageError("the picture holds values that are not finite numbers")
        scale = 255 if values.max(initial=0) <= 1 else 1
    else:
        scale = 255 / 65535
    return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))
