"""An array with spare capacity, so that adding rows rarely copies it."""

import numpy as np


class GrowingArray:
    """A one-dimensional array that grows.

    It reserves memory for twice its rows; the system assigns a page only when it is written to.

    Args:
        rows: The first rows, which are copied.

    Attributes:
        rows: The rows so far, a view.
    """

    def __init__(self, rows: np.ndarray) -> None:
        self._buffer = rows[:0]
        self.rows = rows[:0]
        self.add(rows)

    def add(self, rows: np.ndarray) -> None:
        """Add rows; copy the earlier ones only if their number has doubled since the last copy."""
        count, total = len(self.rows), len(self.rows) + len(rows)
        if total > len(self._buffer):
            self._buffer = np.empty(2 * total, self._buffer.dtype)
            self._buffer[:count] = self.rows
        self._buffer[count:total] = rows
        self.rows = self._buffer[:total]
