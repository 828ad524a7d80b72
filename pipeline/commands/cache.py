"""`cache`: what the cache folder holds, and removing what no longer serves."""

import contextlib
import json
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
from filelock import FileLock

from pipeline.core.atomic import UNFINISHED
from pipeline.core.errors import PipelineError, RequestError, cause
from pipeline.data.images import DIGEST, ImageSet, content_digest, contents_of
from pipeline.features.digest_index import DigestIndex
from pipeline.features.file_index import FileIndex
from pipeline.features.store_repair import UNREADABLE, lance_cause

DAY = 24 * 60 * 60  # seconds
DELETED_AT_ONCE = 1000  # rows
KEPT_ROWS = 4096  # in a data file, after rows were removed


@dataclass(frozen=True)
class CachedStore:
    """A feature store.

    Attributes:
        path: Its folder.
        bytes: Its size on disk.
        last_used: When its vectors were last read or written, as far as the file system knows; seconds since 1970.
        images: How many images it holds; None where it cannot be opened.
        extractor: What computed the features; empty where that is not known.
    """

    path: str
    bytes: int
    last_used: float
    images: int | None
    extractor: Mapping[str, str]


@dataclass(frozen=True)
class CachedFile:
    """A converted network, or what a process left behind that was killed.

    Attributes:
        path: The file or folder.
        bytes: Its size on disk.
        last_used: When it was last read or written, as far as the file system knows; seconds since 1970.
    """

    path: str
    bytes: int
    last_used: float


@dataclass(frozen=True)
class CacheContents:
    """What a cache folder holds.

    Attributes:
        folder: The folder.
        stores: The feature stores.
        networks: The converted networks.
        leftovers: Unfinished files, and damaged stores that were set aside.
        indexed: How many files the file index knows.
    """

    folder: str
    stores: Sequence[CachedStore]
    networks: Sequence[CachedFile]
    leftovers: Sequence[CachedFile]
    indexed: int

    @property
    def bytes(self) -> int:
        """The size of all of it."""
        return sum(item.bytes for item in [*self.used, *self.leftovers])

    @property
    def used(self) -> "list[CachedStore | CachedFile]":
        """The stores and networks."""
        return [*self.stores, *self.networks]

    def to_json(self) -> dict[str, Any]:
        """The `cache` document of the contract."""
        return {**asdict(self), "bytes": self.bytes}


