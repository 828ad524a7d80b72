"""Coordinates: with fewer images than features, decoders are fitted in the space that the training images span.

Nothing can be learned about directions outside that space, and fitting in fewer dimensions is several times faster. A
fitted network is then rewritten in terms of the features.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from pipeline.core.vectors import Vectors, in_blocks, moments
from pipeline.decoders.hidden_layer import HiddenLayer
from pipeline.decoders.ridge_regression import ROUNDING, spanning_basis


@dataclass(frozen=True)
class Coordinates:
    """A map from features to coordinates.

    Attributes:
        mean: Mean feature, shape (F,), float32.
        scale: Root of the mean variance of the features.
        basis: Orthonormal vectors, shape (F, R), float32, times `stretch`; None where the coordinates are the
            standardised features themselves.
        stretch: The factor of `basis`. A step of Adam moves each weight by the learning rate, so with fewer weights it
            changes a unit's output less; longer coordinates make up for that.
    """

    mean: np.ndarray
    scale: float
    basis: np.ndarray | None
    stretch: float

    @classmethod
    def of(cls, x: Vectors, seed: int) -> "Coordinates":
        """The coordinates, randomly rotated, of the space that features of shape (N, F) span."""
        mean, variance = moments(x)
        scale = spread(mean, variance)
        rows, features = x.shape
        if rows > features:
            return cls(mean, scale, None, 1.0)
        basis = spanning_basis((x[:].astype(np.float64) - mean) / scale)
        rotation = orthogonal_directions(basis.shape[1], basis.shape[1], np.random.default_rng([seed, 1]))
        stretch = (features / basis.shape[1]) ** 0.5
        return cls(mean, scale, (stretch * basis @ rotation).astype(np.float32), stretch)

    def standardise(self, x: Vectors) -> np.ndarray:
        """Subtract the mean from features and divide by the scale; shape (N, F), float32."""
        return np.concatenate([(block - self.mean) / np.float32(self.scale) for block in in_blocks(x)])

    def __call__(self, standardised: np.ndarray) -> np.ndarray:
        """Coordinates of standardised features (N, F): shape (N, R), float32."""
        return standardised if self.basis is None else standardised @ self.basis

    def on_features(self, network: HiddenLayer) -> HiddenLayer:
        """Rewrite a network on coordinates as a network on standardised features."""
        if self.basis is None:
            return network
        return dataclasses.replace(network, kernel=self.basis @ network.kernel)


def spread(mean: np.ndarray, variance: float) -> float:
    """The scale of features: the root of their mean variance, or 1 where float32 cannot tell them apart.

    Args:
        mean: Mean feature, shape (F,).
        variance: The mean of all variances.
    """
    squares = variance + float(np.square(mean, dtype=np.float64).mean())
    return variance**0.5 if variance > ROUNDING * squares else 1.0


def orthogonal_directions(dim: int, count: int, random: np.random.Generator) -> np.ndarray:
    """Random unit vectors, orthogonal in blocks of `dim` (Yu et al. 2016); shape (dim, count)."""
    blocks = [np.linalg.qr(random.normal(size=(dim, dim)))[0] for _ in range(-(-count // dim))]
    return np.hstack(blocks)[:, :count]
