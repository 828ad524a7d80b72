"""Banded ridge regression: a linear decoder with a penalty for each layer and target dimension, by himalaya.

Each layer's features are a band. For each dimension of the targets, himalaya chooses the weights of the bands and the
overall penalty by the out-of-fold squared error, in a random search (Dupré la Tour, Eickenberg, Nunez-Elizalde and
Gallant 2022, "Feature-space selection with banded ridge regression", NeuroImage 264). A single band is ordinary ridge
regression with a penalty for each dimension.

Bands are scaled to the same mean squared length, and dimensions to unit variance, so that neither the number of
features nor units matter: himalaya's thresholds are absolute. All sums are in float64.
"""

import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from pipeline.core.errors import RequestError
from pipeline.core.keras_backend import import_keras
from pipeline.core.vectors import Vectors, in_blocks, moments, slices, spread, standard_deviations
from pipeline.data.splits import assign_folds
from pipeline.decoders.blend import MANY
from pipeline.decoders.network import ApiStyle, stack_layers
from pipeline.decoders.options import MEMORY
from pipeline.decoders.ridge import PENALTIES, Ridge

ALPHAS = PENALTIES[::2]  # overall penalties, relative to the mean squared length of a centred row
FEWEST = 256  # targets fitted at a time, whatever the memory
VALUES = 2**24  # float64 values in the arrays of a step, which bounds their memory


