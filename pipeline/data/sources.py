"""Sources of images: folders, single files, lists, buckets, and TensorFlow data sets."""

import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.core.errors import Parameter, RequestError, cause
from pipeline.core.locations import Location, is_bucket_url
from pipeline.core.wording import EXAMPLES, counted, examples
from pipeline.data import lists
from pipeline.data.buckets import find_versions, list_objects
from pipeline.data.image_files import INSTALL_HEIF, READS_HEIF
from pipeline.data.images import ImageRef, ImageSet, file_ref
from pipeline.data.labels import label_by_pattern
from pipeline.data.tables import SPREADSHEETS
from pipeline.data.text_files import as_text, nfc
from pipeline.data.tfds import find_examples

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
URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
SUPPORTED = (
    f"a folder of images, one image, a list ({', '.join(lists.SUFFIXES)}) of image files, s3://BUCKET/PREFIX, "
    "gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or tfds:NAME[/CONFIG]:SPLIT"
)


def find_images(
    source: str | Path, data_dir: Path | None = None, label_pattern: str | None = None, root: Path | None = None
) -> ImageSet:
    """Find the images of a folder (recursively), a file, a list, a bucket, or a TensorFlow data set.

    Args:
        source: A folder, in which names that begin with a dot and those in MACHINE_MADE are ignored; one image file;
            a list of paths, absolute or relative to the list's own folder: a `.txt` (one path per line), or a `.csv` or
            `.parquet` with a column `path` and, optionally, `label`, `split`, `group` and `target` (lists of numbers);
            the URL of a bucket, a prefix in it or one object (`s3://`, `gs://`, `az://`), also allowed in a list; or
            `tfds:NAME[/CONFIG]:SPLIT`.
        data_dir: The data folder of tensorflow-datasets; None for its default.
        label_pattern: See `pipeline.data.labels.label_by_pattern`; None for the list's labels, or the folders' names.
        root: The base folder for relative paths in a list; None for the list's own folder.

    Returns:
        The images in path order, each path once.

    Raises:
        RequestError: The source does not exist, is not supported, names no image or has another format; or the pattern
            finds no label in a path.
        PipelineError: A TensorFlow data set cannot be downloaded or read, or a bucket's server does not answer.
    """
    if not str(source).strip():
        raise RequestError(f"The name of the images is empty. IMAGES is {SUPPORTED}.")
    if str(source).startswith("tfds:"):
        images = find_examples(str(source), data_dir)
    else:
        try:
            images = _bucket(str(source)) if is_bucket_url(source) else _find_files(source, root)
        except OSError as error:
            raise RequestError(f"{source} cannot be read ({cause(error)}).") from error
    return label_by_pattern(images, label_pattern) if label_pattern else images


def _find_files(source: str | Path, root: Path | None) -> ImageSet:
    path, suffix = Path(source), Path(source).suffix.lower()
    if root and (suffix not in lists.SUFFIXES or path.is_dir()):
        raise RequestError(
            Parameter("root", str(root)), f" sets the base folder of a list's paths; {source} is not a list."
        )
    if path.is_dir():
        return _folder(source, path)
    if url := URL.match(str(source)):
        raise RequestError(
            f"{source}: {url[1]}:// URLs are not supported. Copy the images to a folder first; IMAGES is {SUPPORTED}."
        )
    if not path.exists():
        raise RequestError(f"{source} does not exist. IMAGES is {SUPPORTED}.")
    if suffix in lists.SUFFIXES:
        root = root or path.parent
        names, columns = lists.read_list(path, root)
        return _image_set(source, names, image_refs([_within(root, name) for name in names]), **columns)
    if path.is_file() and suffix in SUFFIXES:
        return _image_set(source, [path.name], [file_ref(path)])
    if suffix in HEIF:
        raise RequestError(f"{source}: HEIC images need pillow-heif: {INSTALL_HEIF}.")
    if suffix in ARCHIVES:
        raise RequestError(f"{source} is an archive. Unpack it and name the folder.")
    if suffix in SPREADSHEETS:
        raise RequestError(f"{source} is a spreadsheet. Save its sheet as CSV (UTF-8), with a column 'path'.")
    raise RequestError(f"{source} is not {SUPPORTED}. Images end in {' '.join(SUFFIXES)}.")


def _within(folder: Path, path: str) -> str | Path:
    return path if is_bucket_url(path) else folder / path


