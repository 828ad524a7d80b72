"""The rows of a feature store in memory: their digests, the sizes of their images, and their positions on disk.

A row keeps its number when a merge moves it to another data file. Adding rows copies nothing large, and after a merge,
only the digests in the merged files are read.
"""

from collections.abc import Sequence

import lance
import numpy as np

from pipeline.data.images import DIGEST
from pipeline.features.digest_index import DigestIndex
from pipeline.features.growing_array import GrowingArray
from pipeline.features.lance_errors import panics_as_errors

# Rows with consecutive numbers, next to each other in a fragment.
SPAN = np.dtype([("number", np.int64), ("count", np.int64), ("fragment", np.int64), ("offset", np.int64)])


class StoredRows:
    """The rows of a version of a Lance dataset.

    Args:
        dataset: The version.

    Attributes:
        index: Digest -> number of the row; of the first one if a digest is stored twice.
        digests: The digest of each row, DIGEST.
        pixel_counts: The size of each row's image, int64.
        checked: Whether the checksum of each row has been verified, bool.

    Raises:
        OSError, ValueError, RuntimeError: The digests cannot be read.
    """

    def __init__(self, dataset: lance.LanceDataset) -> None:
        self._read(dataset)

    def _read(self, dataset: lance.LanceDataset) -> None:
        """Read the digests of all rows, and number them anew."""
        fragments = dataset.get_fragments()
        digests, pixel_counts = _stored(dataset, fragments)
        self.index = DigestIndex(digests)
        self.digests, self.pixel_counts = GrowingArray(digests), GrowingArray(pixel_counts)
        self.checked = GrowingArray(np.zeros(len(digests), bool))
        self._spans = _spans(fragments, np.arange(len(digests)))
        self._fragments = {fragment.fragment_id: fragment.metadata for fragment in fragments}
        self._positions: np.ndarray | None = None  # of the first row of each span

    def add(self, dataset: lance.LanceDataset, digests: np.ndarray, pixel_counts: np.ndarray) -> None:
        """Add the rows that this process has just appended.

        Args:
            dataset: The version with these rows, and no other changes.
            digests: Their digests, shape (N,), DIGEST.
            pixel_counts: The sizes of their images, shape (N,), int.
        """
        fragments = dataset.get_fragments()[len(self._fragments) :]
        self._add_spans(_spans(fragments, self._new_numbers(digests, pixel_counts)))
        self._fragments |= {fragment.fragment_id: fragment.metadata for fragment in fragments}

    def follow(self, dataset: lance.LanceDataset) -> np.ndarray:
        """Read the changes since the last version, mostly those of other processes.

        Args:
            dataset: The new version.

        Returns:
            The digests that were not in the store before, DIGEST.
        """
        current = {fragment.fragment_id: fragment for fragment in dataset.get_fragments()}
        metadata = {number: fragment.metadata for number, fragment in current.items()}
        removed = [number for number, known in self._fragments.items() if metadata.get(number) != known]
        added = [current[number] for number, now in metadata.items() if self._fragments.get(number) != now]
        digests, pixel_counts = _stored(dataset, added)
        before, gone = self.index, self._spans[np.isin(self._spans["fragment"], removed)]
        numbers = self._numbers(digests, gone)
        new = digests[numbers < 0]
        has_moved = _are_within(numbers, gone) & ~_are_repeated(numbers)
        if has_moved.sum() != gone["count"].sum():  # rows were deleted, or had been stored twice
            self._read(dataset)
            digests = self.digests.rows
            return digests[before.find(digests) < 0]
        self.checked.rows[numbers[has_moved]] = False
        numbers[~has_moved] = self._new_numbers(digests[~has_moved], pixel_counts[~has_moved])
        self._spans = self._spans[~np.isin(self._spans["fragment"], removed)]
        self._add_spans(_spans(added, numbers))
        self._fragments = metadata
        return new

    def _numbers(self, digests: np.ndarray, gone: np.ndarray) -> np.ndarray:
        """The numbers of rows in new fragments, -1 for unknown digests; `gone`: the spans of removed fragments."""
        gone = np.sort(gone, order=["fragment", "offset"])
        ranges = [np.arange(number, number + count) for number, count in gone[["number", "count"]].tolist()]
        merged = np.concatenate([np.zeros(0, np.int64), *ranges])
        # After nothing but a merge, the same rows are in the same order; checking that is faster than a search.
        return merged if np.array_equal(self.digests.rows[merged], digests) else self.index.find(digests)

    def _new_numbers(self, digests: np.ndarray, pixel_counts: np.ndarray) -> np.ndarray:
        """Add rows, not yet their spans; returns their numbers."""
        first = len(self.digests.rows)
        self.index.add(digests)
        self.digests.add(digests)
        self.pixel_counts.add(pixel_counts)
        self.checked.add(np.zeros(len(digests), bool))
        return np.arange(first, first + len(digests))

    def _add_spans(self, spans: np.ndarray) -> None:
        self._spans = np.sort(np.concatenate([self._spans, spans]), order="number")
        self._positions = None

    def positions(self, numbers: np.ndarray) -> np.ndarray:
        """The positions of rows in the dataset.

        Args:
            numbers: Their numbers, shape (N,), int64.

        Returns:
            Shape (N,), int64.
        """
        if self._positions is None:
            ends = np.cumsum([fragment.num_rows for fragment in self._fragments.values()], dtype=np.int64)
            starts = dict(zip(self._fragments, [0, *ends.tolist()], strict=False))
            firsts = [starts[fragment] for fragment in self._spans["fragment"].tolist()]
            self._positions = np.array(firsts, np.int64) + self._spans["offset"]
        spans = np.searchsorted(self._spans["number"], numbers, side="right") - 1
        return self._positions[spans] + numbers - self._spans["number"][spans]


