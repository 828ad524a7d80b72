"""An array to which rows are added without copying it each time."""

import numpy as np


class GrowingArray:
    """A one-dimensional array with room for more rows.

    Memory for as many rows again is reserved; the system assigns it when it is written to.

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
        """Add rows; copies the earlier ones only if their number has doubled since the last copy."""
        count, total = len(self.rows), len(self.rows) + len(rows)
        if total > len(self._buffer):
            self._buffer = np.empty(2 * total, self._buffer.dtype)
            self._buffer[:count] = self.rows
        self._buffer[count:total] = rows
        self.rows = self._buffer[:total]
