"""Recovery of a feature store with damaged files; dropped features are computed again.

Damage needs evidence in the files: a missing magic number, content that contradicts its format, a length that differs
from the manifest's, a missing file that the manifest names. Any other reason why Lance cannot read a store raises an
error and changes nothing: features of a later version, or files that the system does not let us read.
"""

import contextlib
import errno
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import lance
import pyarrow as pa

from pipeline.core.errors import first_line

log = logging.getLogger(__name__)

# The errors of Lance and Arrow for files that they cannot read, for any reason.
UNREADABLE = (OSError, ValueError, RuntimeError)
# The last bytes of each Lance file. A manifest ends with its position (8 bytes), its version (4 bytes) and these.
MAGIC = b"LANC"
MANIFEST_END = 16
# Lance's messages for errors not caused by the content of a file: a system error other than a missing file (2), or a
# feature that this version of Lance does not know.
NOT_DAMAGE = re.compile(
    r"os error (?!2\))|permission denied|timed out|out of memory|upgrade|newer|unsupported|not supported|unknown|"
    r"not implemented|unimplemented",
    re.IGNORECASE,
)
UNDECODABLE = "failed to decode Protobuf message"


def may_be_damage(error: BaseException) -> bool:
    """Whether the content of a file may have caused an error of Lance, or of the system while reading it."""
    is_system = isinstance(error, OSError) and error.errno not in (None, errno.ENOENT)
    return not is_system and not NOT_DAMAGE.search(str(error))


def lance_cause(error: BaseException) -> str:
    """The message of an error of Lance, without the location in its source code."""
    return first_line(error).partition(", /")[0]


@contextlib.contextmanager
def panics_as_errors() -> Iterator[None]:
    """Turn a panic of Lance, which Python's `except Exception` does not catch, into a RuntimeError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(lance_cause(error)) from error


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
            data files is missing, as if it is on another disk.
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
