"""`cache`: list the contents of a cache folder, and prune what is no longer needed."""

import contextlib
import json
import logging
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from pipeline.core.atomic import UNFINISHED
from pipeline.core.errors import ImageError, Parameter, PipelineError, RequestError, cause
from pipeline.core.locations import Location
from pipeline.core.wording import counted
from pipeline.data.images import DIGEST, READ_AT_ONCE, ImageRef, ImageSet, content_digest
from pipeline.features.cache import LanceStore, cache_location, local_folder, named_errors, stores_in
from pipeline.features.digest_index import DigestIndex
from pipeline.features.file_index import FileIndex
from pipeline.features.lance_errors import UNREADABLE, is_conflict, lance_cause, panics_as_errors
from pipeline.features.store_bucket import stored_digests
from pipeline.features.store_folder import folder_size_and_use

log = logging.getLogger(__name__)

DAY = 24 * 60 * 60  # seconds
DELETED_AT_ONCE = 1000  # rows
KEPT_ROWS = 4096  # per data file, after rows have been removed
NO_FEATURES = re.compile("is empty|larger than|not a regular file")  # errors of files that never have features


@dataclass(frozen=True)
class CachedStore:
    """A feature store.

    Attributes:
        path: Its folder, or its URL in a bucket.
        bytes: Its size.
        last_used: When its vectors were last read or written according to the file system, or in a bucket, last
            written; in seconds since 1970.
        images: The number of images in it; None if it cannot be opened.
        extractor: The description of its extractor; empty if unknown.
        error: Why it cannot be opened, or None.
    """

    path: str
    bytes: int
    last_used: float
    images: int | None
    extractor: Mapping[str, str]
    error: str | None = None


@dataclass(frozen=True)
class CachedFile:
    """A converted network, a store that was set aside, or a leftover of a killed process.

    Attributes:
        path: The file or folder.
        bytes: Its size on disk.
        last_used: When it was last read or written according to the file system, in seconds since 1970.
    """

    path: str
    bytes: int
    last_used: float


@dataclass(frozen=True)
class CacheContents:
    """The contents of a cache folder; a bucket has stores only.

    Attributes:
        folder: The folder, or its URL in a bucket.
        stores: The feature stores.
        networks: The converted networks.
        leftovers: Unfinished files.
        set_aside: Damaged stores that were set aside; they may contain features.
        indexed: The number of files in the file index.
    """

    folder: str
    stores: Sequence[CachedStore]
    networks: Sequence[CachedFile]
    leftovers: Sequence[CachedFile]
    set_aside: Sequence[CachedFile]
    indexed: int

    @property
    def bytes(self) -> int:
        """The total size."""
        return sum(item.bytes for item in [*self.used, *self.leftovers, *self.set_aside])

    @property
    def used(self) -> "list[CachedStore | CachedFile]":
        """The stores and networks."""
        return [*self.stores, *self.networks]

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `cache`."""
        return {**asdict(self), "bytes": self.bytes}


@dataclass(frozen=True)
class Pruning:
    """What to remove from a cache folder.

    Attributes:
        folder: The folder, or its URL in a bucket.
        removed: Whole stores (including those set aside), networks and leftovers.
        rows: Store -> number of features to remove from it because their images are not kept.
        kept: The digests of the images to keep in these stores, shape (n,), DIGEST.
    """

    folder: Location | Path | str
    removed: Sequence[CachedStore | CachedFile]
    rows: Mapping[str, int] = field(default_factory=dict)
    kept: np.ndarray = field(default_factory=lambda: np.zeros(0, DIGEST))

    def __bool__(self) -> bool:
        return bool(self.removed or self.rows)


@dataclass(frozen=True)
class PruneResult:
    """The result of `cache prune`.

    Attributes:
        removed: The paths of the stores, networks and leftovers that were removed.
        rows: Store -> number of features removed from it.
        bytes: How much smaller the cache folder is; in a bucket, the size of what was removed at least a day ago.
    """

    removed: Sequence[str]
    rows: Mapping[str, int]
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `cache prune`."""
        return asdict(self)


