"""Pooling over the positions of a convolutional layer."""

import re
from dataclasses import dataclass

import numpy as np

from pipeline.core.errors import RequestError

POOLS = "mean, max, grid:N or flat"


@dataclass(frozen=True)
class Pooling:
    """Pooling of planes (one number per position).

    Attributes:
        kind: "mean" and "max" reduce a plane to one number, "grid" to the means of N x N cells of equal area; "flat"
            keeps all numbers.
        cells: N, for "grid".
    """

    kind: str = "mean"
    cells: int = 1

    @classmethod
    def parse(cls, text: str) -> "Pooling":
        """Parse "mean", "max", "grid:N" or "flat".

        Raises:
            RequestError: The text is none of these.
        """
        match = re.fullmatch(r"(mean|max|flat)|grid:([1-9]\d{0,2})", text)
        if not match:
            raise RequestError(f"pool {text!r} is unknown; choose from {POOLS}, where N is a number of cells each way.")
        return cls(match[1]) if match[1] else cls("grid", int(match[2]))

    def __str__(self) -> str:
        return f"grid:{self.cells}" if self.kind == "grid" else self.kind

    def sides(self, side: int) -> int:
        """The number of values along each axis after pooling `side` positions."""
        return {"mean": 1, "max": 1, "grid": self.cells, "flat": side}[self.kind]

    def window(self, side: int) -> int | None:
        """The side of the square that each value is pooled from; None if cells of the grid share positions."""
        return None if side % self.sides(side) else side // self.sides(side)

    def __call__(self, planes: np.ndarray) -> np.ndarray:
        """Pool planes.

        Args:
            planes: Shape (N, C, S, S), float32.

        Returns:
            Shape (N, s * s * C), float32: rows, columns, channels, in this order, as Keras flattens them.
        """
        side = planes.shape[-1]
        if self.kind == "max":
            planes = planes.max(axis=(2, 3), keepdims=True)
        elif self.kind != "flat":
            weights = cell_weights(self.sides(side), side)
            planes = weights @ (planes @ weights.T)
        return in_keras_order(planes)


def in_keras_order(planes: np.ndarray) -> np.ndarray:
    """Flatten planes, shape (N, C, S, S), as Keras does: rows, columns, channels; shape (N, S * S * C)."""
    return planes.transpose(0, 2, 3, 1).reshape(len(planes), -1)


def cell_weights(cells: int, side: int) -> np.ndarray:
    """The weight of each position in the mean of each cell; a border through a position splits its weight.

    Args:
        cells: The number of cells, of equal length.
        side: The number of positions.

    Returns:
        Shape (cells, side), float32; each row sums to 1, and all columns have the same sum.
    """
    borders = np.linspace(0, side, cells + 1)
    upper = np.minimum(borders[1:, None], np.arange(1, side + 1))
    lower = np.maximum(borders[:-1, None], np.arange(side))
    return (np.maximum(upper - lower, 0) * cells / side).astype(np.float32)
