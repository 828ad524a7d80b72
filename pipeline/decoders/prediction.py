"""Predictions computed on access, so that any number of them needs the memory of one block."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.vectors import Vectors
from pipeline.decoders.training import predict


@dataclass(frozen=True)
class Predictions:
    """A decoder's predictions, read like an array: `predictions[rows]`.

    Attributes:
        model: The decoder, a `keras.Model` from (N, F) to (N, D).
        x: Features, shape (N, F), float32.
    """

    model: Any
    x: Vectors

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return len(self.x), self.model.output_shape[-1]

    @property
    def dtype(self) -> np.dtype:
        """float32."""
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return predict(self.model, self.x[rows])
