"""Digests in an array, and where each is: 24 bytes for a digest where a dict takes ten times as much."""

import numpy as np


class DigestIndex:
    """Digests with a number for each, looked up by binary search; of repeated ones the first counts.

    Args:
        digests: The digests, shape (N,), `pipeline.data.images.DIGEST`; the number of each is its place.

    Attributes:
        sorted: The distinct digests, sorted.
    """

    def __init__(self, digests: np.ndarray) -> None:
        order = np.argsort(digests, kind="stable")
        self.sorted = np.ascontiguousarray(digests[order])
        self._numbers = order.astype(np.int64)
        self._count = len(digests)
        if (repeated := _repeated(self.sorted)).any():
            self.sorted, self._numbers = self.sorted[~repeated], self._numbers[~repeated]

    def __len__(self) -> int:
        return len(self.sorted)

    def find(self, digests: np.ndarray) -> np.ndarray:
        """Look digests up.

        Args:
            digests: Shape (n,), of the same dtype.

        Returns:
            Their numbers, shape (n,), int64; -1 where one is not here.
        """
        if not len(self.sorted):
            return np.full(len(digests), -1, np.int64)
        places = np.minimum(np.searchsorted(self.sorted, digests), len(self.sorted) - 1)
        return np.where(self.sorted[places] == digests, self._numbers[places], -1)

    def add(self, digests: np.ndarray) -> None:
        """Add digests; their numbers continue the ones given. Those that are here already keep theirs."""
        order = np.argsort(digests, kind="stable")
        order = order[~_repeated(digests[order])]
        order = order[self.find(digests[order]) < 0]
        new = digests[order]
        places = np.searchsorted(self.sorted, new)
        self._numbers = np.insert(self._numbers, places, self._count + order)
        self.sorted = np.insert(self.sorted, places, new)
        self._count += len(digests)


def _repeated(ordered: np.ndarray) -> np.ndarray:
    """Whether each of sorted digests equals the one before it, bool."""
    repeated = np.zeros(len(ordered), bool)
    repeated[1:] = ordered[1:] == ordered[:-1]
    return repeated
