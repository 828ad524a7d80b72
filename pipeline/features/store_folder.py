"""A feature store in a folder, and the recovery of one with damaged files; dropped features are computed again.

A file counts as damaged only if there is evidence: a missing magic number, content that contradicts its format, a
length that differs from the manifest's, a missing file that the manifest lists. If Lance cannot read a store for
another reason, such as features of a later version or files that the system does not let us read, an error is raised
and nothing is changed.
"""

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import lance
import pyarrow as pa
from filelock import FileLock, Timeout

from pipeline.core.errors import PipelineError
from pipeline.features.lance_errors import UNREADABLE, lance_cause, may_be_damage, panics_as_errors

log = logging.getLogger(__name__)

# Versions replaced by merging are kept for readers that opened the store before.
KEEP_OLD_VERSIONS = timedelta(days=1)
# The last bytes of each Lance file. A manifest ends with its position (8 bytes), its version (4 bytes) and these.
MAGIC = b"LANC"
MANIFEST_END = 16
UNDECODABLE = "failed to decode Protobuf message"
RUN_AGAIN = "Run extract --verify on these images to compute the lost features again."
ADVICE = {
    "open": (
        "opened",
        "Nothing in it was changed. Remove the cause, choose another cache folder, or delete this store to compute its "
        "features again.",
    ),
    "read": ("read", f"If its files are damaged: {RUN_AGAIN}"),
    "write": (
        "written",
        "What was stored before is kept; make room, or choose another cache folder, and run the same command again.",
    ),
    "tidy": ("tidied", f"What was computed is stored; if a data file of it is missing: {RUN_AGAIN}"),
    "repair": (
        "checked",
        "Its content was not changed. Remove the cause, or delete this store to compute its features again.",
    ),
    "prune": ("pruned", "Check that it is readable and writable, or delete it."),
}  # task -> its participle, and what to do if it fails


class StoreFolder:
    """A store in a folder.

    A lock lets one process append at a time, and damaged files are renamed and left out.

    Args:
        path: The Lance dataset.

    Attributes:
        commit_cost: The commit interval, as a multiple of a folder's.
    """

    commit_cost = 1

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path.with_suffix(".lock"))
        self._merging = FileLock(path.with_suffix(".merging.lock"))

    def lock(self) -> FileLock:
        """The lock next to the store."""
        return self._lock

    @contextlib.contextmanager
    def merging(self, wait: bool = False) -> Iterator[bool]:
        """Keep other processes from merging fragments; acquire it before `lock`, or without waiting.

        Args:
            wait: Whether to wait until no other process is merging.

        Yields:
            Whether no other process is merging.
        """
        try:
            lock = self._merging.acquire(blocking=wait)
        except Timeout:
            yield False
            return
        with lock:
            yield True

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
        with self.merging() as is_alone:  # if not, another process may have files that it has not committed yet
            dataset.cleanup_old_versions(older_than=KEEP_OLD_VERSIONS, delete_unverified=is_alone)
        for leftover in self.path.glob("_*/.tmp*"):  # Lance does not remove these
            leftover.unlink(missing_ok=True)

    def shrink(self, dataset: lance.LanceDataset) -> None:
        """Remove all files except those of the newest version; the caller holds both locks."""
        dataset.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)

    def count(self) -> int:
        """The number of images in the store."""
        return self.dataset().count_rows()

    def size_and_use(self) -> tuple[int, float]:
        """Bytes on disk, and the last time a vector was read or written; the creation time if there are no vectors."""
        size, used = folder_size_and_use(self.path)
        return size, folder_size_and_use(self.path / "data")[1] or used  # opening a store reads the other files, too

    def error(self, task: str, error: BaseException) -> PipelineError:
        """The error for a failed task, a key of ADVICE."""
        done, advice = ADVICE[task]
        return PipelineError(f"The feature store {self.path} cannot be {done} ({lance_cause(error)}). {advice}")


