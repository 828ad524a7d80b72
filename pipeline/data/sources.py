"""Sources of images: folders, single files, lists, buckets, and TensorFlow data sets."""

import dataclasses
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from pipeline.core.errors import Parameter, RequestError, cause
from pipeline.core.locations import is_bucket_url
from pipeline.core.wording import counted, examples
from pipeline.data import lists
from pipeline.data.buckets import find_versions, list_objects
from pipeline.data.containers import (
    INSIDE,
    containers,
    expand_braces,
    find_container,
    find_in_array,
    find_in_pattern,
    find_inside,
    is_container,
    refs_inside,
)
from pipeline.data.containers import SUFFIXES as CONTAINERS
from pipeline.data.hub import is_hub_url, local_copy
from pipeline.data.image_files import INSTALL_HEIF
from pipeline.data.image_names import ARCHIVES, HEIF, SUFFIXES, image_set, is_ignored, pass_over, suffix_of
from pipeline.data.images import ImageRef, ImageSet, file_ref
from pipeline.data.labels import label_by_pattern
from pipeline.data.tables import SPREADSHEETS
from pipeline.data.text_files import as_text
from pipeline.data.tfds import find_examples

log = logging.getLogger(__name__)

URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
SUPPORTED = (
    "a folder of images, tar files or Parquet files, one of these, FILE.h5:DATASET, "
    f"a list ({', '.join(lists.SUFFIXES)}) of image files, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX,"
    " az://CONTAINER/PREFIX, hf://datasets/OWNER/NAME[/FILE], or tfds:NAME[/CONFIG]:SPLIT"
)


