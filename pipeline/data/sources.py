"""Sources of images: folders, single files, lists, buckets, and TensorFlow data sets."""

import dataclasses
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from pipeline.core.errors import Parameter, RequestError, cause
from pipeline.core.locations import is_bucket_url
from pipeline.core.wording import counted, examples
from pipeline.data import lists
from pipeline.data.buckets import find_versions, list_objects
from pipeline.data.image_files import INSTALL_HEIF
from pipeline.data.image_names import ARCHIVES, HEIF, SUFFIXES, image_set, is_ignored, pass_over, suffix_of
from pipeline.data.images import ImageRef, ImageSet, file_ref
from pipeline.data.labels import label_by_pattern
from pipeline.data.tables import SPREADSHEETS
from pipeline.data.tar_shards import SUFFIX as TAR
from pipeline.data.tar_shards import find_members
from pipeline.data.text_files import as_text
from pipeline.data.tfds import find_examples

log = logging.getLogger(__name__)

BRACES = re.compile(r"\{(?:(\d{1,9})\.\.(\d{1,9})|([^{}]*,[^{}]*))\}")
MOST_FILES = 1_000_000  # that a pattern may stand for
URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
SUPPORTED = (
    f"a folder of images or tar files, one of these, a list ({', '.join(lists.SUFFIXES)}) of image files, "
    "s3://BUCKET/PREFIX, "
    "gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or tfds:NAME[/CONFIG]:SPLIT"
)


def find_images(
    source: str | Path, data_dir: Path | None = None, label_pattern: str | None = None, root: Path | None = None
) -> ImageSet:
    """Find the images of a folder (recursively), a file, a list, a bucket, or a TensorFlow data set.

    Args:
        source: A folder, in which names that begin with a dot and those in MACHINE_MADE are ignored; one image file;
            a folder of tar files, a tar file, or a pattern such as `photos/{000..150}.tar`; `FILE#NAME` for one image
            in a file;
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
            images = _find(source, root)
        except OSError as error:
            raise RequestError(f"{source} cannot be read ({cause(error)}).") from error
    return label_by_pattern(images, label_pattern) if label_pattern else images


def _find(source: str | Path, root: Path | None) -> ImageSet:
    files = expand_braces(str(source))
    if len(files) > 1 and not os.path.lexists(source):
        return _several(str(source), files)
    file, _, name = str(source).rpartition("#")
    if os.path.isfile(file) and not os.path.lexists(source):
        return _part(_find_files(file, root), name)
    return _bucket(str(source)) if is_bucket_url(source) else _find_files(source, root)


def _part(images: ImageSet, name: str) -> ImageSet:
    """One image of those in a file."""
    if name not in images.paths:
        raise RequestError(
            f"{images.source} has no image {name!r}; its images begin with {examples(list(images.paths))}."
        )
    return images.subset([list(images.paths).index(name)])


def _several(source: str, files: Sequence[str]) -> ImageSet:
    """The images in the files that a pattern names."""
    if any(suffix_of(file) != TAR for file in files):
        raise RequestError(f"{source} names several files, which must be tar files, such as photos/{{000..150}}.tar.")
    if missing := [file for file in files if not is_bucket_url(file) and not os.path.exists(file)]:
        raise RequestError(f"{source}: {len(missing)} of {len(files)} files do not exist: {examples(missing)}.")
    return find_members(source, {file: file if is_bucket_url(file) else os.path.abspath(file) for file in files})


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern stands for: `{000..150}` for numbers, `{a,b}` for alternatives, as in a shell.

    Raises:
        RequestError: There are more than MOST_FILES names.
    """
    match = BRACES.search(pattern)
    if not match:
        return [pattern]
    first, last, alternatives = match.groups()
    if alternatives:
        choices: Sequence[str] = alternatives.split(",")
    elif int(last) - int(first) >= MOST_FILES:
        raise RequestError(f"{pattern} names more than {MOST_FILES:,} files.")
    else:
        choices = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    rest = expand_braces(pattern[match.end() :])
    if len(choices) * len(rest) > MOST_FILES:
        raise RequestError(f"{pattern} names more than {MOST_FILES:,} files.")
    return [f"{pattern[: match.start()]}{choice}{end}" for choice in choices for end in rest]


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
        return image_set(source, names, image_refs([_within(root, name) for name in names]), **columns)
    if suffix == TAR:
        return find_members(str(source), {path.name: os.path.abspath(path)})
    if path.is_file() and suffix in SUFFIXES:
        return image_set(source, [path.name], [file_ref(path)])
    if suffix in HEIF:
        raise RequestError(f"{source}: HEIC images need pillow-heif: {INSTALL_HEIF}.")
    if suffix in ARCHIVES:
        raise RequestError(f"{source} is an archive. Unpack it and name the folder; only .tar files are read directly.")
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
    paths = sorted(name for name in names if suffix_of(name) in SUFFIXES)
    if not paths and (tars := sorted(name for name in names if suffix_of(name) == TAR)):
        images = find_members(str(source), {name: os.path.abspath(root / name) for name in tars})
        return dataclasses.replace(images, unread=[*unread, *images.unread])
    passed_over = pass_over(names)
    if not paths:
        raise RequestError(f"{source}: no images in this folder or below (looked for {' '.join(SUFFIXES)}).")
    return image_set(source, paths, [file_ref(root / path) for path in paths], passed_over=passed_over, unread=unread)


def _bucket(source: str) -> ImageSet:
    """The images below a prefix, or one object."""
    root = source.rstrip("/")
    versions = {name: version for name, version in list_objects(root) if not any(map(is_ignored, name.split("/")))}
    tars = {name: f"{root}/{name}" for name in sorted(versions) if suffix_of(name) == TAR}
    others, versions = versions, {name: version for name, version in versions.items() if suffix_of(name) in SUFFIXES}
    if not versions and (tars or suffix_of(root) == TAR):
        return find_members(source, tars or {PurePosixPath(root).name: root})
    passed_over = pass_over(others)
    if not versions and suffix_of(root) in SUFFIXES:
        return image_set(source, [PurePosixPath(root).name], image_refs([root]))
    if not versions:
        raise RequestError(f"{source}: no images below this prefix (looked for {' '.join(SUFFIXES)}).")
    paths = sorted(versions)
    refs = [ImageRef(f"{root}/{path}", listed=versions[path]) for path in paths]
    return image_set(source, paths, refs, passed_over=passed_over)


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
            if is_ignored(entry.name):
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
