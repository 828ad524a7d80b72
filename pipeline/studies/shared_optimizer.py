"""Why two identical models differ: the experiment.

In the original question a Functional and a Sequential model with the same layers score 0.65 and 0.20. Both were trained
with one Adam. In Keras 2 it had a single step counter for both models, so the second model started without Adam's bias
correction.
Keras 3 refuses to share an optimizer. Here the second model gets its own Adam, whose counter starts where the first
one's ended; Keras 2 carried over the same state (a test compares it with Keras 2's own Adam).
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from pipeline.core.errors import RequestError
from pipeline.core.keras_backend import import_keras
from pipeline.core.vectors import Vectors, cosines
from pipeline.decoders.callbacks import Callbacks
from pipeline.decoders.network import ORIGINAL, ApiStyle, DecoderSpec, TrainingConfig, build_decoder, predict
from pipeline.decoders.streaming import aligned_empty
from pipeline.decoders.training import History, TrainingData, fit
from pipeline.studies.equivalence import Equivalence, equivalence_test

FEATURES = 4096
MARGIN = 0.01  # of cosine: API styles that differ by less are equivalent
SATURATED = 0.01  # a sigmoid unit this close to 0 or 1 hardly learns
STEPS = 2
SCENARIOS = ("shared-optimizer", "separate-optimizers", "zero-init", "same-seed")


def original_data(seed: int) -> TrainingData:
    """The data of the original question: one random sample of 4096 numbers in [0, 1), and its 200-d target.

    Args:
        seed: Random seed of the sample.

    Returns:
        The sample, for training and for evaluation, as in the question.
    """
    x = aligned_empty(1, FEATURES)
    np.random.default_rng(seed).random(out=x, dtype=np.float32)
    target = files("pipeline.studies").joinpath("target_200d.csv").read_text()
    y = np.array([target.split()], np.float32)
    return TrainingData(x, y, x, y)


@dataclass
class ModelPair:
    """A Functional and a Sequential model after training, in one scenario, for one seed.

    Attributes:
        seed: The seed.
        models: API style -> `keras.Model`.
        histories: API style -> how the training went.
        data: The data of their training.
    """

    seed: int
    models: dict[str, Any]
    histories: dict[str, History]
    data: TrainingData

    @functools.cached_property
    def cosines(self) -> dict[str, float]:
        """API style -> mean cosine on the training data; with "_held_out", on the held-out data."""
        means = {style: _mean_cosine(model, self.data.x, self.data.y) for style, model in self.models.items()}
        if self.data.x_validation is not self.data.x:  # the original question evaluates on its training data
            for style, model in self.models.items():
                means[f"{style}_held_out"] = _mean_cosine(model, self.data.x_validation, self.data.y_validation)
        return means

    @functools.cached_property
    def weight_difference(self) -> float:
        """The largest difference between a weight of one model and the same weight of the other."""
        pairs = zip(*(model.get_weights() for model in self.models.values()), strict=True)
        return max(float(np.abs(first - second).max()) for first, second in pairs)

    def free_models(self) -> None:
        """Compute the properties that need the models, then free the models' memory."""
        self.cosines, self.weight_difference  # noqa: B018
        self.models = {}


def _mean_cosine(model: Any, x: Vectors, y: np.ndarray) -> float:
    return float(cosines(predict(model, x), y).mean())


@dataclass(frozen=True)
class FirstSteps:
    """The first steps of the second model, with a "fresh" step counter and with the "inherited" one.

    Attributes:
        inherited_steps: The inherited step counter.
        first_update: The mean change of a weight in the first step.
        saturated_share: The share of sigmoid units at 0 or 1 after STEPS steps.
    """

    inherited_steps: int
    first_update: dict[str, float]
    saturated_share: dict[str, float]

    @property
    def first_update_ratio(self) -> float:
        """How many times larger the first update is with the inherited counter."""
        return self.first_update["inherited"] / self.first_update["fresh"]


@dataclass(frozen=True)
class Study:
    """The trained models of all scenarios, and the evidence of the cause.

    Attributes:
        config: The decoder and its training.
        scenarios: Name -> a pair of models for each seed.
        first_steps: What the inherited step counter does to the first steps.
        equivalence: Whether the API styles are equivalent with separate optimizers.
        distinct_units: API style -> distinct units of each hidden layer after zero initialization.
        seconds: The duration of the study.
    """

    config: TrainingConfig
    scenarios: dict[str, list[ModelPair]]
    first_steps: FirstSteps
    equivalence: Equivalence
    distinct_units: dict[str, list[int]]
    seconds: float


def run_study(
    data: Callable[[int], TrainingData],
    config: TrainingConfig = ORIGINAL,
    seeds: Sequence[int] = (0, 1, 2),
    progress: bool = False,
) -> Study:
    """Train a Functional and a Sequential model in each of the four scenarios, for each seed.

    Args:
        data: Random seed -> training data: `original_data`, or your own data.
        config: A decoder of sigmoid layers and its training, with a named optimizer and a constant learning rate.
        seeds: At least one. Seed s initializes one model with seed 2s and, in scenarios with different weights, the
            other with 2s + 1.
        progress: Whether to show progress bars on stderr.

    Returns:
        The study.

    Raises:
        RequestError: The config does not fit the study.
    """
    start = time.monotonic()
    _optimizer_at_step(config, 0)  # rejects a config that does not fit the study
    scenarios: dict[str, list[ModelPair]] = {name: [] for name in SCENARIOS}
    for number, seed in enumerate(seeds, 1):
        callbacks = Callbacks(progress, title=f"seed {number} of {len(seeds)}")
        for name, pair in _train_pairs(config, seed, data(seed).loaded(), callbacks).items():
            scenarios[name].append(pair)
            if len(scenarios[name]) > 1:  # the first seed's models are examined below
                pair.free_models()
    return Study(
        config=config,
        scenarios=scenarios,
        first_steps=_first_steps(scenarios["shared-optimizer"][0], config),
        equivalence=equivalence_test(_differences(scenarios["separate-optimizers"]), MARGIN),
        distinct_units=_distinct_units(scenarios["zero-init"][0]),
        seconds=time.monotonic() - start,
    )


