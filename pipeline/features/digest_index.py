"""An index of digests in sorted arrays: 24 bytes per digest, where a dict takes ten times as much."""

import threading
from typing import NamedTuple

import numpy as np

# If there are more recent digests than this, they are moved to the large array; adding digests copies the recent ones.
RECENT = 2**17


class _Sorted(NamedTuple):
    """Distinct digests, sorted, and their numbers."""

    digests: np.ndarray
    numbers: np.ndarray

    def find(self, digests: np.ndarray) -> np.ndarray:
        if not len(self.digests):
            return np.full(len(digests), -1, np.int64)
        positions = np.minimum(np.searchsorted(self.digests, digests), len(self.digests) - 1)
        return np.where(self.digests[positions] == digests, self.numbers[positions], -1)

    def merged(self, others: "_Sorted") -> "_Sorted":
        positions = np.searchsorted(self.digests, others.digests)
        return _Sorted(
            np.insert(self.digests, positions, others.digests), np.insert(self.numbers, positions, others.numbers)
        )

    def since(self, number: int) -> "_Sorted":
        newer = self.numbers >= number
        return _Sorted(self.digests[newer], self.numbers[newer])


class DigestIndex:
    """Numbered digests, looked up by binary search; only the first of repeated digests counts.

    Most digests are in a large array and recent ones in a small one, so that adding a few does not copy all.

    Args:
        digests: The digests, shape (N,), `pipeline.data.images.DIGEST`; the number of each is its position.
    """

    def __init__(self, digests: np.ndarray) -> None:
        order = np.argsort(digests, kind="stable").astype(np.int64)
        ordered = digests[order]
        first = ~_repeated(ordered)
        self._parts = _Sorted(ordered[first], order[first]), _Sorted(digests[:0], order[:0])  # large, recent
        self._count = len(digests)
        self._replacing = threading.Lock()

    def __len__(self) -> int:
        return sum(len(part.digests) for part in self._parts)

    @property
    def sorted(self) -> np.ndarray:
        """The distinct digests, sorted."""
        large, recent = self._parts
        return large.merged(recent).digests if len(recent.digests) else large.digests

    def find(self, digests: np.ndarray) -> np.ndarray:
        """Look up digests.

        Args:
            digests: Shape (n,), of the same dtype.

        Returns:
            Their numbers, shape (n,), int64; -1 for digests that are not in the index.
        """
        large, recent = self._parts
        return np.maximum(large.find(digests), recent.find(digests))

    def add(self, digests: np.ndarray) -> None:
        """Add digests; their numbers continue the existing ones. Digests already in the index keep theirs."""
        order = np.argsort(digests, kind="stable")
        order = order[~_repeated(digests[order])]
        order = order[self.find(digests[order]) < 0]
        added = _Sorted(digests[order], self._count + order)
        self._count += len(digests)
        with self._replacing:
            large, recent = self._parts
            self._parts = large, recent.merged(added)

    def merge(self) -> None:
        """Move the recent digests to the large array if there are many; other threads may use the index meanwhile."""
        large, recent = self._parts
        if len(recent.digests) <= RECENT:
            return
        merged, end = large.merged(recent), recent.numbers.max() + 1
        with self._replacing:
            self._parts = merged, self._parts[1].since(end)


def _repeated(ordered: np.ndarray) -> np.ndarray:
    """Whether each of the sorted digests equals the previous one, bool."""
    repeated = np.zeros(len(ordered), bool)
    repeated[1:] = ordered[1:] == ordered[:-1]
    return repeated
