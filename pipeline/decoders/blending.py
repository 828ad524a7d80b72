"""The default decoder: a blend of ridge regression, random ramps and small networks.

No single method is best on every data set. Networks win with many images, ramps (a smooth kernel) with few, ridge
regression where targets are linear in the features. Their shares are chosen by out-of-fold predictions of the training
images (`pipeline.decoders.stacking`). Of ridge regression and ramps no penalty is chosen: each of PENALTIES is a
candidate of its own, which needs no nested folds and makes penalties in between.

The blend is one network with one hidden layer of ReLU units, for each candidate is one:

- A network's share is absorbed by its output kernel.
- A linear map a is relu(a) - relu(-a).
- A ramp, which rises from 0 to 1 and stays there, is the difference of two ReLU units.

With fewer images than features, all is fitted in the coordinates of the space that the training images span. With many
images, one fold is held out instead of each in turn, and networks stop after MOST_STEPS.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.keras_backend import import_keras
from pipeline.core.progress import progress_bar
from pipeline.core.vectors import Vectors
from pipeline.decoders.adamw import BATCH, NetworkConfig, train_network
from pipeline.decoders.coordinates import Coordinates
from pipeline.decoders.hidden_layer import HiddenLayer
from pipeline.decoders.ramps import Ramps
from pipeline.decoders.ridge_regression import fit_candidates, sums_memory
from pipeline.decoders.spec import ApiStyle, stack_layers
from pipeline.decoders.stacking import stack

PENALTIES = 10.0 ** np.arange(-4, 3)  # of ridge regression and ramps; see `RidgePath`
MANY = 5000  # images, from which one fold is enough to choose the shares by
MOST_STEPS = 10_000  # of a network's training
COMPARED = 2_000_000  # out-of-fold numbers of a candidate that shares are chosen by, at most; but
COMPARED_ROWS = 500  # no fewer images than this


@dataclass(frozen=True)
class BlendConfig:
    """How a blend is fitted.

    Attributes:
        weight_decays: A network is trained with each of these weight decays.
        units: Hidden units of each network.
        epochs: Epochs of each network; fewer where they would take more than MOST_STEPS.
        ramps: The number of random ramps.
        folds: Folds of the training images, by which the shares are chosen.
    """

    weight_decays: tuple[float, ...] = (10.0, 30.0)
    units: int = 256
    epochs: int = 100
    ramps: int = 2048
    folds: int = 5

    def trainings(self, rows: int) -> int:
        """How many networks are trained on `rows` images in all."""
        return len(self.weight_decays) * (1 + (1 if rows >= MANY else min(self.folds, rows)))

    def steps(self, rows: int) -> int:
        """How many steps a network is trained for on `rows` images."""
        return min(self.epochs * -(-rows // BATCH), MOST_STEPS)

    def memory(self, rows: int, features: int, dim: int) -> int:
        """Bytes that fitting it takes for features (rows, features) and targets (rows, dim), these included."""
        compared = min(rows, max(COMPARED // dim, COMPARED_ROWS))
        candidates = 2 * len(PENALTIES) + len(self.weight_decays)
        return (
            4 * 4 * rows * (features + dim)  # as they are, standardised, in coordinates, and as tensors
            + max(sums_memory(rows, features, dim, self.folds), sums_memory(rows, self.ramps, dim, self.folds))
            + 4 * 3 * candidates * compared * dim
        )

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "BlendConfig":
        """Read what `dataclasses.asdict` returned, after a round trip through JSON."""
        return cls(**{**document, "weight_decays": tuple(document["weight_decays"])})


@dataclass(frozen=True)
class Blend:
    """A fitted blend.

    Attributes:
        network: On standardised features, shape (F,).
        mean: Mean training feature, shape (F,).
        scale: Root of the mean variance of the training features.
        shares: Candidate -> its share; all 0 where the blend is the mean target.
    """

    network: HiddenLayer
    mean: np.ndarray
    scale: float
    shares: dict[str, float]


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
    random = np.random.default_rng([seed, 0])
    order = random.permutation(len(first))
    rank = random.permutation(target.max() + 1)[target.ravel()]
    order = order[np.argsort(rank[order], kind="stable")]  # target by target, both targets and their images shuffled
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
    folds = deal_folds(y, units, seed, config.folds)
    coordinates = Coordinates.of(x, seed)
    mean = y.mean(axis=0, dtype=np.float64)
    if len(np.unique(folds)) < 2:  # there is nothing to choose by
        nothing = HiddenLayer.linear(np.zeros((x.shape[1], y.shape[1])), mean)
        return Blend(nothing, coordinates.mean, coordinates.scale, shares={})
    rows = _compared_rows(folds, y.shape[1], seed)
    z = coordinates(coordinates.standardise(x))
    ramps = Ramps.draw(z, config.ramps, seed)
    networks, predictions = _networks(z, y, folds, rows, config, coordinates.stretch, seed, progress)
    linear = fit_candidates(z, y, folds, rows, PENALTIES)
    smooth = fit_candidates(ramps, y, folds, rows, PENALTIES)
    shares = stack([*linear.out_of_fold, *smooth.out_of_fold, *predictions], y, rows, folds, units)

    of_linear, of_smooth, of_networks = np.split(shares.candidates, [len(PENALTIES), 2 * len(PENALTIES)])
    ridge = linear.blended(of_linear)
    candidates = [
        ("ridge", HiddenLayer.linear(ridge.coefficients, ridge.intercept), 1.0, of_linear.sum()),
        ("ramps", ramps.network(smooth.blended(of_smooth)), 1.0, of_smooth.sum()),
        *(
            (f"network, weight decay {decay:g}", network, share, share)
            for decay, network, share in zip(config.weight_decays, networks, of_networks, strict=True)
        ),
    ]
    used = [(coordinates.on_features(network), weight) for _, network, weight, share in candidates if share]
    return Blend(
        network=HiddenLayer.blend([part for part, _ in used], [weight for _, weight in used], mean, shares.mean)
        if used
        else HiddenLayer.linear(np.zeros((x.shape[1], y.shape[1])), mean),
        mean=coordinates.mean,
        scale=coordinates.scale,
        shares={name: float(share) for name, _, _, share in candidates},
    )


def _compared_rows(folds: np.ndarray, dim: int, seed: int) -> np.ndarray:
    """The images whose out-of-fold predictions the shares are chosen by, sorted: all, or as many as are enough."""
    rows = np.flatnonzero(folds == 0) if len(folds) >= MANY else np.arange(len(folds))
    most = max(COMPARED // dim, COMPARED_ROWS)
    return rows if len(rows) <= most else np.sort(np.random.default_rng([seed, 4]).choice(rows, most, replace=False))


def _networks(
    z: np.ndarray,
    y: np.ndarray,
    folds: np.ndarray,
    rows: np.ndarray,
    config: BlendConfig,
    stretch: float,
    seed: int,
    progress: bool,
) -> tuple[list[HiddenLayer], list[np.ndarray]]:
    """A network for each weight decay, on coordinates z, and its out-of-fold predictions of some rows."""
    everyone, held_out = np.arange(len(z)), np.unique(folds[rows])
    sizes = [int((folds != fold).sum()) for fold in held_out] + [len(z)]
    total = len(config.weight_decays) * sum(config.steps(size) for size in sizes)
    networks, predictions = [], []
    with progress_bar(total, "step", "training", progress) as bar:
        for decay in config.weight_decays:

            def train(some: np.ndarray, decay: float = decay) -> HiddenLayer:
                recipe = NetworkConfig(config.units, config.steps(len(some)), decay)
                return train_network(z, y, some, recipe, stretch, seed, bar.update)

            predicted = np.empty((len(rows), y.shape[1]), np.float32)
            for fold in held_out:
                here = folds[rows] == fold
                predicted[here] = train(everyone[folds != fold])(z[rows[here]])
            networks.append(train(everyone))
            predictions.append(predicted)
    return networks, predictions


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
