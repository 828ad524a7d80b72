"""The two locations of a feature store: a folder, or a bucket.

In a folder, a lock lets one process append at a time, and damaged files can be renamed and left out. In a bucket,
neither is possible; there, Lance's conditional commits keep processes from overwriting each other.
"""

import contextlib
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import lance
import numpy as np
import pyarrow as pa
from filelock import FileLock

from pipeline.core.errors import PipelineError
from pipeline.data.images import DIGEST
from pipeline.features import bucket
from pipeline.features.store_repair import (
    UNREADABLE,
    drop_damaged_files,
    lance_cause,
    open_newest_readable,
)

# Versions replaced by merging are kept for readers that opened the store before.
KEEP_OLD_VERSIONS = timedelta(days=1)
RUN_AGAIN = "Run extract --verify on these images to compute the lost features again."

# The task that failed -> the rest of the message.
IN_FOLDER = {
    "open": (
        "cannot be opened ({}). Nothing in it was changed. Remove the cause, choose another cache folder, or delete "
        "this store to compute its features again."
    ),
    "read": f"cannot be read ({{}}). If its files are damaged: {RUN_AGAIN}",
    "write": (
        "cannot be written ({}). What was stored before is kept; make room, or choose another cache folder, and run "
        "the same command again."
    ),
    "tidy": f"cannot be tidied ({{}}). What was computed is stored; if a data file of it is missing: {RUN_AGAIN}",
    "repair": (
        "cannot be checked ({}). What it holds is left as it is. Remove the cause, or delete this store to compute its "
        "features again."
    ),
    "prune": "cannot be pruned ({}). Check that it is readable and writable, or delete it.",
}
LOST = "cannot be read ({}); a store in a bucket is not repaired. Delete it there to compute its features again."
IN_BUCKET = {
    "open": (
        "cannot be opened ({}). Choose another place, or delete this store in the bucket to compute its features again."
    ),
    "read": LOST,
    "write": "cannot be written ({}). What was stored before is kept; run the same command again.",
    "tidy": "cannot be read ({}), but what was computed is stored. Run the same command again.",
    "repair": LOST,
    "prune": "cannot be pruned ({}). Run the same command again, or delete this store in the bucket.",
}
DONE = {"open": "opened", "read": "read", "write": "written", "tidy": "read", "repair": "read", "prune": "pruned"}


class StoreLocation(Protocol):
    """The location of a feature store.

    Attributes:
        commit_cost: The commit interval, as a multiple of a folder's.
    """

    commit_cost: int

    @property
    def path(self) -> Path | str:
        """The Lance dataset: a path, or a URL."""
        ...

    def lock(self) -> AbstractContextManager[object]:
        """The lock to hold while the store is changed."""
        ...

    def dataset(self) -> lance.LanceDataset:
        """Open the newest version."""
        ...

    def open_or_create(self, schema: pa.Schema) -> lance.LanceDataset:
        """Open the newest version that is not damaged, or create the store."""
        ...

    def repair(self, error: Exception) -> tuple[lance.LanceDataset, int]:
        """Leave out damaged data files; returns the dataset and their number. Raises the error if it cannot."""
        ...

    def tidy(self, dataset: lance.LanceDataset) -> None:
        """Remove the leftovers of killed processes at the end of an extraction."""
        ...

    def shrink(self, dataset: lance.LanceDataset) -> None:
        """Remove the files of deleted rows, unless another process may need them."""
        ...

    def count(self) -> int:
        """The number of images in the store."""
        ...

    def size_and_use(self) -> tuple[int, float]:
        """Bytes, and the last known use of the store, in seconds since 1970."""
        ...

    def error(self, task: str, error: BaseException) -> PipelineError:
        """The error for a failed task, a key of `DONE`."""
        ...


