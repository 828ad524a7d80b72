"""The default decoder: a blend of networks, ridge regression and random ramps, each with the share it deserves.

No single method is best on every data set. Networks win with many images for each target, ridge regression with few
images or noisy targets, and ramps (a smooth kernel) in between. The shares are chosen by out-of-fold predictions of the
training images, as in Breiman's stacked regressions (1996): five folds and non-negative least squares.

The blend is one network with one hidden layer of ReLU units, for each candidate is one:

- A network's share is absorbed by its output kernel.
- A linear map a is relu(a) - relu(-a).
- A ramp, which rises from 0 to 1 and stays there, is the difference of two ReLU units.

With fewer images than features, ridge regression, ramps and the networks of the folds are fitted in the coordinates of
the space that the training images span. The networks that are kept are trained on the features themselves: Adam treats
each of them by itself, which is worth a few thousandths of cosine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.core.keras_backend import import_keras
from pipeline.core.progress import progress_bar
from pipeline.core.vectors import Vectors
from pipeline.decoders.adamw import BATCH, NetworkConfig, train_network
from pipeline.decoders.coordinates import Coordinates, orthogonal_directions
from pipeline.decoders.hidden_layer import HiddenLayer
from pipeline.decoders.ridge_regression import fit_ridge
from pipeline.decoders.spec import ApiStyle, stack_layers

NEGLIGIBLE = 0.01  # a share that is not worth its units


@dataclass(frozen=True)
class BlendConfig:
    """How a blend is fitted.

    Attributes:
        weight_decays: A network is trained with each of these weight decays.
        units: Hidden units of each network.
        epochs: Epochs of each network.
        ramps: The number of random ramps.
        folds: Folds of the training images, by which the shares are chosen.
    """

    weight_decays: tuple[float, ...] = (3.0, 10.0, 30.0)
    units: int = 256
    epochs: int = 100
    ramps: int = 2048
    folds: int = 5

    @property
    def trainings(self) -> int:
        """How many networks are trained in all."""
        return len(self.weight_decays) * (self.folds + 1)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "BlendConfig":
        """Read what `dataclasses.asdict` returned, after a round trip through JSON."""
        return cls(**{**document, "weight_decays": tuple(document["weight_decays"])})


@dataclass(frozen=True)
class Candidate:
    """One method to blend.

    Attributes:
        name: Its name in results.
        network: Fitted to all training images, on standardised features.
        out_of_fold: Predictions for each training image, fitted to the other folds, shape (N, D).
    """

    name: str
    network: HiddenLayer
    out_of_fold: np.ndarray


@dataclass(frozen=True)
class Blend:
    """A fitted blend.

    Attributes:
        network: On standardised features, shape (F,).
        mean: Mean training feature, shape (F,).
        scale: Root of the mean variance of the training features.
        shares: Candidate -> its share.
        errors: Candidate -> its mean squared error out of fold; "blend" -> that of the blend.
    """

    network: HiddenLayer
    mean: np.ndarray
    scale: float
    shares: dict[str, float]
    errors: dict[str, float]


def deal_folds(y: np.ndarray, units: np.ndarray, seed: int, count: int) -> np.ndarray:
    """Deal training images into folds, the images of each target evenly.

    Args:
        y: Targets, shape (N, D).
        units: A number for each image, shape (N,), int; images with the same number share a fold, unless all do.
        seed: Random seed.
        count: The number of folds; fewer where there are fewer different images.

    Returns:
        The fold of each image, shape (N,), int.
    """
    if len(np.unique(units)) == 1:  # such as one label, whose images are all that is left to tell apart
        units = np.arange(len(units))
    _, first, image = np.unique(units, return_index=True, return_inverse=True)
    _, target = np.unique(y[first], axis=0, return_inverse=True)
    order = np.random.default_rng([seed, 0]).permutation(len(first))
    order = order[np.argsort(target.ravel()[order], kind="stable")]  # sorted by target, shuffled within
    fold = np.empty(len(first), int)
    fold[order] = np.arange(len(first)) % min(count, len(first))
    return fold[image]


def fit_blend(
    x: Vectors, y: np.ndarray, units: np.ndarray, config: BlendConfig, seed: int = 0, progress: bool = False
) -> Blend:
    """Fit all candidates and blend them.

    Args:
        x: Training features, shape (N, F), float32.
        y: Training targets, shape (N, D), float32.
        units: A number for each image, shape (N,), int; images with the same number share a fold.
        config: How to fit it.
        seed: Random seed of folds, initial weights, the order of the images, and the ramps.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The blend; of a single image, its target.
    """
    if len(x) == 1:  # there is nothing to choose by
        return Blend(HiddenLayer.linear(np.zeros((x.shape[1], y.shape[1])), y[0]), x[:][0], 1.0, shares={}, errors={})
    coordinates = Coordinates.of(x, seed)
    standardised = coordinates.standardise(x)
    z = coordinates(standardised)
    folds = deal_folds(y, units, seed, config.folds)
    closed_form = [*_ridges(z, y, folds), _ramps(z, y, folds, config.ramps, seed)]
    candidates = [
        *_networks(standardised, z, y, folds, config, coordinates.stretch, seed, progress),
        *(replace(each, network=coordinates.on_features(each.network)) for each in closed_form),
    ]
    mean = y.mean(axis=0, dtype=np.float64)
    stacked = np.stack([(candidate.out_of_fold - mean).ravel() for candidate in candidates], axis=1)
    shares = _stack(stacked, (y - mean).ravel())
    parts = [candidate.network for candidate, share in zip(candidates, shares, strict=True) if share > 0]
    if parts:
        network = HiddenLayer.blend(parts, shares[shares > 0], mean)
    else:  # nothing predicts better than the mean
        network = HiddenLayer.linear(np.zeros((x.shape[1], y.shape[1])), mean)
    errors = {candidate.name: float(((candidate.out_of_fold - y) ** 2).mean()) for candidate in candidates}
    errors["blend"] = float((((y - mean).ravel() - stacked @ shares) ** 2).mean())
    return Blend(
        network=network,
        mean=coordinates.mean,
        scale=coordinates.scale,
        shares={candidate.name: float(share) for candidate, share in zip(candidates, shares, strict=True)},
        errors=errors,
    )


def _stack(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Non-negative shares with the least squared error, shape (candidates,); negligible ones are zero."""
    from scipy.optimize import nnls

    shares: np.ndarray = nnls(predictions, targets)[0]
    used = shares >= NEGLIGIBLE
    if used.any():
        shares[used] = nnls(predictions[:, used], targets)[0]
    shares[~used] = 0
    return shares


