"""Images: where they come from, and how the bytes of one become 224 x 224 x 3 pixels."""

import csv
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import ImageError, RequestError
from pipeline.fileindex import Stamp

SIDE = 224
# The whole picture is resized to SIDE x SIDE, its aspect ratio given up, by Pillow's antialiased bilinear filter.
RESIZE = "squash-bilinear"
# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size (by its DCT coefficients, several times faster) where at least this
# many times SIDE remain each way. Resized, no pixel of our test pictures then differs by more than 2 of 255 levels from
# the full decode; with 3 times, differences of 36 were seen.
REDUCED_AT_LEAST = 4

SUFFIXES = (
    *(".avif", ".bmp", ".dib", ".gif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
# A pipe must not be waited for; on Windows there are none, but text files.
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
LISTS = (".txt", ".csv", ".parquet")


@dataclass(frozen=True)
class ImageSet:
    """Images in path order.

    Attributes:
        source: What the images were asked for by: the path of a folder or a list.
        paths: Their names: paths relative to the folder (or to the list's folder), with "/", sorted.
        files: Where each one lies on disk.
    """

    source: str
    paths: Sequence[str]
    files: Sequence[Path]

    @property
    def labels(self) -> list[str]:
        """The label of each image: the name of the folder that holds it, "" for an image at the top."""
        return [PurePosixPath(path).parent.name for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)


def find_images(source: str | Path) -> ImageSet:
    """Find the images of a folder (recursively) or of a list.

    Args:
        source: A folder; or a `.txt` (a path a line), `.csv` or `.parquet` (column `path`) file, whose paths are
            relative to the list's own folder and stay inside it. Names that begin with a dot are passed over.

    Returns:
        The images in path order, each path once.

    Raises:
        RequestError: There is no such folder or list, it names no image, or a path leaves the list's folder.
    """
    root = Path(source)
    if root.is_dir():
        paths = sorted(_walk(root))
        if not paths:
            raise RequestError(f"{source}: no images in this folder or below (looked for {_suffix_list()}).")
    elif root.suffix.lower() in LISTS and root.is_file():
        paths = sorted({_inside(path, root) for path in _listed(root)})
        if not paths:
            raise RequestError(f"{source}: this list names no images.")
        root = root.parent
    elif not root.exists():
        raise RequestError(f"{source}: no such folder or list. IMAGES is a folder of images or a {_list_kinds()} list.")
    else:
        raise RequestError(f"{source}: neither a folder nor a {_list_kinds()} list of images.")
    return ImageSet(str(source), [_text(path) for path in paths], [root / path for path in paths])


def _text(path: str) -> str:
    """A path as text that any format can hold: bytes that are no UTF-8 appear escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _suffix_list() -> str:
    return " ".join(SUFFIXES)


def _list_kinds() -> str:
    return ", ".join(LISTS)


def _walk(root: Path) -> Iterator[str]:
    """The images below a folder, relative to it; links are followed, a folder that links lead back to is not."""
    seen = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


def _listed(file: Path) -> list[str]:
    """The paths that a list names, in its order."""
    try:
        if file.suffix.lower() == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(file, columns=["path"])["path"].to_pylist()
        with open(file, newline="", encoding="utf-8-sig") as lines:
            if file.suffix.lower() == ".csv":
                return [row["path"] for row in csv.DictReader(lines)]
            return [line for line in lines.read().splitlines() if line.strip()]
    except KeyError as error:
        raise RequestError(f"{file}: this list has no column 'path'.") from error
    except (OSError, ValueError, csv.Error) as error:
        raise RequestError(f"{file}: cannot be read as a list of images ({error}).") from error


def _inside(path: str | None, file: Path) -> str:
    """A listed path, normalised; refused where it leads out of the list's folder."""
    plain = PurePosixPath(os.path.normpath(path)) if path else PurePosixPath()
    if not path or plain.is_absolute() or plain.parts[:1] == ("..",) or plain == PurePosixPath("."):
        raise RequestError(f"{file}: the path {path!r} does not lie in the list's folder; make it relative to it.")
    return plain.as_posix()


def digest(data: bytes) -> str:
    """The content digest by which the feature store knows an image: BLAKE2b, 128 bits, 32 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def read(file: Path) -> tuple[bytes, Stamp]:
    """Read an image file.

    Returns:
        Its content, and its stamp from before it was read.

    Raises:
        ImageError: It is no regular file (a pipe would wait for ever), is empty, or cannot be read.
    """
    try:
        with open(os.open(file, OPEN_FLAGS), "rb") as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("not a regular file")
            data = opened.read()
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error
    if not data:
        raise ImageError("the file is empty")
    return data, Stamp.of(status)


def decode(data: bytes) -> np.ndarray:
    """Turn the bytes of an image file into pixels.

    EXIF orientation is applied. Large JPEGs are decoded at reduced scale (see REDUCED_AT_LEAST). Of several frames the
    first is taken. Transparency is laid on white. 16-bit and wider integer greys are scaled from 0..65535; float
    pictures from 0..1, or from 0..255 where a value exceeds 1.

    Args:
        data: The content of an image file of any format that Pillow reads.

    Returns:
        RGB pixels, shape (224, 224, 3), uint8, resized by the rule RESIZE.

    Raises:
        ImageError: The bytes are no image, are damaged or cut short, or unpack to more pixels than Pillow allows.
    """
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as opened:
            warnings.simplefilter("ignore")  # of odd metadata, which does not touch the pixels
            opened.draft(opened.mode, (REDUCED_AT_LEAST * SIDE, REDUCED_AT_LEAST * SIDE))
            picture = _to_rgb(ImageOps.exif_transpose(opened))
            return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not an image of a format that Pillow reads") from error
    except Exception as error:  # Pillow's parsers raise whatever a damaged file makes them stumble on
        raise ImageError(str(error) or type(error).__name__) from error


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
