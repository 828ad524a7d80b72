"""Pooling: what becomes of a convolutional layer's positions."""

import re
from dataclasses import dataclass

import numpy as np

from pipeline.core.errors import RequestError

POOLS = "mean, max, grid:N or flat"


@dataclass(frozen=True)
class Pooling:
    """How a plane of positions becomes numbers.

    Attributes:
        kind: "mean" and "max" leave one number of a plane, "grid" means of N x N cells of equal area, "flat" all.
        cells: N, for "grid".
    """

    kind: str = "mean"
    cells: int = 1

    @classmethod
    def parse(cls, text: str) -> "Pooling":
        """Read "mean", "max", "grid:N" or "flat".

        Raises:
            RequestError: It is none of these.
        """
        found = re.fullmatch(r"(mean|max|flat)|grid:([1-9]\d{0,2})", text)
        if not found:
            raise RequestError(f"pool {text!r} is unknown; choose from {POOLS}, where N is a number of cells each way.")
        return cls(found[1]) if found[1] else cls("grid", int(found[2]))

    def __str__(self) -> str:
        return f"grid:{self.cells}" if self.kind == "grid" else self.kind

    def sides(self, side: int) -> int:
        """How many numbers are left each way of `side` positions."""
        return {"mean": 1, "max": 1, "grid": self.cells, "flat": side}[self.kind]

    def window(self, side: int) -> int | None:
        """The side of the square that each number comes from; None where cells of the grid share positions."""
        return None if side % self.sides(side) else side // self.sides(side)

    def __call__(self, planes: np.ndarray) -> np.ndarray:
        """Pool.

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
    """The weight of each position in the mean of each cell; a position on a border counts on both sides, by its shares.

    Args:
        cells: How many cells of equal length there are.
        side: How many positions.

    Returns:
        Shape (cells, side), float32; each row sums to 1, and all columns to the same.
    """
    borders = np.linspace(0, side, cells + 1)
    upper = np.minimum(borders[1:, None], np.arange(1, side + 1))
    lower = np.maximum(borders[:-1, None], np.arange(side))
    return (np.maximum(upper - lower, 0) * cells / side).astype(np.float32)
