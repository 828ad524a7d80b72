"""Recovery of a feature store whose files are damaged; what is dropped here is computed again.

What the operating system does not let us read is not damage and is left alone.
"""

import contextlib
import logging
import time
from pathlib import Path

import lance
import pyarrow as pa

from pipeline.core.errors import first_line

log = logging.getLogger(__name__)

# What Lance and Arrow raise for files that are damaged or gone.
UNREADABLE = (OSError, ValueError, RuntimeError)


def lance_cause(error: BaseException) -> str:
    """What Lance says went wrong, without the place in its source code."""
    return first_line(error).partition(", /")[0]


def open_newest_readable(path: Path, schema: pa.Schema) -> lance.LanceDataset:
    """Open the newest version of a dataset whose manifest can be read; create the dataset where there is none.

    Manifests that cannot be read are renamed; a dataset without a readable manifest is set aside. Call it with the
    store's lock held.

    Args:
        path: The dataset.
        schema: Its schema.

    Returns:
        The dataset.

    Raises:
        OSError, ValueError, RuntimeError: The files cannot be read or written for other reasons than damage.
    """
    while manifests := sorted((path / "_versions").glob("*.manifest")):  # the newest first
        try:
            return lance.dataset(path)
        except UNREADABLE as error:
            manifests[0].read_bytes()  # raises where the system refuses, which is not damage
            log.warning(
                "The newest version of the feature store %s is damaged (%s) and is dropped.", path, lance_cause(error)
            )
            manifests[0].rename(manifests[0].with_suffix(".damaged"))
    if any((path / "data").glob("*")):
        aside = path.with_suffix(f".damaged-{time.time_ns()}")
        log.warning("The feature store %s cannot be read; it is set aside as %s.", path, aside.name)
        path.rename(aside)
    return lance.write_dataset(schema.empty_table(), path, mode="create")


def drop_unreadable_files(path: Path) -> tuple[lance.LanceDataset, int]:
    """Remove data files that cannot be read from a dataset. Call it with the store's lock held.

    Args:
        path: The dataset.

    Returns:
        The dataset, and how many files were removed from it.

    Raises:
        OSError: The system does not let us read a file.
    """
    dataset = lance.dataset(path)
    damaged = {}
    for fragment in dataset.get_fragments():
        try:
            fragment.to_table()
        except UNREADABLE as error:
            _check_access(path, fragment)
            damaged[fragment.fragment_id] = lance_cause(error)
    if damaged:
        log.warning(
            "%d data files of the feature store %s cannot be read (%s); their features are computed again.",
            len(damaged),
            path,
            next(iter(damaged.values())),
        )
        drop = lance.LanceOperation.Delete([], list(damaged), "true")
        dataset = lance.LanceDataset.commit(path, drop, read_version=dataset.version)
    return dataset, len(damaged)


def _check_access(path: Path, fragment: lance.LanceFragment) -> None:
    """Raise the system's error for files that it does not let us read; they are not damaged."""
    for file in fragment.data_files():
        with contextlib.suppress(FileNotFoundError):
            (path / "data" / file.path).open("rb").close()
