"""Merges the small data files of a feature store while another thread appends to it.

Each append adds a fragment with one data file. Merging keeps their number low, so that opening the store and appending
stay fast. In a folder, only the commit takes the store's lock; reading and writing vectors does not.
"""

from collections.abc import Iterator

import lance
from lance.optimize import Compaction, CompactionTask

from pipeline.features.cache import LanceStore
from pipeline.features.lance_errors import UNREADABLE, is_conflict

FRAGMENTS_BEFORE_MERGE = 100
# Fragments are merged to this many rows, and later to this many bytes, so that each row is rewritten only a few times.
MERGED_ROWS = 4096
MERGED_BYTES = 2**30


def merge_fragments(store: LanceStore, dataset: lance.LanceDataset, row_bytes: int) -> bool:
    """Merge small fragments of a store, about MERGED_BYTES at most, if there are many.

    Args:
        store: The store.
        dataset: A version of it, to count the small fragments.
        row_bytes: The size of a row.

    Returns:
        Whether fragments were merged; False if another process is merging or has changed them.
    """
    rows = _rows_to_merge_to(dataset, row_bytes)
    if rows is None:
        return False
    with store.merging() as is_alone:
        if not is_alone:
            return False
        dataset = store.dataset()
        try:
            rewrites = [task.execute(dataset) for task in _tasks(dataset, rows, row_bytes)]
            with store.lock():
                Compaction.commit(dataset, rewrites)
        except UNREADABLE as error:
            if not is_conflict(error):
                raise
            return False
    return bool(rewrites)


def _rows_to_merge_to(dataset: lance.LanceDataset, row_bytes: int) -> int | None:
    """The size to merge to, in rows; None if there are too few smaller fragments."""
    sizes = [fragment.metadata.num_rows for fragment in dataset.get_fragments()]
    smallest = 0
    for rows in (MERGED_ROWS, MERGED_BYTES // row_bytes):
        if sum(smallest <= size < rows for size in sizes) > FRAGMENTS_BEFORE_MERGE:
            return rows
        smallest = rows
    return None


def _tasks(dataset: lance.LanceDataset, rows: int, row_bytes: int) -> Iterator[CompactionTask]:
    """Groups of fragments to merge, until they reach MERGED_BYTES."""
    size = 0
    for task in Compaction.plan(dataset, {"target_rows_per_fragment": rows}).tasks:
        yield task
        size += row_bytes * sum(fragment.num_rows for fragment in task.fragments)
        if size >= MERGED_BYTES:
            return