def _stored(dataset: lance.LanceDataset, fragments: Sequence[lance.LanceFragment]) -> tuple[np.ndarray, np.ndarray]:
    """The digests and sizes of the images in some fragments."""
    if not fragments:
        return np.zeros(0, DIGEST), np.zeros(0, np.int64)
    with panics_as_errors():
        table = dataset.scanner(columns=["digest", "pixel_count"], fragments=fragments).to_table()
    digests = table["digest"].combine_chunks()
    stored = np.frombuffer(digests.buffers()[1] or b"", DIGEST)[digests.offset :][: len(digests)]
    return stored, table["pixel_count"].to_numpy()


def _spans(fragments: Sequence[lance.LanceFragment], numbers: np.ndarray) -> np.ndarray:
    """The spans of fragments, from the numbers of their rows in order; shape (S,), SPAN."""
    sizes = np.array([fragment.metadata.num_rows for fragment in fragments], np.int64)
    starts = np.cumsum(sizes) - sizes
    begins = np.unique(np.concatenate([starts, np.flatnonzero(np.diff(numbers) != 1) + 1]))
    begins = begins[begins < len(numbers)]
    spans = np.zeros(len(begins), SPAN)
    places = np.searchsorted(starts, begins, side="right") - 1
    spans["number"], spans["count"] = numbers[begins], np.diff(begins, append=len(numbers))
    spans["fragment"] = np.array([fragment.fragment_id for fragment in fragments], np.int64)[places]
    spans["offset"] = begins - starts[places]
    return spans


def _are_within(numbers: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Whether each number is in one of the spans, bool."""
    if not len(spans):
        return np.zeros(len(numbers), bool)
    spans = np.sort(spans, order="number")
    places = np.searchsorted(spans["number"], numbers, side="right") - 1
    return (places >= 0) & (numbers < (spans["number"] + spans["count"])[places])


def _are_repeated(numbers: np.ndarray) -> np.ndarray:
    """Whether each number occurs earlier in the array, bool."""
    repeated = np.ones(len(numbers), bool)
    repeated[np.unique(numbers, return_index=True)[1]] = False
    return repeated
