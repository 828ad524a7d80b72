"""The features of several layers, concatenated and read like one array."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np

from pipeline.core.vectors import Vectors


class Stored(Vectors, Protocol):
    """Features on disk."""

    def subset(self, rows: np.ndarray) -> Self:
        """Some of the rows, still on disk."""
        ...


@dataclass(frozen=True)
class ConcatenatedFeatures:
    """Features of the same images by several layers, concatenated when they are read from disk.

    Attributes:
        parts: The features by each layer, shape (N, F).
        scales: The divisor of the features by each layer.
    """

    parts: Sequence[Stored]
    scales: Sequence[float]

    @property
    def shape(self) -> tuple[int, int]:
        """(N, F), where F is the sum over the layers."""
        return len(self), sum(part.shape[1] for part in self.parts)

    @property
    def dtype(self) -> np.dtype:
        """float32."""
        return np.dtype(np.float32)

    def subset(self, rows: np.ndarray) -> "ConcatenatedFeatures":
        """Some of the rows, still on disk."""
        return replace(self, parts=[part.subset(rows) for part in self.parts])

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        pairs = zip(self.parts, self.scales, strict=True)
        return np.concatenate([part[rows] / np.float32(scale) for part, scale in pairs], axis=1)
