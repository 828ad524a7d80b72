"""Names of images: recognizes image files, and builds image sets from names and references."""

import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.core.locations import Location, is_bucket_url
from pipeline.core.wording import EXAMPLES, counted, examples
from pipeline.data.image_files import INSTALL_HEIF, READS_HEIF
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.text_files import as_text, nfc

log = logging.getLogger(__name__)

HEIF = (".heic", ".heif", ".hif")
SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpf", ".jpg"),
    *(".jpx", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
    *(HEIF if READS_HEIF else ()),
)
# Suffixes of image formats that are not read.
NOT_READ = (
    *(() if READS_HEIF else HEIF),
    *(".ai", ".dcm", ".dds", ".eps", ".exr", ".hdr", ".icns", ".jxl", ".pcx", ".psb", ".psd", ".qoi", ".svg", ".svgz"),
    *(".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw"),
    *(".x3f", ".xcf"),
)
# Suffixes of descriptions, labels and targets that accompany images.
DOCUMENTS = (
    *(".csv", ".html", ".json", ".jsonl", ".md", ".npy", ".npz", ".parquet", ".pdf", ".tsv", ".txt", ".xml", ".yaml"),
)
ARCHIVES = (".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip")
# Thumbnails, deleted files and settings of Synology, QNAP, macOS, Windows and Linux, in addition to names with a dot
# at the start.
MACHINE_MADE = (
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb", "__macosx"),
    *("$recycle.bin", "recycler", "system volume information", "lost+found", "thumbs.db", "desktop.ini"),
)


def image_set(
    source: str | Path,
    paths: Sequence[str],
    refs: Sequence[ImageRef],
    labels: Sequence[str | None] | None = None,
    **columns: Any,
) -> ImageSet:
    """Make a set of images; bytes of names that are not UTF-8 are escaped, with a warning.

    Args:
        source: The source as the user named it.
        paths: Names of the images.
        refs: Locations of the images.
        labels: Labels of the images; None for the name of the folder that contains the image.
        **columns: Other attributes of the set.
    """
    texts = [as_text(path) for path in paths]
    escaped = [text for text, path in zip(texts, paths, strict=True) if text != path]
    if escaped:
        log.warning(
            "Bytes that are not UTF-8 appear escaped in %d of %s, such as %s.",
            len(escaped),
            counted(len(texts), "name"),
            escaped[0],
        )
    folders = [_folder_name(path) for path in texts]
    image_labels = [
        nfc(folder if label is None else label)
        for label, folder in zip(labels or [None] * len(folders), folders, strict=True)
    ]
    return ImageSet(str(source), texts, refs, image_labels, **columns)


def _folder_name(path: str) -> str:
    """The name of the folder that contains an image; "" at the top."""
    key = Location.parse(path).key if is_bucket_url(path) else path
    name = PurePosixPath(key).parent.name
    return sys.intern("" if name == ".." else name)


def pass_over(names: Iterable[str]) -> list[str]:
    """The image files in unsupported formats, with a warning; other files except documents are counted in the log."""
    candidates = sorted(as_text(name) for name in names if suffix_of(name) not in (*SUFFIXES, *DOCUMENTS))
    files = [name for name in candidates if suffix_of(name) not in NOT_READ]
    if files:
        kinds = [suffix or "no suffix" for suffix, _ in Counter(map(suffix_of, files)).most_common(EXAMPLES)]
        log.info("Ignored %s without an image suffix (%s).", counted(len(files), "file"), ", ".join(kinds))
    images = [name for name in candidates if suffix_of(name) in NOT_READ]
    if images:
        log.warning(_unsupported_warning(images))
    return images


def _unsupported_warning(names: Sequence[str]) -> str:
    heif = f" For HEIC: {INSTALL_HEIF}." if any(suffix_of(name) in HEIF for name in names) else ""
    return f"Ignored {counted(len(names), 'file')} in an unsupported image format: {examples(names)}.{heif}"


def suffix_of(name: str) -> str:
    """The suffix of a name, in lower case, with its dot; "" without a suffix."""
    return os.path.splitext(name)[1].lower()


def is_ignored(name: str) -> bool:
    """Whether a file or folder is hidden or in MACHINE_MADE."""
    return name.startswith(".") or name.lower() in MACHINE_MADE
