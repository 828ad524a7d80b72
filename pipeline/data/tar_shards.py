"""Images in tar files, such as the shards of WebDataset and img2dataset, read at their positions without unpacking.

The files of a sample share a key, their name up to the first dot (https://github.com/webdataset/webdataset): next to
`0001.jpg`, the text of `0001.cls` is its label, and `0001.json` may have the columns of a list, such as `label`.
"""

import contextlib
import io
import json
import logging
import os
import posixpath
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from pipeline.core.errors import ImageError, RequestError
from pipeline.core.locations import is_bucket_url
from pipeline.core.wording import counted, examples
from pipeline.data import lists
from pipeline.data.bucket_files import ObjectStream
from pipeline.data.buckets import read_range
from pipeline.data.image_names import SUFFIXES, image_set, is_ignored, pass_over, suffix_of
from pipeline.data.images import ImageSet, PartRef, check_size, open_image, stable_version, version_of
from pipeline.data.tables import as_vector, cell_text
from pipeline.data.tar_headers import DamagedTar, Member, read_members

log = logging.getLogger(__name__)

SUFFIX = ".tar"
LABEL, COLUMNS = ".cls", ".json"  # suffixes of files that describe a sample
DESCRIPTION = 2**20  # bytes; larger ones are not read
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz and zstd
READ_AHEAD = 2**18  # bytes of an object per request, enough for the headers of several small members
AT_ONCE = 16  # objects listed in parallel
NO_COLUMNS = dict.fromkeys(lists.COLUMNS)


@dataclass(frozen=True, slots=True)
class TarMember(PartRef):
    """A member of a tar file.

    Attributes:
        offset: The position of its content in the tar file.
        size: The size of its content, in bytes.
    """

    offset: int = 0
    size: int = 0

    def read(self) -> tuple[bytes, str | None]:
        """Read the member; see `ImageRef.read`."""
        check_size(self.size)
        if self.is_remote:
            data, _, version = read_range(self.file, self.offset, self.offset + self.size)
            self.check_unchanged(version)
        else:
            with open_image(self.file) as (stream, status):
                self.check_unchanged(version_of(status))
                version = stable_version(status)
                stream.seek(self.offset)
                data = stream.read(min(self.size, max(0, status.st_size - self.offset)))
        if len(data) < self.size:
            raise ImageError(f"{posixpath.basename(self.file)} ends within it: the file is truncated")
        return data, version


@dataclass
class _Contents:
    """The contents of a tar file, from its headers.

    Attributes:
        file: Its path or URL.
        version: Its version.
        images: Name -> the member; the last of several with the same name, as in unpacking.
        columns: Key of a sample -> the columns that describe it.
        others: Names of other files.
        empty: Names of empty images, the first few.
        empty_count: The number of empty images.
        damage: Why the rest of the tar file cannot be read, or "".
    """

    file: str
    version: str | None = None
    images: dict[str, Member] = field(default_factory=dict)
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    empty_count: int = 0
    damage: str = ""


def find_members(source: str, files: Mapping[str, str]) -> ImageSet:
    """Find the images in tar files.

    They are named as if all tar files were unpacked into one folder; if two tar files share a member name, all images
    are named `TAR#MEMBER`. The label is the text of the `.cls` or the `label` of the `.json` next to the image, or else
    the name of its folder. A damaged tar file is reported, and its members before the damage are used.

    Args:
        source: The source as the user named it.
        files: Name of a tar file -> its absolute path or URL.

    Returns:
        The images in path order.

    Raises:
        RequestError: There are no images.
        PipelineError: A bucket's server does not answer.
    """
    with ThreadPoolExecutor(AT_ONCE, "tar") as pool:
        are_remote = all(map(is_bucket_url, files.values()))
        contents = dict(zip(files, (pool.map if are_remote else map)(_contents, files.values()), strict=True))
    damaged = [f"{name}: {tar.damage}" for name, tar in contents.items() if tar.damage]
    for line in damaged:
        log.warning("%s; the members after that are left out.", line)
    if empty := sum(tar.empty_count for tar in contents.values()):
        names = [name for tar in contents.values() for name in tar.empty]
        log.warning("Left out %s without content: %s.", counted(empty, "member"), examples(names))
    count = sum(len(tar.images) for tar in contents.values())
    if not count:
        why = f" ({damaged[0]})" if damaged else f" (looked for members with {' '.join(SUFFIXES)})"
        raise RequestError(f"{source}: no images in {examples(list(files))}{why}.")
    are_unique = len(set().union(*(tar.images for tar in contents.values()))) == count
    members = {
        (member if are_unique else f"{name}#{member}"): (tar, member)
        for name, tar in contents.items()
        for member in tar.images
    }
    paths = sorted(members)
    refs = [_ref(*members[path]) for path in paths]
    rows = {path: _columns_of(*members[path]) for path in paths}
    columns = lists.columns_of(source, rows, {path: [row["target"]] for path, row in rows.items()})
    passed_over = pass_over(name for tar in contents.values() for name in tar.others)
    unread = [files[name] for name, tar in contents.items() if tar.damage]
    return image_set(source, paths, refs, passed_over=passed_over, unread=unread, **columns)


