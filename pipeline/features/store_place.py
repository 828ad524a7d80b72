"""The two places a feature store can lie in: a folder, or a bucket.

In a folder a lock lets one process append at a time, and what is damaged can be renamed and left out. A bucket has
neither; Lance's conditional commits keep processes from overwriting each other there.
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

# Versions that merging has replaced are kept for a reader that opened the store before.
KEEP_OLD_VERSIONS = timedelta(days=1)
RUN_AGAIN = "Run extract --verify on these images to compute the lost features again."

# What failed -> the rest of a message.
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


class StorePlace(Protocol):
    """Where a feature store lies.

    Attributes:
        commit_cost: How many times as rarely as to a folder it is committed to.
    """

    commit_cost: int

    @property
    def path(self) -> Path | str:
        """The Lance dataset: a path, or a URL."""
        ...

    def lock(self) -> AbstractContextManager[object]:
        """What is held while the store is changed."""
        ...

    def dataset(self) -> lance.LanceDataset:
        """Open the newest version."""
        ...

    def open_or_create(self, schema: pa.Schema) -> lance.LanceDataset:
        """Open the newest version that is not damaged, or create the store."""
        ...

    def repair(self, error: Exception) -> tuple[lance.LanceDataset, int]:
        """Leave out the data files that are damaged; returns how many. It raises the error where it cannot."""
        ...

    def tidy(self, dataset: lance.LanceDataset) -> None:
        """Remove what killed processes left, when an extraction ends."""
        ...

    def shrink(self, dataset: lance.LanceDataset) -> None:
        """Remove the files of deleted rows, as far as no other process may need them."""
        ...

    def count(self) -> int:
        """How many images it holds."""
        ...

    def size_and_use(self) -> tuple[int, float]:
        """Bytes, and when the store was last used as far as is known, in seconds since 1970."""
        ...

    def error(self, task: str, error: BaseException) -> PipelineError:
        """The message for a task of `DONE` that failed."""
        ...


class StoreFolder:
    """A store in a folder; see `StorePlace`."""

    commit_cost = 1

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path.with_suffix(".lock"))

    def lock(self) -> FileLock:
        """A lock beside the store."""
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
        """Leave out the data files that are damaged."""
        return drop_damaged_files(self.path)

    def tidy(self, dataset: lance.LanceDataset) -> None:
        """Remove what killed processes left. Call it with the lock held, so nothing belongs to a running process.

        Raises:
            OSError: A data file is missing: Lance goes on appending where somebody removes a store between two commits.
        """
        for fragment in dataset.get_fragments():
            for file in fragment.data_files():
                (self.path / "data" / file.path).stat()
        dataset.cleanup_old_versions(older_than=KEEP_OLD_VERSIONS, delete_unverified=True)
        for left in self.path.glob("_*/.tmp*"):  # which Lance does not clean up
            left.unlink(missing_ok=True)

    def shrink(self, dataset: lance.LanceDataset) -> None:
        """Remove all files but those of the newest version. Call it with the lock held."""
        dataset.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)

    def count(self) -> int:
        """How many images it holds."""
        return self.dataset().count_rows()

    def size_and_use(self) -> tuple[int, float]:
        """Bytes on disk, and when a vector was last read or written; when it was created, if it has none."""
        size, used = folder_size_and_use(self.path)
        return size, folder_size_and_use(self.path / "data")[1] or used  # opening a store reads the rest

    def error(self, task: str, error: BaseException) -> PipelineError:
        """The message for a task that failed."""
        return _error(self.path, IN_FOLDER[task], lance_cause(error))


class StoreInBucket:
    """A store in a bucket; see `StorePlace`.

    Unfinished files may belong to a process on another machine, so only Lance's own clean-up removes them, after a
    week. Versions are kept for a day before they are removed: a commit that hangs meanwhile must find a later one.
    """

    commit_cost = 10  # a commit takes five requests

    def __init__(self, url: str) -> None:
        self.path = url

    def lock(self) -> AbstractContextManager[None]:
        """None: there is no lock in a bucket."""
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
        """Copy the first version of an empty store there.

        Lance's own creation empties a store that another process creates and fills at the same moment. This puts the
        same first version in its place, whatever versions came after.
        """
        with tempfile.TemporaryDirectory() as folder:
            lance.write_dataset(schema.empty_table(), folder, mode="create")
            bucket.upload(Path(folder), self.path)

    def repair(self, error: Exception) -> tuple[lance.LanceDataset, int]:
        """Raise the error: what cannot be read now may be whole, for the network is between."""
        raise error

    def tidy(self, dataset: lance.LanceDataset) -> None:
        """Nothing: looking for what is old takes a request for each version; merging and `cache prune` do it."""

    def shrink(self, dataset: lance.LanceDataset) -> None:
        """Remove the versions that were replaced more than a day ago."""
        dataset.cleanup_old_versions(older_than=KEEP_OLD_VERSIONS)

    def count(self) -> int:
        """How many images it holds; those that were stored twice count once."""
        return len(stored_digests(self.dataset()))

    def size_and_use(self) -> tuple[int, float]:
        """Bytes in the bucket, and when the store was last written: nobody notes when it is read."""
        try:
            files = self.dataset().all_files().read_all()
        except UNREADABLE as error:
            if bucket.meaning(error):
                raise self.error("open", error) from error
            return 0, 0.0  # it is damaged
        written = max((time.timestamp() for time in files["last_modified"].to_pylist()), default=0.0)
        return sum(files["size_bytes"].to_pylist()), written

    def error(self, task: str, error: BaseException) -> PipelineError:
        """The message for a task that failed."""
        if meant := bucket.meaning(error):
            return PipelineError(f"The feature store {self.path} cannot be {DONE[task]}: {meant}.")
        return _error(self.path, IN_BUCKET[task], bucket.short_cause(error))


def _error(path: Path | str, message: str, cause: str) -> PipelineError:
    return PipelineError(f"The feature store {path} {message.format(cause)}")


def stored_digests(dataset: lance.LanceDataset) -> np.ndarray:
    """The distinct digests in a version of a store, DIGEST."""
    return np.unique(np.frombuffer(b"".join(dataset.to_table(columns=["digest"])["digest"].to_pylist()), DIGEST))


def is_conflict(error: BaseException) -> bool:
    """Whether Lance failed because another process was first."""
    return "conflict" in str(error)


def store_place(cache: Path | str, fingerprint: str) -> StorePlace:
    """Where the features of an extractor lie in a cache."""
    name = f"features/{fingerprint}.lance"
    return StoreInBucket(f"{cache}/{name}") if isinstance(cache, str) else StoreFolder(cache / name)


def stores_in(cache: Path | str) -> Mapping[str, StorePlace]:
    """The stores of a cache by their paths, in the order of their names.

    Raises:
        PipelineError: The cache cannot be listed.
    """
    try:
        if isinstance(cache, str):
            names = bucket.folders_in(f"{cache}/features")
        else:
            names = sorted(path.name for path in cache.glob("features/*.lance"))
    except UNREADABLE as error:
        meant = bucket.meaning(error) if isinstance(cache, str) else None
        raise PipelineError(f"The cache {cache} cannot be listed: {meant or bucket.short_cause(error)}.") from error
    stores = [store_place(cache, name.removesuffix(".lance")) for name in names if name.endswith(".lance")]
    return {str(store.path): store for store in stores}


def has_store(cache: Path | str, fingerprint: str) -> bool:
    """Whether a cache has a store for an extractor.

    Raises:
        PipelineError: The cache cannot be listed.
    """
    return str(store_place(cache, fingerprint).path) in stores_in(cache)


def folder_size_and_use(path: Path) -> tuple[int, float]:
    """Bytes of a file or folder, and the latest time that a file of it was read or written."""
    size, used = 0, 0.0
    for file in [path, *path.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):  # another process is at work
            status = file.stat()
            if not file.is_dir():
                size, used = size + status.st_size, max(used, status.st_atime, status.st_mtime)
            elif not used:
                used = status.st_mtime
    return size, used
