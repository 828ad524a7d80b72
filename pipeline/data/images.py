"""References to images, and sets of images with their labels, groups, splits and targets."""

import contextlib
import dataclasses
import errno
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.core.errors import ImageError, Parameter, PipelineError, cause
from pipeline.core.locations import is_bucket_url
from pipeline.core.regular_files import MAX_BYTES, open_regular
from pipeline.data.buckets import read_object

DIGEST = np.dtype("V16")  # dtype of an array of content digests
# A file that changes twice within one tick of the clock keeps its times, so a file younger than this has no version.
TICK_NS = 2_000_000_000
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # errors that affect every image
READ_AT_ONCE = 16  # objects read in parallel without workers
ODDLY_DECODED = (b"II*\0", b"II+\0", b"MM\0*", b"MM\0+", b"BM", b"\0\0\1\0", b"%!PS")  # TIFF, BMP, ICO; PostScript


@dataclass(frozen=True, slots=True)
class ImageRef:
    """The location of an image. It can be sent to another process or machine, which can then read the image.

    Attributes:
        uri: The absolute path of a file, or the URL of an object in a bucket (with its key unescaped), followed by
            `#NAME` for an image inside it; or `tfds:...#NUMBER` for an example of a TensorFlow data set; "" if only the
            name of the image is known.
        digest: The content digest, if the source knows it without reading the image again.
        listed: The version of an object when its bucket was listed; for an image inside a file or an object, the
            version of the file or object when it was opened.
    """

    uri: str
    digest: bytes | None = None
    listed: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether the image is a file or an object in a bucket, not an example in a data set."""
        return not self.uri.startswith("tfds:")

    @property
    def is_local(self) -> bool:
        """Whether reading it is one access to disk or memory, so that a time limit makes sense."""
        return not (self.is_remote or self.uri.startswith("tfds:"))

    @property
    def is_readable(self) -> bool:
        """Whether the image has a location, not only a name."""
        return bool(self.uri)

    @property
    def is_remote(self) -> bool:
        """Whether the image is an object in a bucket; reading has latency, so parallel reads are faster."""
        return is_bucket_url(self.uri)

    def version(self) -> str | None:
        """A string that changes with the content: size and ETag of an object, or `stable_version` of a file.

        Returns:
            The version; None if it is unknown: the file cannot be read, or changed so recently that another change
            might leave no trace.
        """
        if self.is_remote:
            return self.listed
        if not self.is_file:
            return None
        try:
            return stable_version(os.stat(self.uri))
        except OSError:  # reading it will report the error
            return None

    def read(self) -> tuple[bytes, str | None]:
        """Read the image.

        Returns:
            Its content and its version: for a file, the version before reading; for an object, the version of the
            content.

        Raises:
            ImageError: It is not a regular file (a pipe would block forever), is empty or larger than MAX_BYTES, or
                cannot be read.
            PipelineError: No image can be read: a bucket's server does not answer, a data set is damaged, or the
                system is out of memory or open files.
        """
        if self.is_remote:
            return read_object(self.uri)
        if self.is_file:
            return _read_file(self.uri)
        from pipeline.data.tfds_reader import read_example

        return read_example(self.uri), None


@dataclass(frozen=True, slots=True)
class PartRef(ImageRef):
    """An image inside a file or an object: a member of an archive, or a row of a table or an array.

    Attributes:
        file: The path of the file, or the URL of the object; `listed` is its version when it was opened.
    """

    file: str = ""

    @property
    def is_file(self) -> bool:
        """False: the image is only a part of a file."""
        return False

    def version(self) -> str | None:
        """The version of the whole file; see `ImageRef.version`."""
        if self.is_remote:
            return self.listed
        try:
            version = stable_version(os.stat(self.file))
        except OSError:  # reading it will report the error
            return None
        return version if version == self.listed else None

    def check_unchanged(self, version: str | None) -> None:
        """Refuse a file that changed after it was opened, because the image may have moved.

        Args:
            version: The version of the file that is read now, from `version_of`.

        Raises:
            ImageError: It has another version.
        """
        if self.listed and version != self.listed:
            raise ImageError(f"{os.path.basename(self.file)} changed while this command ran; run it again")


def version_of(status: os.stat_result) -> str:
    """Size, modification time, change time and inode of a file.

    The modification time is not enough: tar, rsync and zip restore it. The change time is set by the system when a file
    is written or renamed; the inode distinguishes two files whose folders are renamed. The device number is left out,
    because it may change when a device is mounted again.
    """
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"


def stable_version(status: os.stat_result) -> str | None:
    """The version of a file; None if it changed in the last TICK_NS, because another change might leave no trace."""
    is_recent = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) <= TICK_NS
    return None if is_recent else version_of(status)


@contextlib.contextmanager
def open_image(path: str) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """Open a file that contains images.

    Yields:
        The file, and its status.

    Raises:
        ImageError: It is not a regular file, or cannot be read.
        PipelineError: The system is out of memory or open files.
    """
    try:
        with open_regular(path) as stream:
            yield stream, os.fstat(stream.fileno())
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise PipelineError(
                f"{path} cannot be read, nor can any other image: {cause(error)}. Use fewer ",
                Parameter("workers", "N"),
                ", end other programs or raise the limit of open files (ulimit -n), and run the same command again; "
                "what was computed is stored.",
            ) from error
        raise ImageError(cause(error)) from error


def check_size(size: int) -> None:
    """Refuse an image that is empty or larger than MAX_BYTES.

    Raises:
        ImageError: It is.
    """
    if size > MAX_BYTES:
        raise ImageError(f"the file is larger than {MAX_BYTES:,} bytes")
    if not size:
        raise ImageError("the file is empty")


def _read_file(path: str) -> tuple[bytes, str | None]:
    with open_image(path) as (stream, status):
        check_size(status.st_size or 1)  # files in /proc have content, but no size
        data = stream.read()
    check_size(len(data))
    return data, stable_version(status)


def contents_of(refs: Sequence[ImageRef]) -> Iterator[bytes | None]:
    """Read images in order; objects in buckets are read several at a time.

    Args:
        refs: The images.

    Yields:
        The content of each image; None if it cannot be read.

    Raises:
        PipelineError: See `ImageRef.read`.
    """
    with ThreadPoolExecutor(READ_AT_ONCE, "contents") as pool:
        for start in range(0, len(refs), READ_AT_ONCE):
            block = refs[start : start + READ_AT_ONCE]
            yield from (pool.map if all(ref.is_remote for ref in block) else map)(_content, block)


def _content(ref: ImageRef) -> bytes | None:
    try:
        return ref.read()[0]
    except ImageError:
        return None


@dataclass(frozen=True)
class ImageSet:
    """Images in path order (rows of tables and arrays in their order), with labels, groups, splits and targets.

    Attributes:
        source: The source as the user named it: the path of a folder or a list, the URL of a bucket, or `tfds:...`.
        paths: Names of the images: paths relative to the folder (or the list's folder, or the prefix in a bucket), with
            "/", sorted; URLs in a list; or TFDS ids.
        refs: Locations of the images.
        labels: Labels of the images: from the list, or the name of the folder that contains the image; "" at the top.
        groups: Groups of the images, or None.
        splits: Each image's side of the split, as written in the list, or None.
        targets: Target embeddings, shape (N, D), float32, or None.
        repeats: Repeated measurements of each image's target, shape (R, D); the target is their mean. Or None.
        passed_over: Files of the folder or bucket that look like images, but have an unsupported format.
        unread: Subfolders that could not be listed.
    """

    source: str
    paths: Sequence[str]
    refs: Sequence[ImageRef]
    labels: Sequence[str]
    groups: Sequence[str | None] | None = None
    splits: Sequence[str | None] | None = None
    targets: np.ndarray | None = None
    repeats: Sequence[np.ndarray] | None = None
    passed_over: Sequence[str] = ()
    unread: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, rows: Sequence[int] | np.ndarray) -> "ImageSet":
        """The images with these row numbers."""
        columns = ("paths", "refs", "labels", "groups", "splits", "repeats")
        selected: dict[str, Any] = {
            name: [getattr(self, name)[row] for row in rows] for name in columns if getattr(self, name) is not None
        }
        targets = None if self.targets is None else self.targets[np.asarray(rows, np.intp)]
        return dataclasses.replace(self, **selected, targets=targets)


def file_ref(path: Path) -> ImageRef:
    """The reference to an image file."""
    return ImageRef(os.path.abspath(path))


def content_digest(data: bytes) -> bytes:
    """The digest that identifies an image in the feature store: BLAKE2b, 16 bytes.

    If a newer version decodes an image differently, its digest also changes, so the store never returns a vector of
    different pixels.
    """
    version = b"decoding 2" if _is_decoded_anew(data[:4096]) else b""
    return hashlib.blake2b(data, digest_size=16, person=version).digest()


def _is_decoded_anew(start: bytes) -> bool:
    """Whether the first version of decoding may have read different pixels from this kind of file."""
    is_deep_tga = start[1:3] in (b"\0\2", b"\0\n", b"\1\1", b"\1\t") and start[16:17] != b"\x18"
    is_transparent_png = start.startswith(b"\x89PNG") and b"tRNS" in start and start[24:25] != b"\x08"
    return start.startswith(ODDLY_DECODED) or is_deep_tga or is_transparent_png
