"""Where images come from: folders, single files, lists, buckets, and TensorFlow data sets."""

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.core.errors import RequestError
from pipeline.core.wording import counted
from pipeline.data import lists
from pipeline.data.buckets import find_versions, list_objects, place_of
from pipeline.data.image_files import INSTALL_HEIF, READS_HEIF
from pipeline.data.images import ImageRef, ImageSet, as_text, file_ref, is_bucket_url
from pipeline.data.labels import label_by_pattern
from pipeline.data.tfds import find_examples

log = logging.getLogger(__name__)

HEIF = (".heic", ".heif", ".hif")
SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpf", ".jpg"),
    *(".jpx", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
    *(HEIF if READS_HEIF else ()),
)
# Files that a person takes for images, in formats that are not read here.
NOT_READ = (
    *(() if READS_HEIF else HEIF),
    *(".ai", ".dcm", ".dds", ".eps", ".exr", ".hdr", ".icns", ".jxl", ".pcx", ".psb", ".psd", ".qoi", ".svg", ".svgz"),
    *(".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw"),
    *(".x3f", ".xcf"),
)
ARCHIVES = (".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip")
URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
SUPPORTED = (
    f"a folder of images, one image, a list ({', '.join(lists.SUFFIXES)}) of image files, s3://BUCKET/PREFIX, "
    "gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or tfds:NAME[/CONFIG]:SPLIT"
)
NAMED = 5  # how many examples a message names


def find_images(source: str | Path, data_dir: Path | None = None, label_pattern: str | None = None) -> ImageSet:
    """Find the images of a folder (recursively), a file, a list, a bucket, or a TensorFlow data set.

    Args:
        source: A folder, where names that begin with a dot are ignored; one image file; a list, whose paths are
            relative to the list's own folder and stay inside it: a `.txt` (a path on each line), or a `.csv` or
            `.parquet` with a column `path` and, where there, `label`, `split`, `group` and `target` (lists of numbers);
            the URL of a bucket, a prefix in it or one object (`s3://`, `gs://`, `az://`), which a list may name, too;
            or `tfds:NAME[/CONFIG]:SPLIT`.
        data_dir: Where tensorflow-datasets keeps its data; None for its own default.
        label_pattern: See `pipeline.data.labels.label_by_pattern`; None for the list's labels, or the folders' names.

    Returns:
        The images in path order, each path once.

    Raises:
        RequestError: The source does not exist, is not supported, names no image or not as described; or the pattern
            finds no label in a path.
        PipelineError: A TensorFlow data set cannot be downloaded or read, or a bucket's server does not answer.
    """
    if str(source).startswith("tfds:"):
        images = find_examples(str(source), data_dir)
    else:
        images = _bucket(str(source)) if is_bucket_url(source) else _find_files(source)
    return label_by_pattern(images, label_pattern) if label_pattern else images


def _find_files(source: str | Path) -> ImageSet:
    root, suffix = Path(source), Path(source).suffix.lower()
    if root.is_dir():
        return _folder(source, root)
    if url := URL.match(str(source)):
        raise RequestError(
            f"{source}: {url[1]}:// addresses are not read. Copy the images to a folder first; IMAGES is {SUPPORTED}."
        )
    if not root.exists():
        raise RequestError(f"{source} does not exist. IMAGES is {SUPPORTED}.")
    if root.is_file() and suffix in lists.SUFFIXES:
        paths, columns = lists.read_list(root)
        return _image_set(source, paths, image_refs([_within(root.parent, path) for path in paths]), **columns)
    if root.is_file() and suffix in SUFFIXES:
        return _image_set(source, [root.name], [file_ref(root)])
    if suffix in HEIF:
        raise RequestError(f"{source}: HEIC images need pillow-heif: {INSTALL_HEIF}.")
    if suffix in ARCHIVES:
        raise RequestError(f"{source} is an archive. Unpack it and name the folder.")
    raise RequestError(f"{source} is not {SUPPORTED}. Images end in {' '.join(SUFFIXES)}.")


