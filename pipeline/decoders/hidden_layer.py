"""Networks with one hidden layer of ReLU units, as arrays; a blend of them is a network of the same kind.

With fewer images than features, networks are fitted in the coordinates of the space that the training images span.
Nothing can be learned about directions outside that space, and fitting in fewer dimensions is several times faster. A
fitted network is then rewritten in terms of the features.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.vectors import Vectors, in_blocks, moments, spread

BATCH = 32  # images per training step
FLAT = 1e-7  # relative to the largest eigenvalue; below it, the training images count as constant in a direction


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


@dataclass(frozen=True)
class NetworkConfig:
    """The size and the training of a network.

    Attributes:
        units: Units of the hidden layer.
        steps: Training steps of BATCH images each, in repeated passes over the training images.
        weight_decay: AdamW's weight decay, on targets of variance 1.
    """

    units: int
    steps: int
    weight_decay: float


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

    def linear_on_features(self, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rewrite a linear map of coordinates, (R, D) and (D,), as a linear map of raw features."""
        kernel = (kernel if self.basis is None else self.basis @ kernel) / self.scale
        return kernel, bias - self.mean @ kernel

    def on_features(self, network: HiddenLayer) -> HiddenLayer:
        """Rewrite a network on coordinates as a network on standardised features."""
        if self.basis is None:
            return network
        return dataclasses.replace(network, kernel=self.basis @ network.kernel)


def spanning_basis(centred: np.ndarray) -> np.ndarray:
    """Orthonormal vectors that span the rows of a matrix (N, F) with N <= F: shape (F, R), float64, R >= 1.

    They come from the eigendecomposition of the N x N matrix of dot products, which is cheaper than decomposing the
    matrix itself.
    """
    from scipy.linalg import eigh

    values, vectors = eigh(centred @ centred.T, check_finite=False, driver="evd")
    kept = values > FLAT * max(values[-1], np.finfo(np.float64).tiny)
    kept[-1] = True  # if all rows are zero, any direction will do
    return centred.T @ (vectors[:, kept] / np.sqrt(np.maximum(values[kept], np.finfo(np.float64).tiny)))


def orthogonal_directions(dim: int, count: int, random: np.random.Generator) -> np.ndarray:
    """Random unit vectors, orthogonal in blocks of `dim` (Yu et al. 2016); shape (dim, count)."""
    blocks = [np.linalg.qr(random.normal(size=(dim, dim)))[0] for _ in range(-(-count // dim))]
    return np.hstack(blocks)[:, :count]