def list_cache(folder: Location | Path | str) -> CacheContents:
    """List the contents of a cache folder.

    Args:
        folder: The cache folder, or its URL in a bucket.

    Returns:
        Stores, networks, leftovers and stores that were set aside, each sorted by name.

    Raises:
        RequestError: The folder does not exist.
        PipelineError: The folder cannot be listed.
    """
    location = cache_location(folder)
    try:
        return _contents(location)
    except OSError as error:
        raise PipelineError(f"The cache {folder} cannot be listed ({error}); check its disk.") from error


def _contents(location: Location) -> CacheContents:
    """The contents of a cache folder; raises OSError if the system refuses to list it."""
    stores = [_store(path, store) for path, store in stores_in(location).items()]
    folder = location.path
    if folder is None:
        return CacheContents(str(location), stores, networks=[], leftovers=[], set_aside=[], indexed=0)
    if not folder.is_dir():
        raise RequestError(f"There is no cache folder {folder}; name another with ", Parameter("cache", "DIR"), ".")
    networks = [file for file in _sorted(folder, "networks/*") if file.suffix not in (".lock", "")]
    leftovers = _sorted(folder, f"networks/{UNFINISHED}*")
    return CacheContents(
        folder=str(folder),
        stores=stores,
        networks=[_file(path) for path in networks if path not in leftovers],
        leftovers=[_file(path) for path in leftovers],
        set_aside=[_file(path) for path in _sorted(folder, "features/*.damaged-*")],
        indexed=_count_indexed(folder / "images.sqlite"),
    )


def _sorted(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern))


def _file(path: Path) -> CachedFile:
    size, used = folder_size_and_use(path)
    return CachedFile(str(path), size, used)


def _store(path: str, store: LanceStore) -> CachedStore:
    size, used = store.size_and_use()
    try:
        with panics_as_errors():
            description = json.loads((store.dataset().schema.metadata or {}).get(b"extractor", b"{}"))
            return CachedStore(path, size, used, store.count(), description)
    except UNREADABLE as error:
        return CachedStore(path, size, used, None, {}, lance_cause(error))


def _count_indexed(database: Path) -> int:
    if not database.is_file():
        return 0
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
            return connection.execute("SELECT count(*) FROM files").fetchone()[0]
    except (sqlite3.Error, UnicodeDecodeError):
        return 0


def plan_pruning(
    folder: Location | Path | str,
    older_than: float | None = None,
    images: ImageSet | None = None,
    set_aside: bool = False,
) -> Pruning:
    """Find what to remove: all leftovers, and what the arguments select.

    Args:
        folder: The cache folder, or its URL in a bucket.
        older_than: Remove stores and networks that have not been used for this many days.
        images: Remove the features of all other images.
        set_aside: Remove damaged stores that were set aside.

    Returns:
        What to remove.

    Raises:
        RequestError: The folder does not exist; or `older_than` is set for a bucket, where the last use of a store is
            unknown.
        PipelineError: The file index, a store or an image cannot be read; the features to keep are identified by the
            images' content.
    """
    location = cache_location(folder)
    if older_than is not None and location.is_bucket:
        raise RequestError(
            Parameter("older_than", "DAYS"),
            " does not work in a bucket, where nobody notes when a store was last read; remove a store there with the "
            "tools of its provider.",
        )
    contents = list_cache(location)
    before = 0.0 if older_than is None else time.time() - older_than * DAY
    old = [item for item in contents.used if item.last_used < before]
    removed = [*old, *contents.leftovers, *(contents.set_aside if set_aside else ())]
    if images is None:
        return Pruning(location, removed)
    kept, stores = DigestIndex(_digests(images, local_folder(location))), stores_in(location)
    used = [store.path for store in contents.stores if store not in old and store.images is not None]
    for store in contents.stores:
        if store.error:
            log.warning("The feature store %s cannot be opened (%s) and is left unchanged.", store.path, store.error)
    rows = {}
    for path in used:
        with named_errors(stores[path], "prune"):
            rows[path] = int((kept.find(stored_digests(stores[path].dataset())) < 0).sum())
    return Pruning(location, removed, {path: count for path, count in rows.items() if count}, kept.sorted)


