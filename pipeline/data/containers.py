"""Files that contain images: tar files and tables, one or several, and arrays in HDF5 files."""

import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence

from pipeline.core.errors import RequestError
from pipeline.core.locations import is_bucket_url
from pipeline.core.wording import examples
from pipeline.data.image_names import suffix_of
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.tar_shards import find_members

TAR, TABLES = ".tar", (".parquet", ".arrow")
SUFFIXES = (TAR, *TABLES)
ARRAY = re.compile(r"(?P<file>.+\.(?:h5|hdf5|hdf|he5))(?::(?P<dataset>[^#]+))?", re.IGNORECASE | re.DOTALL)
# A path or URI of an image inside a file.
INSIDE = re.compile(
    r"(?P<file>.+?\.(?:tar|parquet|arrow|(?:h5|hdf5|hdf|he5)(?::[^#]+)?))#(?P<name>.+)", re.IGNORECASE | re.DOTALL
)
CACHED = ("cache-", "indices")  # prefixes of Arrow files that `datasets` computed from a data set
BRACES = re.compile(r"\{(?:(\d{1,9})\.\.(\d{1,9})|([^{}]*,[^{}]*))\}")
MOST_FILES = 1_000_000  # limit for a pattern


def containers(files: Mapping[str, str]) -> dict[str, str]:
    """The files of a folder that contain images: its tar files, or else its tables that are not lists of paths.

    Args:
        files: Name of a file -> its absolute path or URL.
    """
    tars = {name: file for name, file in files.items() if suffix_of(name) == TAR}
    if tars:
        return tars
    from pipeline.data.image_tables import has_images

    return {
        name: file
        for name, file in files.items()
        if suffix_of(name) in TABLES
        and not posixpath.basename(name).startswith(CACHED)
        and has_images(file) is not False  # damaged ones are reported
    }


def is_container(file: str) -> bool:
    """Whether a file with one of SUFFIXES contains images; a Parquet file may be a list."""
    if suffix_of(file) != ".parquet":
        return True
    from pipeline.data.image_tables import has_images

    return bool(has_images(file))


def find_in_array(source: str, names: str | None) -> ImageSet | None:
    """Find the images in an HDF5 file: `FILE.h5:DATASET`, or `FILE.h5` if it has only one array of images.

    Args:
        source: The source as the user named it.
        names: The array with the names of the images; None to name them by row number.

    Returns:
        The images; None if this is not the name of an HDF5 file on disk.

    Raises:
        RequestError: See `pipeline.data.image_arrays.find_array`.
    """
    match = ARRAY.fullmatch(source)
    if not match or not os.path.isfile(match["file"]):
        return None
    from pipeline.data.image_arrays import find_array

    return find_array(source, match["file"], match["dataset"], names)


def find_inside(source: str, files: Mapping[str, str], column: str | None = None) -> ImageSet:
    """Find the images in tar files, or in tables.

    Args:
        source: The source as the user named it.
        files: Name of a file -> its absolute path or URL.
        column: The column of images in tables; see `pipeline.data.image_tables.find_rows`.

    Raises:
        RequestError: There are no images, or it is not clear which column has them.
        PipelineError: A bucket's server does not answer.
    """
    if all(suffix_of(name) == TAR for name in files):
        return find_members(source, files)
    from pipeline.data.image_tables import find_rows

    return find_rows(source, files, column)


def find_container(file: str, column: str | None = None) -> ImageSet | None:
    """Find the images in one file; None if it is missing or cannot contain images. See `find_inside`."""
    images = find_in_array(file, None)
    if images or not (is_bucket_url(file) or os.path.isfile(file)) or suffix_of(file) not in SUFFIXES:
        return images
    located = file if is_bucket_url(file) else os.path.abspath(file)
    return find_inside(file, {posixpath.basename(file): located}, column) if is_container(file) else None


def refs_inside(paths: Iterable[str]) -> dict[str, ImageRef]:
    """References to those images that are inside files.

    Args:
        paths: Paths and URLs of any images; those of images inside files end in `#NAME`.

    Returns:
        Path or URL -> the reference.

    Raises:
        RequestError, PipelineError: See `find_inside`.
    """
    matches = {path: match for path in paths if (match := INSIDE.fullmatch(path)) and not os.path.lexists(path)}
    refs: dict[str, ImageRef] = {}
    for file in {match["file"] for match in matches.values()}:
        images = find_container(file)
        start = f"{file}#" if is_bucket_url(file) else f"{os.path.abspath(file)}#"
        names = {ref.uri.removeprefix(start): ref for ref in images.refs} if images else {}
        refs |= {
            path: names[match["name"]]
            for path, match in matches.items()
            if match["file"] == file and match["name"] in names
        }
    return refs


def find_in_pattern(source: str, files: Sequence[str], column: str | None = None) -> ImageSet:
    """Find the images in the files that a pattern stands for; see `find_inside` and `expand_braces`."""
    suffixes = {suffix_of(file) for file in files}
    if suffixes != {TAR} and not suffixes <= set(TABLES):
        raise RequestError(
            f"{source} names several files; they must be tar files, as in photos/{{000..150}}.tar, or Parquet files."
        )
    if missing := [file for file in files if not is_bucket_url(file) and not os.path.exists(file)]:
        raise RequestError(f"{source}: {len(missing)} of {len(files)} files do not exist: {examples(missing)}.")
    start = posixpath.dirname(source[: source.index("{")])  # names begin below the folder of the pattern
    located = {file.removeprefix(f"{start}/"): file if is_bucket_url(file) else os.path.abspath(file) for file in files}
    return find_inside(source, located, column)


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