@dataclass(frozen=True)
class Pruning:
    """What is to be removed from a cache folder.

    Attributes:
        folder: The folder.
        removed: Whole stores, networks and leftovers.
        rows: Store -> how many of its features belong to no image that is kept.
        kept: The digests of the images whose features stay in these stores, shape (n,), DIGEST.
    """

    folder: Path
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
        rows: Store -> how many features were removed from it.
        bytes: By how much the cache folder is smaller.
    """

    removed: Sequence[str]
    rows: Mapping[str, int]
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """The `cache prune` document of the contract."""
        return asdict(self)


def list_cache(folder: Path) -> CacheContents:
    """List what a cache folder holds.

    Args:
        folder: The cache folder.

    Returns:
        Stores, networks and leftovers, each in the order of their names.

    Raises:
        RequestError: There is no such folder.
    """
    if not folder.is_dir():
        raise RequestError(f"There is no cache folder {folder}; name another with cache=DIR.")
    networks = [file for file in _sorted(folder, "networks/*") if file.suffix not in (".lock", "")]
    leftovers = [*_sorted(folder, f"networks/{UNFINISHED}*"), *_sorted(folder, "features/*.damaged-*")]
    return CacheContents(
        folder=str(folder),
        stores=[_store(path) for path in _sorted(folder, "features/*.lance")],
        networks=[_file(path) for path in networks if path not in leftovers],
        leftovers=[_file(path) for path in leftovers],
        indexed=_count_indexed(folder / "images.sqlite"),
    )


def _sorted(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern))


def _file(path: Path) -> CachedFile:
    size, used = _size_and_use(path)
    return CachedFile(str(path), size, used)


def _store(path: Path) -> CachedStore:
    size, _ = _size_and_use(path)
    _, used = _size_and_use(path / "data")  # opening a store reads the rest
    try:
        dataset = lance.dataset(path)
        described = json.loads((dataset.schema.metadata or {}).get(b"extractor", b"{}"))
        return CachedStore(str(path), size, used, dataset.count_rows(), described)
    except UNREADABLE:
        return CachedStore(str(path), size, used, None, {})


def _size_and_use(path: Path) -> tuple[int, float]:
    """Bytes, and the latest time that a file of it was read or written."""
    size, used = 0, 0.0
    for file in [path, *path.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):  # another process is at work
            status = file.stat()
            if not file.is_dir():
                size, used = size + status.st_size, max(used, status.st_atime, status.st_mtime)
            elif not used:
                used = status.st_mtime
    return size, used


def _count_indexed(database: Path) -> int:
    if not database.is_file():
        return 0
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
            return connection.execute("SELECT count(*) FROM files").fetchone()[0]
    except sqlite3.DatabaseError:
        return 0


def plan_pruning(folder: Path, older_than: float | None = None, images: ImageSet | None = None) -> Pruning:
    """Find what no longer serves: leftovers always, and what is asked for.

    Args:
        folder: The cache folder.
        older_than: Days; stores and networks that were not used for longer.
        images: The images to keep features of; those of all others.

    Returns:
        What to remove.

    Raises:
        RequestError: There is no such folder.
        PipelineError: The file index or a store cannot be read.
    """
    contents = list_cache(folder)
    before = 0.0 if older_than is None else time.time() - older_than * DAY
    old = [item for item in contents.used if item.last_used < before]
    removed = [*old, *contents.leftovers]
    if images is None:
        return Pruning(folder, removed)
    kept = DigestIndex(_digests(images, folder))
    rows = {store.path: int((kept.find(_stored(store)) < 0).sum()) for store in contents.stores if store not in old}
    return Pruning(folder, removed, {path: count for path, count in rows.items() if count}, kept.sorted)


def _digests(images: ImageSet, folder: Path) -> np.ndarray:
    """The distinct digests of images; those that the file index does not know are read."""
    with contextlib.closing(FileIndex(folder)) as index:
        known = [index.digest(ref) for ref in images.refs]
    unknown = [ref for ref, digest in zip(images.refs, known, strict=True) if not digest]
    found = {digest for digest in known if digest}
    found.update(content_digest(content) for content in contents_of(unknown) if content is not None)
    return np.frombuffer(b"".join(found), DIGEST)


def _stored(store: CachedStore) -> np.ndarray:
    """The digests that a store holds; none where it cannot be opened."""
    if store.images is None:
        return np.zeros(0, DIGEST)
    with _named_errors(store.path):
        column = lance.dataset(store.path).to_table(columns=["digest"])["digest"]
        return np.frombuffer(b"".join(column.to_pylist()), DIGEST)


@contextlib.contextmanager
def _named_errors(path: str) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise PipelineError(
            f"{path} cannot be pruned ({cause(error) if isinstance(error, OSError) else lance_cause(error)}). "
            "Check that it is readable and writable, or delete it."
        ) from error


def prune(pruning: Pruning) -> PruneResult:
    """Remove what was planned; a running extraction waits meanwhile.

    Args:
        pruning: What to remove.

    Returns:
        What was removed.

    Raises:
        PipelineError: Something cannot be removed.
    """
    before = list_cache(pruning.folder).bytes
    for item in pruning.removed:
        path = Path(item.path)
        with _named_errors(item.path), FileLock(_lock(path)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for store in pruning.rows:
        with _named_errors(store), FileLock(_lock(Path(store))):
            _delete_others(store, DigestIndex(pruning.kept))
    after = list_cache(pruning.folder).bytes
    return PruneResult([item.path for item in pruning.removed], pruning.rows, before - after)


def _lock(path: Path) -> Path:
    """The lock that a process holds while it writes there."""
    name = "converting" if path.parent.name == "networks" else path.name.partition(".")[0]
    return path.parent / f"{name}.lock"


def _delete_others(store: str, kept: DigestIndex) -> None:
    """Delete the rows of other images, and the files that held them."""
    dataset = lance.dataset(store)
    digests = np.frombuffer(b"".join(dataset.to_table(columns=["digest"])["digest"].to_pylist()), DIGEST)
    others = digests[kept.find(digests) < 0].tolist()
    for start in range(0, len(others), DELETED_AT_ONCE):
        keys = ", ".join(f"X'{digest.hex()}'" for digest in others[start : start + DELETED_AT_ONCE])
        dataset.delete(f"digest IN ({keys})")
    dataset.optimize.compact_files(target_rows_per_fragment=KEPT_ROWS)
    dataset.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