def _within(folder: Path, path: str) -> str | Path:
    return path if is_bucket_url(path) else folder / path


def image_refs(places: Iterable[str | Path]) -> list[ImageRef]:
    """References to image files and, by their URLs, to objects in buckets, whose versions are asked for now.

    Raises:
        RequestError, PipelineError: As `pipeline.data.buckets.find_versions`.
    """
    places = list(places)
    versions = find_versions([str(place) for place in places if is_bucket_url(place)])
    return [
        ImageRef(str(place), listed=versions[str(place)]) if is_bucket_url(place) else file_ref(Path(place))
        for place in places
    ]


def _folder(source: str | Path, root: Path) -> ImageSet:
    names = list(_walk(root))
    paths = sorted(name for name in names if _suffix(name) in SUFFIXES)
    passed_over = _pass_over(names)
    if not paths:
        raise RequestError(f"{source}: no images in this folder or below (looked for {' '.join(SUFFIXES)}).")
    return _image_set(source, paths, [file_ref(root / path) for path in paths], passed_over=passed_over)


def _bucket(source: str) -> ImageSet:
    """The images below a prefix, or one object."""
    root, versions, others = source.rstrip("/"), {}, []
    for name, version in list_objects(root):
        if name.startswith(".") or "/." in name:
            continue
        if (suffix := _suffix(name)) in SUFFIXES:
            versions[name] = version
        elif suffix in NOT_READ:
            others.append(name)
    passed_over = _pass_over(others)
    if not versions and _suffix(root) in SUFFIXES:
        return _image_set(source, [PurePosixPath(root).name], image_refs([root]))
    if not versions:
        raise RequestError(f"{source}: no images below this prefix (looked for {' '.join(SUFFIXES)}).")
    paths = sorted(versions)
    refs = [ImageRef(f"{root}/{path}", listed=versions[path]) for path in paths]
    return _image_set(source, paths, refs, passed_over=passed_over)


def _pass_over(names: Iterable[str]) -> list[str]:
    """The files whose format is not read, named in a warning."""
    found = sorted(as_text(name) for name in names if _suffix(name) in NOT_READ)
    if found:
        log.warning(_passed_over(found))
    return found


def _passed_over(names: Sequence[str]) -> str:
    some = ", ".join(map(repr, names[:NAMED])) + (", ..." if len(names) > NAMED else "")
    heif = f" For HEIC: {INSTALL_HEIF}." if any(_suffix(name) in HEIF for name in names) else ""
    return f"Passed over {counted(len(names), 'file')} whose image format is not read: {some}.{heif}"


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _walk(root: Path) -> Iterator[str]:
    """The files below a folder, relative to it; links are followed, a folder that links lead back to is not."""
    seen = set()
    unreadable = lambda error: log.warning("skipped the folder %s: %s", error.filename, error.strerror)  # noqa: E731
    for folder, subfolders, names in os.walk(root, onerror=unreadable, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


def _image_set(
    source: str | Path,
    paths: Sequence[str],
    refs: Sequence[ImageRef],
    labels: Sequence[str | None] | None = None,
    **columns: Any,
) -> ImageSet:
    texts = [as_text(path) for path in paths]
    escaped = [text for text, path in zip(texts, paths, strict=True) if text != path]
    if escaped:
        log.warning(
            "Bytes that are not UTF-8 appear escaped in %d of %s, such as %s.",
            len(escaped),
            counted(len(texts), "name"),
            escaped[0],
        )
    own = [_folder_name(path) for path in texts]
    known = [name if label is None else label for label, name in zip(labels or [None] * len(own), own, strict=True)]
    return ImageSet(str(source), texts, refs, known, **columns)


def _folder_name(path: str) -> str:
    """The name of the folder that holds an image; "" for one at the top."""
    inside = place_of(path).key if is_bucket_url(path) else path
    return sys.intern(PurePosixPath(inside).parent.name)
