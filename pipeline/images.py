"""Images: where they come from, and how the bytes of one become 224 x 224 x 3 pixels."""

import csv
import dataclasses
import hashlib
import io
import json
import logging
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import ImageError, RequestError
from pipeline.fileindex import Stamp

log = logging.getLogger(__name__)

SIDE = 224
THUMBNAIL = 24
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
COLUMNS = ("path", "label", "split", "group", "target")


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


def find_images(source: str | Path, data_dir: Path | None = None) -> ImageSet:
    """Find the images of a folder (recursively), of a list, or of a TensorFlow data set.

    Args:
        source: A folder; or a list, whose paths are relative to the list's own folder and stay inside it: a `.txt` (a
            path a line), or a `.csv` or `.parquet` with a column `path` and, where there, `label`, `split`, `group` and
            `target` (lists of numbers); or `tfds:NAME[/CONFIG]:SPLIT`. Names that begin with a dot are passed over.
        data_dir: Where tensorflow-datasets keeps its data; None for its own default.

    Returns:
        The images in path order, each path once.

    Raises:
        RequestError: There is no such folder, list or data set, it names no image, a path leaves the list's folder, or
            a list gives one image two different labels, groups, splits or targets.
    """
    if str(source).startswith("tfds:"):
        from pipeline.tfds import find_records

        return find_records(str(source), data_dir)
    root = Path(source)
    if root.is_dir():
        paths = sorted(_walk(root))
        if not paths:
            raise RequestError(f"{source}: no images in this folder or below (looked for {_suffix_list()}).")
        return _image_set(source, root, paths, [None] * len(paths))
    if root.suffix.lower() in LISTS and root.is_file():
        return _listed_images(root)
    if not root.exists():
        raise RequestError(
            f"{source}: no such folder or list. IMAGES is a folder of images, a {_list_kinds()} list, or "
            "tfds:NAME[/CONFIG]:SPLIT."
        )
    raise RequestError(f"{source}: neither a folder nor a {_list_kinds()} list of images.")


def _image_set(source: str | Path, root: Path, paths: list[str], labels: list[str | None], **columns) -> ImageSet:
    texts = [as_text(path) for path in paths]
    escaped = [text for text, path in zip(texts, paths, strict=True) if text != path]
    if escaped:
        log.warning("Bytes that are no UTF-8 appear escaped in %d of %d names, as in %s.",
                    len(escaped), len(texts), escaped[0])  # fmt: skip
    own = [PurePosixPath(path).parent.name for path in texts]
    labels = [name if label is None else label for label, name in zip(labels, own, strict=True)]
    return ImageSet(str(source), texts, [root / path for path in paths], labels, **columns)


def as_text(path: str) -> str:
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


def _listed_images(file: Path) -> ImageSet:
    """The images of a list, with what its other columns say."""
    rows: dict[str, dict] = {}
    for number, row in enumerate(_listed(file)):
        path = _inside(row.pop("path"), file)
        known = rows.setdefault(path, row)
        if known != row:
            raise RequestError(
                f"{file}, entry {number + 1}: {path!r} is listed before with another {_differing(known, row)}."
            )
    if not rows:
        raise RequestError(f"{file}: this list names no images.")
    paths = sorted(rows)
    columns = {name: [rows[path].get(name) for path in paths] for name in ("label", "group", "split", "target")}
    optional = {
        f"{name}s": values
        for name, values in columns.items()
        if name != "label" and any(value is not None for value in values)
    }
    if "targets" in optional:
        optional["targets"] = _stacked(file, paths, optional["targets"])
    return _image_set(file, file.parent, paths, columns["label"], **optional)


def _differing(known: dict, row: dict) -> str:
    return next(name for name in COLUMNS if known.get(name) != row.get(name))


def _listed(file: Path) -> Iterator[dict]:
    """The entries of a list, in its order: "path" and those of the other columns that it has."""
    try:
        if file.suffix.lower() == ".parquet":
            import pyarrow.parquet

            table = pyarrow.parquet.read_table(file)
            rows = table.select([name for name in table.column_names if name in COLUMNS]).to_pylist()
        else:
            with open(file, newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
                if file.suffix.lower() == ".txt":
                    rows = [{"path": line} for line in lines.read().splitlines() if line.strip()]
                else:
                    rows = list(csv.DictReader(lines, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise RequestError(f"{file}: cannot be read as a list of images ({error}).") from error
    if rows and "path" not in rows[0]:
        raise RequestError(f"{file}: this list has no column 'path' (it has {', '.join(map(repr, rows[0]))}).")
    for number, row in enumerate(rows):
        entry = {name: row[name] for name in COLUMNS if row.get(name) is not None}
        for name in ("label", "group", "split"):
            if name in entry:
                entry[name] = as_text(str(entry[name]))
        if isinstance(entry.get("target"), str):
            entry["target"] = _numbers(file, number, entry["target"])
        yield {"path": None, **entry}


def _numbers(file: Path, number: int, text: str) -> list[float]:
    try:
        return [float(value) for value in json.loads(text)]
    except (ValueError, TypeError) as error:
        raise RequestError(f"{file}, entry {number + 1}: the target is no list of numbers like [0.5, 1.25].") from error


def _stacked(file: Path, paths: list[str], targets: list) -> np.ndarray:
    """The targets of a list as one array."""
    rows = []
    for path, target in zip(paths, targets, strict=True):
        try:
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
                rows.append(np.array([] if target is None else target, np.float32))
        except (TypeError, ValueError) as error:
            raise RequestError(f"{file}: the target of {path!r} is no list of numbers.") from error
        if rows[-1].ndim != 1 or not rows[-1].size or rows[-1].shape != rows[0].shape:
            given = f"a target of {rows[-1].size} numbers" if rows[-1].size else "no target"
            raise RequestError(f"{file}: {path!r} has {given}, but {paths[0]!r} one of {rows[0].size}.")
        if not np.isfinite(rows[-1]).all():
            raise RequestError(f"{file}: the target of {path!r} holds NaN, infinite or too large values.")
    return np.stack(rows)


def _inside(path: object, file: Path) -> str:
    """A listed path, normalised; refused where it leads out of the list's folder."""
    if not isinstance(path, str | None) or "\0" in (path or ""):
        raise RequestError(f"{file}: {path!r} is no path; is this a list in UTF-8?")
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