def _digests(images: ImageSet, folder: Path) -> np.ndarray:
    """The distinct digests of images; files that are not in the index are read.

    Raises:
        PipelineError: An image cannot be read, or images may be missing.
    """
    if images.unread:
        raise PipelineError(f"{images.unread[0]} cannot be read; nothing was removed.")
    with contextlib.closing(FileIndex(folder)) as index:
        if os.path.isdir(images.source):
            _check_folders(images.source, index)
        digests = list(index.digests(images.refs))
    unknown = [number for number, digest in enumerate(digests) if not digest]
    with ThreadPoolExecutor(READ_AT_ONCE, "contents") as pool:
        read = list(pool.map(_digest_or_error, (images.refs[number] for number in unknown)))
    failed = [
        (images.paths[number], str(error))
        for number, error in zip(unknown, read, strict=True)
        if isinstance(error, ImageError) and not NO_FEATURES.search(str(error))
    ]
    if failed:
        path, reason = failed[0]
        raise PipelineError(
            f"{counted(len(failed), 'image')} of {images.source} cannot be read, such as {path}: {reason}. So "
            "it is not known which features to keep, and nothing was removed. Is its disk mounted?"
        )
    known = {digest for digest in [*digests, *read] if isinstance(digest, bytes) and digest}
    return np.frombuffer(b"".join(known), DIGEST)


def _digest_or_error(ref: ImageRef) -> bytes | ImageError:
    try:
        return content_digest(ref.read()[0])
    except ImageError as error:
        return error


def _check_folders(root: str, index: FileIndex) -> None:
    """Check that no images of a folder are missing because a disk is not mounted.

    Raises:
        PipelineError: A folder cannot be listed, a link is broken, or a folder that had images before is empty.
    """
    seen, folders = set(), [root]
    while folders:
        folder = folders.pop()
        try:
            status, entries = os.stat(folder), list(os.scandir(folder))
            broken_links = [entry.path for entry in entries if entry.is_symlink() and not os.path.exists(entry.path)]
        except OSError as error:
            raise PipelineError(f"{folder} cannot be read ({cause(error)}); nothing was removed.") from error
        if broken_links:
            raise PipelineError(f"The link {broken_links[0]} leads nowhere; is its disk mounted? Nothing was removed.")
        if not entries and index.knows_below(Path(folder)):
            raise PipelineError(
                f"{folder} is empty, but images were read there before; is its disk mounted? Nothing was removed. If "
                "they are gone for good, remove the empty folder."
            )
        if (inode := (status.st_dev, status.st_ino)) not in seen:
            seen.add(inode)
            folders += [entry.path for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def prune(pruning: Pruning) -> PruneResult:
    """Remove what was planned; extractions into the folder wait until this is done.

    Args:
        pruning: What to remove, from `plan_pruning`.

    Returns:
        What was removed.

    Raises:
        PipelineError: Something cannot be removed.
    """
    location = cache_location(pruning.folder)
    before, in_bucket = list_cache(location).bytes, location.is_bucket
    for item in pruning.removed:
        _remove(Path(item.path))
    for path, store in stores_in(location).items():
        with named_errors(store, "prune"), store.merging(wait=True), store.lock():
            if path in pruning.rows:
                _delete_others(store, DigestIndex(pruning.kept))
            if path in pruning.rows or in_bucket:  # in a bucket, an earlier prune may have left files to delete now
                store.shrink(store.dataset())
    after = list_cache(location).bytes
    return PruneResult([item.path for item in pruning.removed], pruning.rows, max(0, before - after))


def _remove(path: Path) -> None:
    lock = "converting" if path.parent.name == "networks" else path.name.partition(".")[0]
    try:
        with FileLock(path.parent / f"{lock}.lock"):  # held by any process that writes there
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    except OSError as error:
        raise PipelineError(
            f"{path} cannot be removed ({cause(error)}). Check that it is readable and writable, or delete it."
        ) from error


def _delete_others(store: LanceStore, kept: DigestIndex) -> None:
    """Delete the rows of all images except those to keep."""
    dataset = store.dataset()
    digests = stored_digests(dataset)
    removed = digests[kept.find(digests) < 0].tolist()
    for start in range(0, len(removed), DELETED_AT_ONCE):
        keys = ", ".join(f"X'{digest.hex()}'" for digest in removed[start : start + DELETED_AT_ONCE])
        dataset.delete(f"digest IN ({keys})")
    try:
        dataset.optimize.compact_files(target_rows_per_fragment=KEPT_ROWS)
    except UNREADABLE as error:
        if not is_conflict(error):
            raise
