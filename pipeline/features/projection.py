"""Sparse random projection: fewer dimensions, with distances nearly preserved.

Johnson and Lindenstrauss 1984; sparse as in Li, Hastie and Church 2006.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline.core.errors import RequestError

LARGEST = 16_384  # limits the memory for creating the matrix of the largest layer to 1.3 GB


@dataclass(frozen=True)
class Projection:
    """A seeded projection, the same as scikit-learn's `SparseRandomProjection(dim, random_state=seed)`.

    Attributes:
        dim: The dimension to project to.
        seed: Random seed.
    """

    dim: int
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> "Projection":
        """Parse "DIM" or "DIM:SEED".

        Raises:
            RequestError: The text is neither.
        """
        match = re.fullmatch(r"([1-9]\d{0,8})(?::(\d{1,9}))?", text)
        if not match or int(match[1]) > LARGEST:
            raise RequestError(f"project {text!r} is not DIM or DIM:SEED, with DIM from 1 to {LARGEST:,}.")
        return cls(int(match[1]), int(match[2] or 0))

    def __str__(self) -> str:
        return f"{self.dim}:{self.seed}"

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Project features.

        Args:
            features: Shape (N, F), float32.

        Returns:
            Shape (N, dim), float32.
        """
        return np.ascontiguousarray((_matrix(self, features.shape[1]) @ features.T).T, np.float32)


def dense_matrix(projection: Projection, features: int) -> np.ndarray:
    """The dense matrix, shape (features, dim), float32, to multiply features of shape (N, features) by."""
    return np.ascontiguousarray(_matrix(projection, features).T.toarray())


@lru_cache(maxsize=32)
def _matrix(projection: Projection, features: int) -> Any:
    """The sparse matrix, shape (dim, features): about sqrt(features) entries per row, 8 bytes each."""
    from sklearn.random_projection import SparseRandomProjection

    fitted = SparseRandomProjection(projection.dim, random_state=projection.seed)
    return fitted.fit(np.broadcast_to(np.float32(0), (1, features))).components_.astype(np.float32)
