"""Digests in an array, and where each is: 24 bytes for a digest where a dict takes ten times as much."""

import numpy as np


class DigestIndex:
    """Distinct digests with a number for each, looked up by binary search.

    Args:
        digests: The digests, shape (N,), `pipeline.data.images.DIGEST`; the number of each is its place.
    """

    def __init__(self, digests: np.ndarray) -> None:
        order = np.argsort(digests, kind="stable")
        self.sorted = np.ascontiguousarray(digests[order])
        self._numbers = order.astype(np.int64)

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
        """Add digests that are not here yet; their numbers continue the ones given."""
        order = np.argsort(digests, kind="stable")
        new = digests[order]
        places = np.searchsorted(self.sorted, new)
        self._numbers = np.insert(self._numbers, places, len(self._numbers) + order)
        self.sorted = np.insert(self.sorted, places, new)