def open_newest_readable(path: Path, schema: pa.Schema) -> lance.LanceDataset:
    """Open the newest version of a dataset with an intact manifest; create the dataset if it does not exist.

    Damaged manifests are renamed; a dataset without an intact one is set aside. Call it with the store's lock held.

    Args:
        path: The dataset.
        schema: Its schema.

    Returns:
        The dataset.

    Raises:
        OSError, ValueError, RuntimeError: The files cannot be read or written for a reason other than damage.
    """
    while manifests := _manifests(path):  # newest first
        try:
            with panics_as_errors():
                dataset = lance.dataset(path)
                dataset.schema  # noqa: B018  Lance decodes it only now
                return dataset
        except UNREADABLE as error:
            if not (damage := _manifest_damage(manifests[0], error)):
                raise
            log.warning("The newest version of the feature store %s is damaged (%s) and is dropped.", path, damage)
            manifests[0].rename(manifests[0].with_suffix(".damaged"))
    if _names(path / "data"):
        aside = path.with_suffix(f".damaged-{time.time_ns()}")
        log.warning("The feature store %s cannot be read; it is set aside as %s.", path, aside.name)
        path.rename(aside)
    return lance.write_dataset(schema.empty_table(), path, mode="create")


def _names(folder: Path) -> list[str]:
    """The names in a folder, sorted; none if the folder does not exist. Other errors are raised."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _manifests(path: Path) -> list[Path]:
    return [path / "_versions" / name for name in _names(path / "_versions") if name.endswith(".manifest")]


def _manifest_damage(file: Path, error: Exception) -> str | None:
    """Evidence that a manifest is damaged, given Lance's error on opening it; None without evidence.

    Raises:
        OSError: The system does not let us read the manifest.
    """
    content = file.read_bytes()
    if content[-len(MAGIC) :] != MAGIC or len(content) < MANIFEST_END:
        return "its end is missing"
    start = int.from_bytes(content[-MANIFEST_END:][:8], "little")
    if start + 4 + int.from_bytes(content[start:][:4], "little") + MANIFEST_END > len(content):
        return "it is longer than its file"
    return lance_cause(error) if UNDECODABLE in str(error) else None


def drop_damaged_files(path: Path) -> tuple[lance.LanceDataset, int]:
    """Remove damaged data files from a dataset. Call it with the store's lock held.

    Args:
        path: The dataset.

    Returns:
        The dataset, and the number of files removed from it.

    Raises:
        OSError, ValueError, RuntimeError: A file cannot be read for a reason other than damage; or the whole folder of
            data files is missing, as if it were on another disk.
    """
    dataset = lance.dataset(path)
    os.listdir(path / "data")
    columns = [field.id() for field in dataset.lance_schema.fields()]
    files = [file for fragment in dataset.get_fragments() for file in fragment.data_files()]
    if any(list(file.fields) != columns for file in files):
        raise ValueError("its manifest has columns that its data files lack")
    if any(file.base_id is not None for file in files):
        raise ValueError("its data files lie in other places, too")
    damages = {fragment.fragment_id: _damage(path, dataset, fragment) for fragment in dataset.get_fragments()}
    damaged = {number: damage for number, damage in damages.items() if damage}
    if damaged:
        log.warning(
            "%d data files of the feature store %s are damaged (%s); their features are computed again.",
            len(damaged),
            path,
            next(iter(damaged.values())),
        )
        drop = lance.LanceOperation.Delete([], list(damaged), "true")
        dataset = lance.LanceDataset.commit(path, drop, read_version=dataset.version)
    return dataset, len(damaged)


def _damage(path: Path, dataset: lance.LanceDataset, fragment: lance.LanceFragment) -> str | None:
    """Evidence that a file of a fragment is damaged; None for an intact fragment.

    Raises:
        OSError, ValueError, RuntimeError: A file cannot be read for another reason.
    """
    for file in fragment.data_files():
        try:
            with (path / "data" / file.path).open("rb") as opened:
                size = opened.seek(0, os.SEEK_END)
                opened.seek(max(0, size - len(MAGIC)))
                end = opened.read()
        except FileNotFoundError:
            return f"{file.path} is missing"
        if file.file_size_bytes and size != file.file_size_bytes:
            return f"{file.path} has {size} bytes instead of {file.file_size_bytes}"
        if end != MAGIC:
            return f"the end of {file.path} is missing"
    try:
        with panics_as_errors():
            fragment.to_table()
    except UNREADABLE as error:
        if not may_be_damage(error):
            raise
        if _numbers(dataset.data_storage_version) > _numbers(_usual_format()):
            version = dataset.data_storage_version
            raise ValueError(f"its storage format {version} needs a later pylance; upgrade it") from error
        return lance_cause(error)
    return None


def _usual_format() -> str:
    """The default storage format of this version of Lance, which it can certainly read."""
    return lance.write_dataset(pa.table({"x": [0]}), "memory://usual", mode="overwrite").data_storage_version


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


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
