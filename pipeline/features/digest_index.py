"""An index of digests in sorted arrays: 24 bytes per digest, where a dict takes ten times as much."""

import numpy as np


class DigestIndex:
    """Numbered digests, looked up by binary search; only the first of repeated digests counts.

    Args:
        digests: The digests, shape (N,), `pipeline.data.images.DIGEST`; the number of each is its position.

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
        """Look up digests.

        Args:
            digests: Shape (n,), of the same dtype.

        Returns:
            Their numbers, shape (n,), int64; -1 for digests that are not in the index.
        """
        if not len(self.sorted):
            return np.full(len(digests), -1, np.int64)
        positions = np.minimum(np.searchsorted(self.sorted, digests), len(self.sorted) - 1)
        return np.where(self.sorted[positions] == digests, self._numbers[positions], -1)

    def add(self, digests: np.ndarray) -> None:
        """Add digests; their numbers continue the existing ones. Digests already in the index keep theirs."""
        order = np.argsort(digests, kind="stable")
        order = order[~_repeated(digests[order])]
        order = order[self.find(digests[order]) < 0]
        new = digests[order]
        positions = np.searchsorted(self.sorted, new)
        self._numbers = np.insert(self._numbers, positions, self._count + order)
        self.sorted = np.insert(self.sorted, positions, new)
        self._count += len(digests)


def _repeated(ordered: np.ndarray) -> np.ndarray:
    """Whether each of the sorted digests equals the previous one, bool."""
    repeated = np.zeros(len(ordered), bool)
    repeated[1:] = ordered[1:] == ordered[:-1]
    return repeated