def image_refs(paths: Iterable[str | Path]) -> list[ImageRef]:
    """References to image files and to objects in buckets; the versions of objects are requested now.

    Args:
        paths: Paths of files, or URLs of objects.

    Raises:
        RequestError, PipelineError: See `pipeline.data.buckets.find_versions`.
    """
    paths = list(paths)
    versions = find_versions([str(path) for path in paths if is_bucket_url(path)])
    return [
        ImageRef(str(path), listed=versions[str(path)]) if is_bucket_url(path) else file_ref(Path(path))
        for path in paths
    ]


def _folder(source: str | Path, root: Path) -> ImageSet:
    unread: list[str] = []
    names = list(_walk(root, unread))
    paths = sorted(name for name in names if _suffix(name) in SUFFIXES)
    passed_over = _pass_over(names)
    if not paths:
        raise RequestError(f"{source}: no images in this folder or below (looked for {' '.join(SUFFIXES)}).")
    return _image_set(source, paths, [file_ref(root / path) for path in paths], passed_over=passed_over, unread=unread)


def _bucket(source: str) -> ImageSet:
    """The images below a prefix, or one object."""
    root = source.rstrip("/")
    versions = {name: version for name, version in list_objects(root) if not any(map(_is_ignored, name.split("/")))}
    passed_over = _pass_over(versions)
    versions = {name: version for name, version in versions.items() if _suffix(name) in SUFFIXES}
    if not versions and _suffix(root) in SUFFIXES:
        return _image_set(source, [PurePosixPath(root).name], image_refs([root]))
    if not versions:
        raise RequestError(f"{source}: no images below this prefix (looked for {' '.join(SUFFIXES)}).")
    paths = sorted(versions)
    refs = [ImageRef(f"{root}/{path}", listed=versions[path]) for path in paths]
    return _image_set(source, paths, refs, passed_over=passed_over)


def _pass_over(names: Iterable[str]) -> list[str]:
    """The image files in unsupported formats, with a warning; other files except documents are counted in the log."""
    candidates = sorted(as_text(name) for name in names if _suffix(name) not in (*SUFFIXES, *DOCUMENTS))
    files = [name for name in candidates if _suffix(name) not in NOT_READ]
    if files:
        kinds = [suffix or "no suffix" for suffix, _ in Counter(map(_suffix, files)).most_common(EXAMPLES)]
        log.info("Ignored %s without an image suffix (%s).", counted(len(files), "file"), ", ".join(kinds))
    images = [name for name in candidates if _suffix(name) in NOT_READ]
    if images:
        log.warning(_unsupported_warning(images))
    return images


def _unsupported_warning(names: Sequence[str]) -> str:
    heif = f" For HEIC: {INSTALL_HEIF}." if any(_suffix(name) in HEIF for name in names) else ""
    return f"Ignored {counted(len(names), 'file')} in an unsupported image format: {examples(names)}.{heif}"


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_ignored(name: str) -> bool:
    """Whether a file or folder is hidden or in MACHINE_MADE."""
    return name.startswith(".") or name.lower() in MACHINE_MADE


def _walk(root: Path, unread: list[str]) -> Iterator[str]:
    """Walk the files below a folder, relative to it; subfolders that cannot be listed are added to `unread`.

    Links are followed, except to a folder that contains the link. Within a linked folder, links are followed only once
    to each folder, so that the walk ends even if folders link to each other.
    """
    skipped: list[str] = []
    seen: set[tuple[int, int]] = set()
    pending: list[tuple[str, tuple[tuple[int, int], ...], int]] = [("", (), 0)]
    while pending:
        folder, ancestors, links = pending.pop()
        try:
            status = os.stat(root / folder)
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            if not folder:
                raise
            log.warning("skipped the folder %s: %s", root / folder, error.strerror)
            unread.append(str(root / folder))
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in ancestors or (links > 1 and os.path.islink(root / folder) and identity in seen):
            skipped.append(folder)
            continue
        seen.add(identity)
        for entry in entries:
            if _is_ignored(entry.name):
                continue
            name, is_link = f"{folder}/{entry.name}" if folder else entry.name, entry.is_symlink()
            if entry.is_dir(follow_symlinks=False) or (is_link and os.path.isdir(entry.path)):
                pending.append((name, (*ancestors, identity), links + is_link))
            else:
                yield name
    if skipped:
        log.info(
            "Left out %s to folders that were searched already: %s.",
            counted(len(skipped), "link"),
            examples([*map(as_text, skipped)]),
        )


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
