"""The default decoder: a blend of ridge regression, random ramps and small networks.

No single method is best on every data set. Networks win with many images, ramps (a smooth kernel) with few, ridge
regression where targets are linear in the features. Their shares are chosen by out-of-fold predictions for the training
images (`pipeline.decoders.stacking`). The penalty of ridge regression and of ramps is not tuned: each of PENALTIES is a
candidate, which avoids nested folds, and their blend acts as a penalty in between.

Every candidate is a network with one hidden layer of ReLU units, and so is the blend:

- A network's share is multiplied into its output kernel.
- A linear map a is relu(a) - relu(-a).
- A ramp, which rises from 0 to 1 and stays there, is the difference of two ReLU units.

With fewer images than features, candidates are fitted in the coordinates of the space that the training images span.
With many images, a single fold is held out instead of each in turn, and networks stop after MOST_STEPS.
"""

import functools
import itertools
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.core.keras_backend import import_keras
from pipeline.core.progress import progress_bar
from pipeline.core.vectors import Vectors
from pipeline.data.splits import assign_folds
from pipeline.decoders.callbacks import Callbacks, FinishedSteps
from pipeline.decoders.hidden_layer import BATCH, Coordinates, HiddenLayer, NetworkConfig
from pipeline.decoders.network import ApiStyle, stack_layers
from pipeline.decoders.ridge import Ramps, Ridge, RidgeFolds, sums_memory
from pipeline.decoders.stacking import Shares, stack

PENALTIES = 10.0 ** np.arange(-4, 3)  # of ridge regression and ramps; see `RidgePath`
MANY = 5000  # images; from here on, one held-out fold is enough to choose the shares
MOST_STEPS = 10_000  # per network
COMPARED = 2_000_000  # the shares are chosen by at most this many out-of-fold values per candidate ...
COMPARED_ROWS = 500  # ... but at least this many images