@dataclass(frozen=True)
class BandedConfig:
    """How banded ridge regression is fitted.

    Attributes:
        draws: The number of combinations of band weights to try: equal weights, then random ones from Dirichlet
            distributions, himalaya's default.
        folds: Folds of the training images for choosing weights and penalties.
    """

    draws: int = 50
    folds: int = 5

    def memory(self, rows: int, features: int, dim: int, bands: int, at_once: int | None = None) -> int:
        """Bytes needed to fit features (rows, features) in some bands and targets (rows, dim), including these.

        Args:
            rows: Training images.
            features: F, the dimension of the features.
            dim: D, the dimension of the targets.
            bands: The number of bands.
            at_once: The number of targets that are fitted at a time; None for all.
        """
        at_once = dim if at_once is None else at_once
        narrow = rows <= features
        space = (2 * bands + 6) * rows * rows if narrow else 5 * rows * features
        fixed = 4 * (rows * (3 * features + dim) + features * dim) + 8 * (space + 2 * VALUES)
        return fixed + 8 * at_once * self._numbers(rows, features)

    def targets_at_once(self, rows: int, features: int, dim: int, bands: int, memory: int) -> int:
        """The number of targets that a memory budget in bytes allows to fit at a time; at least FEWEST."""
        free = memory - self.memory(rows, features, dim, bands, 0)
        return min(dim, max(FEWEST, free // (8 * self._numbers(rows, features))))

    def _numbers(self, rows: int, features: int) -> int:
        """The numbers per target that are in memory while it is fitted: targets and coefficients, with copies."""
        return 2 * (rows + features)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "BandedConfig":
        """Rebuild a config from `dataclasses.asdict` after a round trip through JSON."""
        return cls(**document)


@dataclass(frozen=True)
class Banded:
    """A fitted banded ridge regression.

    Attributes:
        ridge: Its coefficients on centred features, and the mean target as its intercept.
        mean: Mean training feature, shape (F,), float32.
    """

    ridge: Ridge
    mean: np.ndarray


def require_himalaya() -> None:
    """Check that himalaya, which fits banded ridge regression, is installed.

    Raises:
        RequestError: It is not installed.
    """
    if importlib.util.find_spec("himalaya") is None:
        raise RequestError(
            "Banded ridge regression needs himalaya; install it with pip install 'image-vectors[lab]', or choose "
            "another preset."
        )


def fit_banded(
    x: Vectors,
    y: np.ndarray,
    bands: Sequence[int],
    units: np.ndarray,
    config: BandedConfig | None = None,
    seed: int = 0,
    memory: int = MEMORY,
) -> Banded:
    """Fit banded ridge regression.

    Each target is fitted by itself, so wide targets are fitted in blocks that the memory budget allows, with the same
    result as all at once.

    With at most as many images as features, the regression is solved on kernels of N x N, one per band
    (`MultipleKernelRidgeCV`), and converted to coefficients of the features; otherwise on the features
    (`GroupRidgeCV`).

    Args:
        x: Training features, shape (N, F), float32.
        y: Training targets, shape (N, D), float32.
        bands: The number of features of each band, in order; empty for a single band.
        units: A number for each image, shape (N,), int; images with the same number share a fold.
        config: How to fit it; None for the defaults.
        seed: Random seed of the folds and of the search.
        memory: The memory budget in bytes.

    Returns:
        The regression; for a single image, it always predicts the image's target.

    Raises:
        RequestError: himalaya is not installed.
    """
    require_himalaya()
    config = config or BandedConfig()
    folds = assign_folds(y, units, seed, config.folds)
    mean, centre = moments(x)[0], y.mean(axis=0, dtype=np.float64)
    if len(np.unique(folds)) < 2:  # no held-out fold to choose the penalties by
        zeros = np.zeros((x.shape[1], y.shape[1]), np.float32)
        return Banded(Ridge(zeros, centre.astype(np.float32)), mean)
    scaled = _Bands.of(x, mean, bands or (x.shape[1],))
    solve = _on_kernels if len(x) <= x.shape[1] else _on_features
    (rows, features), dim = x.shape, y.shape[1]
    at_once = config.targets_at_once(rows, features, dim, len(scaled.slices), memory)
    ridge = Ridge(np.empty((features, dim), np.float32), np.empty(dim, np.float32))
    for block in slices(dim, 1, at_once):
        standardised, deviation = _standardised(y[:, block], centre[block])
        with np.errstate(divide="ignore"):  # the logarithm of a weight that underflows to 0
            coefficients, offset = solve(scaled, standardised, config, folds, seed)
        coefficients *= deviation
        ridge.coefficients[:, block] = coefficients
        ridge.intercept[block] = centre[block] + deviation * offset
    return Banded(ridge, mean)


def _standardised(y: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Targets (N, d) about their mean, in units of their standard deviation (d,), or 0 if they are constant; both."""
    varies = np.ptp(y, axis=0) > 0
    deviation = np.where(varies, standard_deviations(y), 1.0)
    standardised = y - centre
    standardised /= deviation
    standardised[:, ~varies] = 0
    return standardised, deviation


@dataclass(frozen=True)
class _Bands:
    """Centred bands, each divided by the root of the mean squared length of its rows.

    Attributes:
        x: Features, shape (N, F).
        mean: Their mean, shape (F,).
        slices: The features of each band.
        scales: The divisor of each band.
    """

    x: np.ndarray
    mean: np.ndarray
    slices: Sequence[slice]
    scales: Sequence[float]

    @classmethod
    def of(cls, x: Vectors, mean: np.ndarray, bands: Sequence[int]) -> "_Bands":
        x, slices = x[:], band_slices(bands)
        widths = [spread(*moments(x[:, band])) * math.sqrt(band.stop - band.start) for band in slices]
        return cls(x, mean, slices, widths)

    def __iter__(self) -> Iterator[np.ndarray]:
        """The bands, shape (N, F') each, float64."""
        for band, scale in zip(self.slices, self.scales, strict=True):
            yield (self.x[:, band].astype(np.float64) - self.mean[band]) / scale

    def on_features(self, coefficients: Sequence[np.ndarray]) -> np.ndarray:
        """Coefficients of the scaled bands, (F', D) each, as coefficients of the features, shape (F, D)."""
        stacked = np.vstack(coefficients)
        for band, scale in zip(self.slices, self.scales, strict=True):
            stacked[band] /= scale
        return stacked


def band_slices(bands: Sequence[int]) -> list[slice]:
    """The features of each band, from the number of features of each."""
    return [slice(*ends) for ends in pairwise(accumulate(bands, initial=0))]


def _on_kernels(
    bands: _Bands, y: np.ndarray, config: BandedConfig, folds: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The coefficients, shape (F, D), and the intercept, shape (D,), by kernel ridge regression."""
    from himalaya.kernel_ridge import MultipleKernelRidgeCV

    kernels = np.stack([band @ band.T for band in bands])
    model = MultipleKernelRidgeCV("precomputed", **_settings(bands, config, folds, seed)).fit(kernels, y)
    weights = np.exp(model.deltas_)
    coefficients = [band.T @ (model.dual_coef_ * weight) for band, weight in zip(bands, weights, strict=True)]
    return bands.on_features(coefficients), model.intercept_


def _on_features(
    bands: _Bands, y: np.ndarray, config: BandedConfig, folds: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The coefficients, shape (F, D), and the intercept, shape (D,), by ridge regression on the features."""
    from himalaya.ridge import GroupRidgeCV

    model = GroupRidgeCV("input", **_settings(bands, config, folds, seed)).fit(list(bands), y)
    return bands.on_features([model.coef_[band] for band in bands.slices]), model.intercept_


def _settings(bands: _Bands, config: BandedConfig, folds: np.ndarray, seed: int) -> dict[str, Any]:
    """The settings of himalaya's estimators; a step's arrays have about VALUES values at most."""
    rows, features = bands.x.shape
    alphas = min(len(ALPHAS), max(1, VALUES // (rows * max(min(rows, features), rows // config.folds))))
    held_out = np.unique(folds)[: 1 if rows >= MANY else None]
    return {
        "fit_intercept": True,
        "cv": [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in held_out],
        "random_state": seed,
        "solver_params": {
            "n_iter": config.draws if len(bands.slices) > 1 else np.ones((1, 1)),
            "alphas": ALPHAS,
            "n_alphas_batch": alphas,
            "n_targets_batch": max(1, VALUES // (alphas * rows)),
            "progress_bar": False,  # it would be on stdout
        },
    }


def build_banded(banded: Banded, style: ApiStyle) -> Any:
    """Build a regression as a Keras model of standard layers: Normalization, which only centres, and Dense.

    Args:
        banded: The regression.
        style: "functional" or "sequential"; both have bit-identical weights.

    Returns:
        A `keras.Model` from (N, F) to (N, D), not compiled.
    """
    keras = import_keras()
    features, dim = banded.ridge.coefficients.shape
    layers = [
        keras.layers.Normalization(mean=banded.mean, variance=np.ones(features)),
        keras.layers.Dense(dim),
    ]
    model = stack_layers(layers, style, features)
    layers[1].set_weights([banded.ridge.coefficients, banded.ridge.intercept])
    return model


def explained_squares(model: Any, x: Vectors, y: np.ndarray, bands: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The squares that each band of a saved regression explains, by the product measure.

    A prediction is the mean training target plus a part from each band. With deviations y from the mean, parts p and
    their sum P, the sum of squares falls from y'y to y'y - sum(p'(2y - P)), so p'(2y - P) / y'y is the part's share of
    R², which may be negative (`himalaya.scoring.r2_score_split`).

    Args:
        model: What `build_banded` returned.
        x: Features of other images, shape (M, F).
        y: Their targets, shape (M, D).
        bands: The number of features of each band.

    Returns:
        The squares that each band explains, shape (B, D), and the squares of all deviations, shape (D,), float64.
    """
    normalization, dense = model.layers[-2:]
    mean = np.asarray(normalization.mean).ravel()
    kernel, intercept = dense.get_weights()
    slices, start = band_slices(bands), 0
    explained, total = np.zeros((len(slices), y.shape[1])), np.zeros(y.shape[1])
    for block in in_blocks(x, max(1, VALUES // (len(slices) * y.shape[1]))):
        parts = np.stack([(block[:, band] - mean[band]) @ kernel[band] for band in slices]).astype(np.float64)
        deviations = y[start : start + len(block)] - intercept.astype(np.float64)
        explained += np.einsum("bmd,md->bd", parts, 2 * deviations - parts.sum(axis=0))
        total += np.square(deviations).sum(axis=0)
        start += len(block)
    return explained, total