def find_images(
    source: str | Path,
    data_dir: Path | None = None,
    label_pattern: str | None = None,
    root: Path | None = None,
    image_column: str | None = None,
    names: str | None = None,
) -> ImageSet:
    """Find the images of a folder (recursively), a file, a list, a bucket, or a TensorFlow data set.

    Args:
        source: A folder, in which names that begin with a dot and those in MACHINE_MADE are ignored; one image file;
            a tar file, a Parquet file with images, a folder of these, or a pattern such as `photos/{000..150}.tar`;
            an array in an HDF5 file, as `FILE.h5:DATASET`; `FILE#NAME` for one image in a file;
            a list of paths, absolute or relative to the list's own folder: a `.txt` (one path per line), or a `.csv` or
            `.parquet` with a column `path` and, optionally, `label`, `split`, `group` and `target` (lists of numbers);
            a data set of the Hugging Face Hub, as `hf://datasets/OWNER/NAME[/FILE]`;
            the URL of a bucket, a prefix in it or one object (`s3://`, `gs://`, `az://`), also allowed in a list; or
            `tfds:NAME[/CONFIG]:SPLIT`.
        data_dir: The data folder of tensorflow-datasets; None for its default.
        label_pattern: See `pipeline.data.labels.label_by_pattern`; None for the list's labels, or the folders' names.
        root: The base folder for relative paths in a list; None for the list's own folder.
        image_column: The column of images in Parquet and Arrow files; None for the only one, or one called `image`.
        names: The array with the names of the images in an HDF5 file; None to name them by row number.

    Returns:
        The images in path order, rows of tables and arrays in their order; each path once.

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
            path = local_copy(str(source)) if is_hub_url(source) else source
            images = find_in_array(str(path), names) or _find(path, root, image_column)
            images = dataclasses.replace(images, source=str(source))
        except OSError as error:
            raise RequestError(f"{source} cannot be read ({cause(error)}).") from error
    for option, value, kind in (("image_column", image_column, "column"), ("names", names, "dataset")):
        if value is not None and not hasattr(images.refs[0], kind):
            what = "Parquet and Arrow files" if kind == "column" else "HDF5 files"
            raise RequestError(Parameter(option, value), f" is only for {what}; {source} is something else.")
    return label_by_pattern(images, label_pattern) if label_pattern else images


def _find(source: str | Path, root: Path | None, column: str | None) -> ImageSet:
    files = expand_braces(str(source))
    if len(files) > 1 and not os.path.lexists(source):
        return find_in_pattern(str(source), files, column)
    match = None if os.path.lexists(source) else INSIDE.fullmatch(str(source))
    if match and (images := find_container(match["file"], column)):
        return _part(images, match["name"])
    return _bucket(str(source), column) if is_bucket_url(source) else _find_files(source, root, column)


def _part(images: ImageSet, name: str) -> ImageSet:
    """One of the images in a file."""
    if name not in images.paths:
        raise RequestError(
            f"{images.source} has no image {name!r}; its images begin with {examples(list(images.paths))}."
        )
    return images.subset([list(images.paths).index(name)])


def _find_files(source: str | Path, root: Path | None, column: str | None) -> ImageSet:
    path, suffix = Path(source), Path(source).suffix.lower()
    if root and (suffix not in lists.SUFFIXES or path.is_dir()):
        raise RequestError(
            Parameter("root", str(root)), f" sets the base folder of a list's paths; {source} is not a list."
        )
    if path.is_dir():
        return _folder(source, path, column)
    if str(source).lower().startswith(lists.WEB):
        raise RequestError(
            f"{source}: https:// URLs are not supported. Buckets are s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or "
            "az://CONTAINER/PREFIX. For images, write their URLs to urls.txt, one per line. "
            + lists.how_to_download("urls.txt", "")
        )
    if url := URL.match(str(source)):
        raise RequestError(
            f"{source}: {url[1]}:// URLs are not supported. Copy the images to a folder first; IMAGES is {SUPPORTED}."
        )
    if not path.exists():
        raise RequestError(f"{source} does not exist. IMAGES is {SUPPORTED}.")
    if suffix in CONTAINERS and is_container(str(path)):
        return find_inside(str(source), {path.name: os.path.abspath(path)}, column)
    if suffix in lists.SUFFIXES:
        root = root or path.parent
        names, columns = lists.read_list(path, root)
        return image_set(source, names, image_refs([_within(root, name) for name in names]), **columns)
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
    """References to image files, to objects in buckets, and to images inside either; versions are requested now.

    Args:
        paths: Paths of files, or URLs of objects, with `#NAME` for an image inside.

    Raises:
        RequestError, PipelineError: See `pipeline.data.buckets.find_versions` and `refs_inside`.
    """
    names = [str(path) for path in paths]
    inside = refs_inside(names)
    versions = find_versions([name for name in names if is_bucket_url(name) and name not in inside])
    return [
        inside.get(name) or (ImageRef(name, listed=versions[name]) if name in versions else file_ref(Path(name)))
        for name in names
    ]


def _folder(source: str | Path, root: Path, column: str | None) -> ImageSet:
    unread: list[str] = []
    names = list(_walk(root, unread))
    paths = sorted(name for name in names if suffix_of(name) in SUFFIXES)
    if not paths and (files := containers({name: os.path.abspath(root / name) for name in sorted(names)})):
        images = find_inside(str(source), files, column)
        return dataclasses.replace(images, unread=[*unread, *images.unread])
    passed_over = pass_over(names)
    if not paths:
        raise RequestError(f"{source}: no images in this folder or below (looked for {' '.join(SUFFIXES)}).")
    return image_set(source, paths, [file_ref(root / path) for path in paths], passed_over=passed_over, unread=unread)


def _bucket(source: str, column: str | None) -> ImageSet:
    """The images below a prefix, or one object."""
    root = source.rstrip("/")
    versions = {name: version for name, version in list_objects(root) if not any(map(is_ignored, name.split("/")))}
    others, versions = versions, {name: version for name, version in versions.items() if suffix_of(name) in SUFFIXES}
    if not versions and not others and suffix_of(root) in CONTAINERS:
        return find_inside(source, {PurePosixPath(root).name: root}, column)
    if not versions and (files := containers({name: f"{root}/{name}" for name in sorted(others)})):
        return find_inside(source, files, column)
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
