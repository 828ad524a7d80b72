"""Networks with one hidden layer of ReLU units, as arrays; a blend of them is a network of the same kind."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class HiddenLayer:
    """The network relu(x @ kernel + bias) @ out + intercept.

    Attributes:
        kernel: Shape (F, H).
        bias: Shape (H,).
        out: Shape (H, D).
        intercept: Shape (D,).
    """

    kernel: np.ndarray
    bias: np.ndarray
    out: np.ndarray
    intercept: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Predictions for features of shape (N, F), shape (N, D)."""
        predictions: np.ndarray = np.maximum(x @ self.kernel + self.bias, 0) @ self.out + self.intercept
        return predictions

    @property
    def arrays(self) -> list[np.ndarray]:
        """The attributes, in order."""
        return [self.kernel, self.bias, self.out, self.intercept]

    @classmethod
    def linear(cls, coefficients: np.ndarray, intercept: np.ndarray) -> "HiddenLayer":
        """The linear map x @ coefficients + intercept as a network, since a = relu(a) - relu(-a)."""
        features, dim = coefficients.shape
        first, second = (coefficients, np.eye(dim)) if dim <= features else (np.eye(features), coefficients)
        kernel = np.hstack([first, -first])
        return cls(kernel, np.zeros(kernel.shape[1]), np.vstack([second, -second]), intercept)

    @classmethod
    def blend(
        cls, parts: Sequence["HiddenLayer"], shares: Sequence[float], mean: np.ndarray, mean_share: float
    ) -> "HiddenLayer":
        """The network that predicts mean_share * mean + the sum of share * (part - mean) over all parts.

        Args:
            parts: At least one network.
            shares: The share of each part.
            mean: Shape (D,).
            mean_share: The share of the mean.
        """
        deviations = [share * (part.intercept - mean) for part, share in zip(parts, shares, strict=True)]
        return cls(
            np.hstack([part.kernel for part in parts]),
            np.concatenate([part.bias for part in parts]),
            np.vstack([share * part.out for part, share in zip(parts, shares, strict=True)]),
            mean_share * mean + np.sum(deviations, axis=0),
        )
