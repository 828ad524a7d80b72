"""Sparse random projection: nearly the same distances in fewer dimensions.

Johnson and Lindenstrauss 1984; sparse as in Li, Hastie and Church 2006.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline.core.errors import RequestError

LARGEST = 16_384  # so that making the matrix of the largest layer takes no more than 1.3 GB


@dataclass(frozen=True)
class Projection:
    """A seeded projection: that of scikit-learn's `SparseRandomProjection(dim, random_state=seed)`.

    Attributes:
        dim: The dimension to project to.
        seed: Random seed.
    """

    dim: int
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> "Projection":
        """Read "DIM" or "DIM:SEED".

        Raises:
            RequestError: It is neither.
        """
        found = re.fullmatch(r"([1-9]\d{0,8})(?::(\d{1,9}))?", text)
        if not found or int(found[1]) > LARGEST:
            raise RequestError(f"project {text!r} is not DIM or DIM:SEED, with DIM from 1 to {LARGEST:,}.")
        return cls(int(found[1]), int(found[2] or 0))

    def __str__(self) -> str:
        return f"{self.dim}:{self.seed}"

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Project.

        Args:
            features: Shape (N, F), float32.

        Returns:
            Shape (N, dim), float32.
        """
        return np.ascontiguousarray((_matrix(self, features.shape[1]) @ features.T).T, np.float32)


def dense_matrix(projection: Projection, features: int) -> np.ndarray:
    """What to multiply features, shape (N, features), by: the matrix with its zeros, shape (features, dim), float32."""
    return np.ascontiguousarray(_matrix(projection, features).T.toarray())


@lru_cache(maxsize=32)
def _matrix(projection: Projection, features: int) -> Any:
    """The matrix, shape (dim, features), sparse: about sqrt(features) entries a row, 8 bytes each."""
    from sklearn.random_projection import SparseRandomProjection

    fitted = SparseRandomProjection(projection.dim, random_state=projection.seed)
    return fitted.fit(np.broadcast_to(np.float32(0), (1, features))).components_.astype(np.float32)