@dataclass(frozen=True)
class BlendConfig:
    """How a blend is fitted.

    Attributes:
        weight_decays: Weight decays; one network is trained with each.
        units: Hidden units of each network.
        epochs: Epochs of each network; fewer where they would take more than MOST_STEPS.
        ramps: The number of random ramps.
        folds: Folds of the training images for choosing the shares.
    """

    weight_decays: tuple[float, ...] = (10.0, 30.0)
    units: int = 256
    epochs: int = 100
    ramps: int = 2048
    folds: int = 5

    def trainings(self, rows: int) -> int:
        """The number of networks that a blend trains on `rows` images."""
        return len(self.weight_decays) * (1 + (1 if rows >= MANY else min(self.folds, rows)))

    def steps(self, rows: int) -> int:
        """The number of training steps of a network on `rows` images."""
        return min(self.epochs * -(-rows // BATCH), MOST_STEPS)

    def memory(self, rows: int, features: int, dim: int) -> int:
        """Bytes needed to fit a blend to features (rows, features) and targets (rows, dim), including these."""
        compared = min(rows, max(COMPARED // dim, COMPARED_ROWS))
        candidates = 2 * len(PENALTIES) + len(self.weight_decays)
        hidden = 2 * min(features, dim) + 2 * self.ramps + len(self.weight_decays) * self.units
        sums = max(sums_memory(rows, features, dim, self.folds), sums_memory(rows, self.ramps, dim, self.folds))
        return (
            4 * 4 * rows * (features + dim)  # raw, standardised, as coordinates, and as tensors
            + 4 * 3 * candidates * compared * dim
            + max(sums, 2 * 4 * hidden * (features + dim))  # the network in its parts, and as a whole
        )

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "BlendConfig":
        """Rebuild a config from `dataclasses.asdict` after a round trip through JSON."""
        return cls(**{**document, "weight_decays": tuple(document["weight_decays"])})


@dataclass(frozen=True)
class Blend:
    """A fitted blend.

    Attributes:
        network: The network, on standardised features of shape (F,).
        mean: Mean training feature, shape (F,).
        scale: Root of the mean variance of the training features.
        shares: Candidate -> its share; all 0 if the blend is the mean target.
        ridge: A function that fits ridge regression with a single penalty, reusing the candidates' sums; None without
            candidates.
        out_of_fold: The mean cosine (for D = 1, minus the mean squared error) for training images whose fold neither
            the candidates nor the shares were fitted to; None without candidates.
    """

    network: HiddenLayer
    mean: np.ndarray
    scale: float
    shares: dict[str, float]
    ridge: Callable[[], Ridge] | None = None
    out_of_fold: float | None = None


@dataclass(frozen=True)
class Candidates:
    """The candidates of a blend, fitted to all training images, and their out-of-fold predictions.

    Attributes:
        linear: Ridge regressions on coordinates.
        smooth: Ridge regressions on ramps.
        ramps: The ramps.
        networks: Weight decay -> the network.
        out_of_fold: Each candidate's predictions for `rows`, fitted without the row's fold; shape (M, D) each.
        coordinates: The coordinates of the features.
        mean: Mean training target, shape (D,).
        rows: The training images with out-of-fold predictions, shape (M,), int.
        folds: The fold of each training image, shape (N,), int; at least two different ones.
    """

    linear: RidgeFolds
    smooth: RidgeFolds
    ramps: Ramps
    networks: dict[float, HiddenLayer]
    out_of_fold: list[np.ndarray]
    coordinates: Coordinates
    mean: np.ndarray
    rows: np.ndarray
    folds: np.ndarray

    @classmethod
    def fit(
        cls, x: Vectors, y: np.ndarray, folds: np.ndarray, config: BlendConfig, seed: int, callbacks: Callbacks
    ) -> "Candidates":
        """Fit all candidates; see `fit_blend` and the attributes."""
        coordinates = Coordinates.of(x, seed)
        rows = _compared_rows(folds, y.shape[1], seed)
        z = coordinates(coordinates.standardise(x))
        ramps = Ramps.draw(z, config.ramps, seed)
        networks, predicted = _Trainings(z, y, folds, rows, config, coordinates.stretch, seed).run(callbacks)
        smooth = RidgeFolds(ramps, y, folds, penalties=np.empty(0))
        predicted = [*smooth.out_of_fold(rows, PENALTIES), *predicted]
        linear = RidgeFolds(z, y, folds)
        return cls(
            linear=linear,
            smooth=smooth,
            ramps=ramps,
            networks=networks,
            out_of_fold=[*linear.out_of_fold(rows, PENALTIES), *predicted],
            coordinates=coordinates,
            mean=y.mean(axis=0, dtype=np.float64),
            rows=rows,
            folds=folds,
        )

    @property
    def names(self) -> list[str]:
        """The name of each candidate; all penalties of a method share a name."""
        decays = [f"network, weight decay {decay:g}" for decay in self.networks]
        return ["ridge"] * len(PENALTIES) + ["ramps"] * len(PENALTIES) + decays

    def blend(self, shares: Shares) -> Blend:
        """Blend the candidates into one network."""
        linear_shares, smooth_shares, network_shares = np.split(shares.candidates, [len(PENALTIES), 2 * len(PENALTIES)])
        parts: list[tuple[HiddenLayer, float]] = []
        if linear_shares.any():
            linear = self.linear.blend(PENALTIES, linear_shares)
            parts.append((HiddenLayer.linear(linear.coefficients, linear.intercept), 1.0))
        if smooth_shares.any():
            parts.append((self.ramps.network(self.smooth.blend(PENALTIES, smooth_shares)), 1.0))
        networks = zip(self.networks.values(), network_shares, strict=True)
        parts += [(network, share) for network, share in networks if share]
        by_name = dict.fromkeys(self.names, 0.0)
        for name, share in zip(self.names, shares.candidates, strict=True):
            by_name[name] += float(share)
        ridge = functools.partial(_ridge_on_features, self.linear, self.coordinates)
        if not parts:
            return replace(_mean_target(self.coordinates, self.mean, by_name), ridge=ridge, out_of_fold=shares.score)
        on_features = [self.coordinates.on_features(part) for part, _ in parts]
        network = HiddenLayer.blend(on_features, [weight for _, weight in parts], self.mean, shares.mean)
        return Blend(network, self.coordinates.mean, self.coordinates.scale, by_name, ridge, shares.score)


def fit_blend(
    x: Vectors, y: np.ndarray, units: np.ndarray, config: BlendConfig, seed: int = 0, callbacks: Callbacks | None = None
) -> Blend:
    """Fit all candidates and blend them.

    Args:
        x: Training features, shape (N, F), float32.
        y: Training targets, shape (N, D), float32.
        units: A number for each image, shape (N,), int; images with the same number share a fold.
        config: How to fit it.
        seed: Random seed of folds, initial weights, the order of the images, and the ramps.
        callbacks: Progress bar, and a checkpoint from which finished networks are reused.

    Returns:
        The blend; for a single image, it always predicts the image's target.

    Raises:
        PipelineError: The checkpoint is damaged, belongs to another training, or cannot be written.
    """
    folds = assign_folds(y, units, seed, config.folds)
    if len(np.unique(folds)) < 2:  # no held-out fold to choose the shares by
        return _mean_target(Coordinates.of(x, seed), y.mean(axis=0, dtype=np.float64), {})
    candidates = Candidates.fit(x, y, folds, config, seed, callbacks or Callbacks())
    return candidates.blend(stack(candidates.out_of_fold, y, candidates.rows, folds, units))


def _mean_target(coordinates: Coordinates, mean: np.ndarray, shares: dict[str, float]) -> Blend:
    constant = HiddenLayer.linear(np.zeros((len(coordinates.mean), len(mean))), mean)
    return Blend(constant, coordinates.mean, coordinates.scale, shares)


def _ridge_on_features(regressions: RidgeFolds, coordinates: Coordinates) -> Ridge:
    best = regressions.best()
    return Ridge(*coordinates.linear_on_features(best.coefficients, best.intercept))


def _compared_rows(folds: np.ndarray, dim: int, seed: int) -> np.ndarray:
    """The images to choose the shares by, sorted: all of them, or a large enough sample."""
    rows = np.flatnonzero(folds == 0) if len(folds) >= MANY else np.arange(len(folds))
    most = max(COMPARED // dim, COMPARED_ROWS)
    return rows if len(rows) <= most else np.sort(np.random.default_rng([seed, 4]).choice(rows, most, replace=False))


@dataclass(frozen=True)
class _Trainings:
    """The trainings on coordinates z (N, R): for each weight decay, one without each fold of `rows`, and one on all."""

    z: np.ndarray
    y: np.ndarray
    folds: np.ndarray
    rows: np.ndarray
    config: BlendConfig
    stretch: float
    seed: int

    def run(self, callbacks: Callbacks) -> tuple[dict[float, HiddenLayer], list[np.ndarray]]:
        """Train; return weight decay -> network, and each decay's out-of-fold predictions for `rows`, shape (M, D)."""
        decays = self.config.weight_decays
        parts = {f"without fold {fold}": self.folds != fold for fold in np.unique(self.folds[self.rows])}
        parts["all"] = np.full(len(self.z), True)
        networks, predicted = {}, {decay: np.empty((len(self.rows), self.y.shape[1]), np.float32) for decay in decays}
        total = sum(self.config.steps(int(part.sum())) for part in parts.values()) * len(decays)
        finished, done = FinishedSteps(callbacks.checkpoint, self._identity()), 0
        with progress_bar(total, "step", "training", callbacks.progress) as bar:
            for decay, (name, part) in itertools.product(decays, parts.items()):
                train = functools.partial(self._train, np.flatnonzero(part), decay, bar.update)
                networks[decay] = HiddenLayer(*finished.result(f"{decay:g}, {name}", train))
                held_out = ~part[self.rows]
                predicted[decay][held_out] = networks[decay](self.z[self.rows[held_out]])
                done += self.config.steps(int(part.sum()))
                bar.update(done - bar.n)  # the steps of a network from the checkpoint
        return networks, list(predicted.values())

    def _train(self, rows: np.ndarray, decay: float, advance: Callable[[int], object]) -> list[np.ndarray]:
        import_keras()  # before TensorFlow, which it configures
        from pipeline.decoders.xla import train_network

        config = NetworkConfig(self.config.units, self.config.steps(len(rows)), decay)
        return train_network(self.z, self.y, rows, config, self.stretch, self.seed, advance).arrays

    def _identity(self) -> np.ndarray:
        return np.array([*self.z.shape, *self.y.shape, len(self.rows), self.seed, zlib.crc32(self.y.tobytes())])


def build_blend(blend: Blend, style: ApiStyle) -> Any:
    """Build a blend as a Keras model of standard layers: Normalization, Dense (ReLU), Dense.

    Args:
        blend: The blend.
        style: "functional" or "sequential"; both have bit-identical weights.

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