def _networks(
    x: np.ndarray,
    z: np.ndarray,
    y: np.ndarray,
    folds: np.ndarray,
    config: BlendConfig,
    stretch: float,
    seed: int,
    progress: bool,
) -> list[Candidate]:
    """A network for each weight decay: for each fold on coordinates z, and one to keep on standardised features x."""
    everyone, numbers = np.arange(len(z)), np.unique(folds)
    rounds = [int((folds != fold).sum()) for fold in numbers] + [len(z)]
    steps = sum(config.epochs * -(-rows // BATCH) for rows in rounds) * len(config.weight_decays)
    found = []
    with progress_bar(steps, "step", "training", progress) as bar:
        for decay in config.weight_decays:
            wanted = NetworkConfig(config.units, config.epochs, decay)
            out_of_fold = np.empty(y.shape, np.float32)
            for fold in numbers:
                rows = everyone[folds != fold]
                network = train_network(z, y, rows, wanted, stretch, seed, bar.update)
                out_of_fold[folds == fold] = network(z[folds == fold])
            network = train_network(x, y, everyone, wanted, stretch=1.0, seed=seed, advance=bar.update)
            found.append(Candidate(f"network, weight decay {decay:g}", network, out_of_fold))
    return found


def _ridges(z: np.ndarray, y: np.ndarray, folds: np.ndarray) -> list[Candidate]:
    fitted = zip(("ridge", "ridge, a penalty per dimension"), fit_ridge(z, y, folds), strict=True)
    return [
        Candidate(name, HiddenLayer.linear(each.ridge.coefficients, each.ridge.intercept), each.out_of_fold)
        for name, each in fitted
    ]


def _ramps(z: np.ndarray, y: np.ndarray, folds: np.ndarray, count: int, seed: int) -> Candidate:
    """Ridge regression on ramps as wide as the standard deviation of the training images, in random directions.

    Ramps in all directions and at all offsets have the kernel -|x - x'|, which has no bandwidth to choose (Rahimi and
    Recht 2007 for random features; Székely and Rizzo 2013 for this kernel).
    """
    random = np.random.default_rng([seed, 2])
    kernel = orthogonal_directions(z.shape[1], count, random)
    along = z @ kernel
    deviation = along.std(axis=0)
    deviation[deviation == 0] = 1
    along, kernel = along / deviation, kernel / deviation
    middle = np.sort(along, axis=0)[random.permutation(count) * len(z) // count, np.arange(count)]
    fitted, _ = fit_ridge(np.clip(along - middle + 0.5, 0, 1), y, folds)
    out = fitted.ridge.coefficients
    network = HiddenLayer(
        np.hstack([kernel, kernel]),
        np.concatenate([0.5 - middle, -0.5 - middle]),
        np.vstack([out, -out]),
        fitted.ridge.intercept,
    )
    return Candidate("ramps", network, fitted.out_of_fold)


def build_blend(blend: Blend, style: ApiStyle) -> Any:
    """The blend as a Keras model of standard layers: Normalization, Dense (ReLU), Dense.

    Args:
        blend: The blend.
        style: "functional" or "sequential"; the weights are the same bits.

    Returns:
        A `keras.Model` from (N, F) to (N, D), not compiled.
    """
    keras = import_keras()
    network, features = blend.network, len(blend.mean)
    layers = [
        keras.layers.Normalization(mean=blend.mean, variance=np.full(features, blend.scale**2)),
        keras.layers.Dense(network.kernel.shape[1], "relu"),
        keras.layers.Dense(network.out.shape[1]),
    ]
    model = stack_layers(layers, style, features)
    layers[1].set_weights([network.kernel, network.bias])
    layers[2].set_weights([network.out, network.intercept])
    return model
