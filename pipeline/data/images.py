"""Images: references to them, and a set of them with what is known of each."""

import dataclasses
import errno
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import ImageError, Parameter, PipelineError, cause
from pipeline.core.regular_files import open_regular

MAX_BYTES = 2**30
DIGEST = np.dtype("V16")  # of an array of content digests
# A file that changes twice within one tick of the clock keeps its times, so a younger one has no version.
TICK_NS = 2_000_000_000
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # what no image is to blame for, and none would be spared
READ_AT_ONCE = 16  # objects that are read together where they are not read by workers
BUCKETS = ("s3://", "gs://", "az://")
ODDLY_DECODED = (b"II*\0", b"II+\0", b"MM\0*", b"MM\0+", b"BM", b"\0\0\1\0", b"%!PS")  # TIFF, BMP, ICO; PostScript


def is_bucket_url(place: object) -> bool:
    """Whether a place is one in object storage."""
    return str(place).startswith(BUCKETS)


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where an image is. It can be sent to another process or machine and read there.

    Attributes:
        uri: The absolute path of a file, the URL of an object in a bucket (its key as it is, nothing escaped), or
            `tfds:...#NUMBER` for an example of a TensorFlow data set.
        digest: The content digest, where the source knows it without reading the image again.
        listed: The version of an object when its bucket was listed.
    """

    uri: str
    digest: bytes | None = None
    listed: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether the image is a file or an object of its own."""
        return not self.uri.startswith("tfds:")

    @property
    def is_remote(self) -> bool:
        """Whether the image is an object in a bucket, so that reading it takes time in which others can be read."""
        return is_bucket_url(self.uri)

    def version(self) -> str | None:
        """What changes whenever the content does: of an object its size and ETag, of a file what `_file_version` says.

        Returns:
            None where that is not known: the file cannot be read, or is so young that a change might leave no trace.
        """
        if self.is_remote:
            return self.listed
        if not self.is_file:
            return None
        try:
            return _file_version(os.stat(self.uri))
        except OSError:  # reading it will say why
            return None

    def read(self) -> tuple[bytes, str | None]:
        """Read the image.

        Returns:
            Its content, and its version from before it was read; of an object, the version that was read.

        Raises:
            ImageError: It is not a regular file (a pipe would block for ever), is empty or larger than MAX_BYTES, or
                cannot be read.
            PipelineError: Nothing can be read there: a bucket's server does not answer, or a data set is damaged; or
                the system has no more memory or open files to give.
        """
        if self.is_remote:
            from pipeline.data.buckets import read_object

            return read_object(self.uri)
        if self.is_file:
            return _read_file(self.uri)
        from pipeline.data.tfds_reader import read_example

        return read_example(self.uri), None


def _file_version(status: os.stat_result) -> str | None:
    """Size, modification time, change time and inode of a file; None where it changed within the last tick.

    The modification time alone is what tar, rsync and zip restore. The change time is the system's own, and moves when
    a file is written or renamed; the inode tells two files apart whose folders are renamed. A device has another number
    after it was mounted again, so it is no part of this.
    """
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) <= TICK_NS:
        return None
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"


def _read_file(path: str) -> tuple[bytes, str | None]:
    try:
        with open_regular(path) as opened:
            status = os.fstat(opened.fileno())
            if status.st_size > MAX_BYTES:
                raise ImageError(f"the file is larger than {MAX_BYTES:,} bytes")
            data = opened.read()
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise PipelineError(
                f"{path} cannot be read, nor can any other image: {cause(error)}. Use fewer ",
                Parameter("workers", "N"),
                ", end other programs or raise the limit of open files (ulimit -n), and run the same command again; "
                "what was computed is stored.",
            ) from error
        raise ImageError(cause(error)) from error
    if not data:
        raise ImageError("the file is empty")
    return data, _file_version(status)


def contents_of(refs: Sequence[ImageRef]) -> Iterator[bytes | None]:
    """The contents of images, one after another; objects in buckets are read several at a time.

    Args:
        refs: The images.

    Yields:
        The content of each; None for one that cannot be read.

    Raises:
        PipelineError: Nothing can be read there.
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
    """Images in path order, and what a list says about them.

    Attributes:
        source: What the user named: the path of a folder or a list, the URL of a bucket, or `tfds:...`.
        paths: Their names: paths relative to the folder (or to the list's folder, or to the prefix in a bucket), with
            "/", sorted; the URLs that a list names; or TFDS ids.
        refs: Where each one is.
        labels: Their labels: the list's, or the name of the folder that holds the image; "" for one at the top.
        groups: Their groups, or None.
        splits: The side of the split that each belongs to, in the list's own words, or None.
        targets: Their target embeddings, shape (N, D), float32, or None.
        repeats: Repeated measurements of each one's target, shape (R, D), whose mean is the target; or None.
        passed_over: Files of the folder or bucket that look like images, but whose format is not read.
        unread: Folders below the folder that could not be listed.
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
        """Some of the images, by row number."""
        columns = ("paths", "refs", "labels", "groups", "splits", "repeats")
        chosen: dict[str, Any] = {
            name: [getattr(self, name)[row] for row in rows] for name in columns if getattr(self, name) is not None
        }
        targets = None if self.targets is None else self.targets[np.asarray(rows, np.intp)]
        return dataclasses.replace(self, **chosen, targets=targets)


def file_ref(path: Path) -> ImageRef:
    """The reference of an image file."""
    return ImageRef(os.path.abspath(path))


def content_digest(data: bytes) -> bytes:
    """The digest by which the feature store knows an image: BLAKE2b, 16 bytes.

    Where decoding has changed, so has the digest, so that vectors of other pixels are not taken from the store.
    """
    version = b"decoding 2" if _is_decoded_anew(data[:4096]) else b""
    return hashlib.blake2b(data, digest_size=16, person=version).digest()


def _is_decoded_anew(start: bytes) -> bool:
    """Whether a file is of a kind that the first version of decoding may have read as other pixels."""
    is_deep_tga = start[1:3] in (b"\0\2", b"\0\n", b"\1\1", b"\1\t") and start[16:17] != b"\x18"
    is_transparent_png = start.startswith(b"\x89PNG") and b"tRNS" in start and start[24:25] != b"\x08"
    return start.startswith(ODDLY_DECODED) or is_deep_tga or is_transparent_png
