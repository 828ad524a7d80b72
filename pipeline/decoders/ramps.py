"""Random ramps: features whose ridge regression approximates a smooth kernel's, at the cost of linear regression."""

from dataclasses import dataclass

import numpy as np

from pipeline.decoders.coordinates import orthogonal_directions
from pipeline.decoders.hidden_layer import HiddenLayer
from pipeline.decoders.ridge_regression import Ridge


@dataclass(frozen=True)
class Ramps:
    """Ramps in random directions, as wide as the training images' standard deviation, computed on access.

    A ramp rises from 0 to 1 and stays there. Ramps in all directions and at all offsets have the kernel -|x - x'|,
    which has no bandwidth to choose (Rahimi and Recht 2007 for random features; Székely and Rizzo 2013 for this
    kernel).

    Attributes:
        z: Coordinates of the training images, shape (N, R), float32.
        kernel: The direction of each ramp, in units of its width, shape (R, H), float32.
        middle: The position along its direction where each ramp is 0.5, shape (H,), float32.
    """

    z: np.ndarray
    kernel: np.ndarray
    middle: np.ndarray

    @classmethod
    def draw(cls, z: np.ndarray, count: int, seed: int) -> "Ramps":
        """Draw `count` ramps, each with its middle at one of the training images."""
        random = np.random.default_rng([seed, 2])
        kernel = orthogonal_directions(z.shape[1], count, random).astype(np.float32)
        ranks = random.permutation(count) * len(z) // count
        middle = np.empty(count, np.float32)
        for start in range(0, count, 256):
            block = slice(start, start + 256)
            along = z @ kernel[:, block]
            deviation = along.std(axis=0)
            deviation[deviation == 0] = 1
            kernel[:, block] /= deviation
            middle[block] = np.take_along_axis(np.sort(along, axis=0), ranks[None, block], 0)[0] / deviation
        return cls(z, kernel, middle)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, H)."""
        return len(self.z), len(self.middle)

    @property
    def dtype(self) -> np.dtype:
        """float32."""
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        along = self.z[rows] @ self.kernel - self.middle + np.float32(0.5)
        return np.clip(along, 0, 1, out=along)

    def network(self, ridge: Ridge) -> HiddenLayer:
        """Rewrite a regression on ramps as a network on coordinates: a ramp is the difference of two ReLU units."""
        return HiddenLayer(
            np.hstack([self.kernel, self.kernel]),
            np.concatenate([0.5 - self.middle, -0.5 - self.middle]),
            np.vstack([ridge.coefficients, -ridge.coefficients]),
            ridge.intercept,
        )