def _ref(tar: _Contents, name: str) -> TarMember:
    member = tar.images[name]
    return TarMember(f"{tar.file}#{name}", None, tar.version, tar.file, member.offset, member.size)


def _columns_of(tar: _Contents, name: str) -> dict[str, Any]:
    """The columns of an image; its label may come from its folder."""
    columns = NO_COLUMNS | tar.columns.get(_key(name), {})
    if columns["label"] is None:
        columns["label"] = posixpath.basename(posixpath.dirname(name))
    return columns


def _contents(file: str) -> _Contents:
    """Read the headers of a tar file, and the files that describe samples."""
    contents = _Contents(file)
    try:
        with _open(file) as (stream, contents.version):
            if stream.read(6).startswith(COMPRESSED):
                raise DamagedTar("it is compressed, so its members cannot be read one by one; decompress it first")
            for member in read_members(stream):
                _note(contents, member, stream)
    except (DamagedTar, ImageError) as error:
        contents.damage = str(error)
    return contents


def _note(contents: _Contents, member: Member, stream: BinaryIO) -> None:
    name = member.name.removeprefix("./").lstrip("/")
    if any(map(is_ignored, name.split("/"))):
        return
    suffix = suffix_of(name)
    if suffix in SUFFIXES:
        if member.size:
            contents.images[name] = member
        else:
            contents.empty_count += 1
            contents.empty += [name] if len(contents.empty) < 6 else []
    elif suffix in (LABEL, COLUMNS):
        if 0 < member.size <= DESCRIPTION:
            stream.seek(member.offset)
            columns = contents.columns.setdefault(_key(name), {})
            columns |= _described(stream.read(member.size), suffix, columns)
    elif member.size:
        contents.others.append(name)


def _described(content: bytes, suffix: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """The columns in a description; empty if it has none. The label in a `.cls` takes precedence."""
    with contextlib.suppress(RequestError, ValueError, RecursionError, OverflowError):
        if suffix == LABEL:
            return {"label": cell_text(content.strip(), "")}
        values = json.loads(content)
        if isinstance(values, dict):
            named = {str(name).lower(): value for name, value in values.items()}
            columns = {name: _cell(name, named.get(name)) for name in lists.COLUMNS if name not in known}
            return {name: value for name, value in columns.items() if value is not None}
    return {}


def _cell(name: str, value: Any) -> Any:
    if name == "target":
        are_numbers = isinstance(value, list) and all(type(number) in (int, float) for number in value)
        return as_vector(np.array(value, np.float64)) if are_numbers else None
    return cell_text(value, "") if isinstance(value, str | int | float) else None


def _key(name: str) -> str:
    """The key of a sample: a name up to the first dot after its folders."""
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.partition(".")[0])


@contextlib.contextmanager
def _open(file: str) -> Iterator[tuple[BinaryIO, str | None]]:
    """Open a tar file.

    Yields:
        The open file, and its version.

    Raises:
        ImageError: It cannot be read.
        PipelineError: The bucket's server does not answer.
    """
    if is_bucket_url(file):
        stream = ObjectStream(file)
        yield io.BufferedReader(stream, READ_AHEAD), stream.version
    else:
        with open_image(os.path.abspath(file)) as (opened, status):
            yield opened, version_of(status)