class StoreFolder:
    """A store in a folder; see `StoreLocation`."""

    commit_cost = 1

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path.with_suffix(".lock"))

    def lock(self) -> FileLock:
        """The lock next to the store."""
        return self._lock

    def dataset(self) -> lance.LanceDataset:
        """Open the newest version."""
        return lance.dataset(self.path)

    def open_or_create(self, schema: pa.Schema) -> lance.LanceDataset:
        """Open the newest version that is not damaged, or create the store."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return lance.dataset(self.path)
        except UNREADABLE:
            with self._lock:
                return open_newest_readable(self.path, schema)

    def repair(self, error: Exception) -> tuple[lance.LanceDataset, int]:
        """Leave out damaged data files."""
        return drop_damaged_files(self.path)

    def tidy(self, dataset: lance.LanceDataset) -> None:
        """Remove the leftovers of killed processes. Call it with the lock held, so that no process is still writing.

        Raises:
            OSError: A data file is missing: Lance keeps appending even if the store is removed between two commits.
        """
        for fragment in dataset.get_fragments():
            for file in fragment.data_files():
                (self.path / "data" / file.path).stat()
        dataset.cleanup_old_versions(older_than=KEEP_OLD_VERSIONS, delete_unverified=True)
        for leftover in self.path.glob("_*/.tmp*"):  # Lance does not remove these
            leftover.unlink(missing_ok=True)

    def shrink(self, dataset: lance.LanceDataset) -> None:
        """Remove all files except those of the newest version. Call it with the lock held."""
        dataset.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)

    def count(self) -> int:
        """The number of images in the store."""
        return self.dataset().count_rows()

    def size_and_use(self) -> tuple[int, float]:
        """Bytes on disk, and the last time a vector was read or written; the creation time if there is none."""
        size, used = folder_size_and_use(self.path)
        return size, folder_size_and_use(self.path / "data")[1] or used  # opening a store reads the other files, too

    def error(self, task: str, error: BaseException) -> PipelineError:
        """The error for a failed task."""
        return _error(self.path, IN_FOLDER[task], lance_cause(error))


class StoreInBucket:
    """A store in a bucket; see `StoreLocation`.

    Unfinished files may belong to a process on another machine, so only Lance's own clean-up removes them, after a
    week. Versions are removed only after a day: a commit that hangs meanwhile must find a later version.
    """

    commit_cost = 10  # a commit takes five requests

    def __init__(self, url: str) -> None:
        self.path = url

    def lock(self) -> AbstractContextManager[None]:
        """A context that does nothing: a bucket has no lock."""
        return contextlib.nullcontext()

    def dataset(self) -> lance.LanceDataset:
        """Open the newest version."""
        return lance.dataset(self.path, storage_options=bucket.storage_options())

    def open_or_create(self, schema: pa.Schema) -> lance.LanceDataset:
        """Open the newest version, or create the store."""
        if "_versions" not in bucket.folders_in(self.path):
            self._create(schema)
        return self.dataset()

    def _create(self, schema: pa.Schema) -> None:
        """Upload the first version of an empty store.

        Lance's own creation empties a store that another process creates and fills at the same moment. This replaces
        the first version by an identical one and leaves later versions alone.
        """
        with tempfile.TemporaryDirectory() as folder:
            lance.write_dataset(schema.empty_table(), folder, mode="create")
            bucket.upload(Path(folder), self.path)

    def repair(self, error: Exception) -> tuple[lance.LanceDataset, int]:
        """Raise the error: files that cannot be read now may be intact, as the network may be at fault."""
        raise error

    def tidy(self, dataset: lance.LanceDataset) -> None:
        """Do nothing: finding old files takes a request per version; merging and `cache prune` remove them."""

    def shrink(self, dataset: lance.LanceDataset) -> None:
        """Remove versions that were replaced more than a day ago."""
        dataset.cleanup_old_versions(older_than=KEEP_OLD_VERSIONS)

    def count(self) -> int:
        """The number of images in the store; images stored twice count once."""
        return len(stored_digests(self.dataset()))

    def size_and_use(self) -> tuple[int, float]:
        """Bytes in the bucket, and the last write to the store; reads are not recorded."""
        try:
            files = self.dataset().all_files().read_all()
        except UNREADABLE as error:
            if bucket.meaning(error):
                raise self.error("open", error) from error
            return 0, 0.0  # it is damaged
        written = max((time.timestamp() for time in files["last_modified"].to_pylist()), default=0.0)
        return sum(files["size_bytes"].to_pylist()), written

    def error(self, task: str, error: BaseException) -> PipelineError:
        """The error for a failed task."""
        if explanation := bucket.meaning(error):
            return PipelineError(f"The feature store {self.path} cannot be {DONE[task]}: {explanation}.")
        return _error(self.path, IN_BUCKET[task], bucket.short_cause(error))


def _error(path: Path | str, message: str, cause: str) -> PipelineError:
    return PipelineError(f"The feature store {path} {message.format(cause)}")


def stored_digests(dataset: lance.LanceDataset) -> np.ndarray:
    """The distinct digests in a version of a store, DIGEST."""
    return np.unique(np.frombuffer(b"".join(dataset.to_table(columns=["digest"])["digest"].to_pylist()), DIGEST))


def is_conflict(error: BaseException) -> bool:
    """Whether Lance failed because another process committed first."""
    return "conflict" in str(error)


def store_location(cache: Path | str, fingerprint: str) -> StoreLocation:
    """The location of an extractor's features in a cache."""
    name = f"features/{fingerprint}.lance"
    return StoreInBucket(f"{cache}/{name}") if isinstance(cache, str) else StoreFolder(cache / name)


def stores_in(cache: Path | str) -> Mapping[str, StoreLocation]:
    """The stores of a cache by path, sorted by name.

    Raises:
        PipelineError: The cache cannot be listed.
    """
    try:
        if isinstance(cache, str):
            names = bucket.folders_in(f"{cache}/features")
        else:
            names = sorted(path.name for path in cache.glob("features/*.lance"))
    except UNREADABLE as error:
        explanation = bucket.meaning(error) if isinstance(cache, str) else None
        raise PipelineError(
            f"The cache {cache} cannot be listed: {explanation or bucket.short_cause(error)}."
        ) from error
    stores = [store_location(cache, name.removesuffix(".lance")) for name in names if name.endswith(".lance")]
    return {str(store.path): store for store in stores}


def has_store(cache: Path | str, fingerprint: str) -> bool:
    """Whether a cache has a store for an extractor.

    Raises:
        PipelineError: The cache cannot be listed.
    """
    return str(store_location(cache, fingerprint).path) in stores_in(cache)


def folder_size_and_use(path: Path) -> tuple[int, float]:
    """Bytes of a file or folder, and the latest time one of its files was read or written."""
    size, used = 0, 0.0
    for file in [path, *path.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            status = file.stat()
            if not file.is_dir():
                size, used = size + status.st_size, max(used, status.st_atime, status.st_mtime)
            elif not used:
                used = status.st_mtime
    return size, used