def _train_pairs(config: TrainingConfig, seed: int, data: TrainingData, callbacks: Callbacks) -> dict[str, ModelPair]:
    """Train the models of one seed; the first Functional one is the same in three scenarios."""
    zeros = dataclasses.replace(config.decoder, initializer="zeros", start_at_mean=False)

    def decoder(style: ApiStyle, weights_seed: int, spec: DecoderSpec = config.decoder) -> Any:
        return build_decoder(spec, style, data.x, data.y, weights_seed)

    models = {
        "functional": decoder("functional", 2 * seed),
        "sequential": decoder("sequential", 2 * seed + 1),
        "sequential, same seed": decoder("sequential", 2 * seed),
        "functional, zeros": decoder("functional", 0, zeros),
        "sequential, zeros": decoder("sequential", 0, zeros),
    }
    histories = fit(models, data, config, seed, callbacks)
    second = {"sequential, inherited": decoder("sequential", 2 * seed + 1)}
    inherited = dataclasses.replace(
        config, optimizer=_optimizer_at_step(config, int(models["functional"].optimizer.iterations))
    )
    callbacks = dataclasses.replace(callbacks, title=f"{callbacks.title}, shared optimizer")
    histories |= fit(second, data, inherited, seed, callbacks)
    models |= second

    def pair(functional: str, sequential: str) -> ModelPair:
        names = {"functional": functional, "sequential": sequential}
        return ModelPair(
            seed=seed,
            models={style: models[name] for style, name in names.items()},
            histories={style: histories[name] for style, name in names.items()},
            data=data,
        )

    return {
        "shared-optimizer": pair("functional", "sequential, inherited"),
        "separate-optimizers": pair("functional", "sequential"),
        "zero-init": pair("functional, zeros", "sequential, zeros"),
        "same-seed": pair("functional", "sequential, same seed"),
    }


def _optimizer_at_step(config: TrainingConfig, steps: int) -> Any:
    """Create an optimizer whose step counter starts at `steps`."""
    keras = import_keras()
    plain = isinstance(config.optimizer, str) and config.schedule == "constant"
    if not plain or config.decoder.activation != "sigmoid":
        raise RequestError("The study needs sigmoid layers, an optimizer by name and a constant learning rate.")
    rate = {"learning_rate": config.learning_rate}
    optimizer = keras.optimizers.get({"class_name": config.optimizer, "config": rate})
    optimizer.iterations.assign(steps)
    return optimizer


def _first_steps(shared: ModelPair, config: TrainingConfig) -> FirstSteps:
    """Repeat the first steps of the second model, with a fresh step counter and with the inherited one."""
    steps = int(shared.models["functional"].optimizer.iterations)
    x, y = shared.data.x[: config.batch_size], shared.data.y[: config.batch_size]
    updates, saturated = {}, {}
    for name, counter in (("fresh", 0), ("inherited", steps)):
        model = build_decoder(config.decoder, "sequential", shared.data.x, shared.data.y, 2 * shared.seed + 1)
        model.compile(optimizer=_optimizer_at_step(config, counter), loss=config.loss, run_eagerly=True)
        before = model.get_weights()
        model.train_on_batch(x, y)
        changes = [np.abs(new - old).ravel() for new, old in zip(model.get_weights(), before, strict=True)]
        updates[name] = float(np.concatenate(changes).mean())
        for _ in range(STEPS - 1):
            model.train_on_batch(x, y)
        saturated[name] = _saturated_share(model, x)
    return FirstSteps(steps, updates, saturated)


def _saturated_share(model: Any, x: np.ndarray) -> float:
    """The share of sigmoid units, over all layers, that are saturated at 0 or 1."""
    keras, values, units = import_keras(), x, []
    for layer in model.layers:
        values = layer(values)
        if isinstance(layer, keras.layers.Dense) and layer.activation is keras.activations.sigmoid:
            units.append(keras.ops.convert_to_numpy(values))
    activations = np.concatenate(units, axis=1)
    return float(((activations < SATURATED) | (activations > 1 - SATURATED)).mean())


def _distinct_units(pair: ModelPair) -> dict[str, list[int]]:
    """API style -> the number of distinct units in each hidden layer."""
    keras = import_keras()

    def count(layer: Any) -> int:
        kernel, bias = layer.get_weights()
        return len(np.unique(np.vstack([kernel, bias]), axis=1).T)

    return {
        style: [count(layer) for layer in model.layers if isinstance(layer, keras.layers.Dense)][:-1]
        for style, model in pair.models.items()
    }


def _differences(pairs: Sequence[ModelPair]) -> np.ndarray:
    return np.array([pair.cosines["functional"] - pair.cosines["sequential"] for pair in pairs])
