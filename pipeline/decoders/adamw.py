"""Train many small networks in a row by AdamW (Loshchilov and Hutter 2019), in one XLA function.

`pipeline.decoders.training` trains any Keras model. This module trains one kind of network and starts several times as
fast, because the function is compiled once for all folds and weight decays.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.keras_backend import import_keras
from pipeline.decoders.hidden_layer import HiddenLayer

BATCH = 32
LEARNING_RATE = 1e-3
STEPS_PER_CALL = 500  # few enough for progress to show and Ctrl-C to work


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


def train_network(
    z: np.ndarray,
    y: np.ndarray,
    rows: np.ndarray,
    config: NetworkConfig,
    stretch: float,
    seed: int,
    advance: Callable[[int], object] = lambda steps: None,
) -> HiddenLayer:
    """Train a network with one hidden layer of ReLU units, starting at the mean target, with a cosine schedule.

    Args:
        z: Coordinates of all training images, shape (N, R), float32.
        y: Their targets, shape (N, D), float32.
        rows: The rows to train on.
        config: The size and the training of the network.
        stretch: See `pipeline.decoders.coordinates.Coordinates`.
        seed: Random seed of the initial weights and the order of the rows.
        advance: Called with the number of steps done since the last call.

    Returns:
        The network.
    """
    import_keras()  # configures TensorFlow's threads and logging before TensorFlow is loaded
    import tensorflow as tf

    random = np.random.default_rng([seed, 3])
    features, mean = z.shape[1], y[rows].mean(axis=0, dtype=np.float64)
    # Learning rate and weight decay have a fixed scale, and the decay must not pull the mean target to zero.
    spread = max(float(np.sqrt(((y[rows] - mean) ** 2).mean())), float(np.finfo(np.float32).tiny))
    standardised = ((y - mean) / spread).astype(np.float32)
    steps = config.steps
    order = np.concatenate([random.permutation(rows) for _ in range(-(-steps * BATCH // len(rows)))])
    order = order[: steps * BATCH].reshape(steps, BATCH).astype(np.int32)
    # He-normal for the original `features * stretch**2` features; longer coordinates need smaller weights.
    kernel = random.normal(size=(features, config.units)) * (2 / features) ** 0.5 / stretch**2
    initial = [kernel, np.zeros(config.units), np.zeros((config.units, y.shape[1])), np.zeros(y.shape[1])]
    weights = [tf.constant(value, tf.float32) for value in initial]
    state = (weights, [tf.zeros_like(value) for value in weights], [tf.zeros_like(value) for value in weights])
    x, targets, decay = tf.constant(z), tf.constant(standardised), tf.constant(config.weight_decay, tf.float32)
    for begin in range(0, steps, STEPS_PER_CALL):
        batches = order[begin : begin + STEPS_PER_CALL]
        padded = np.zeros((STEPS_PER_CALL, BATCH), np.int32)  # a fixed shape, so that it is compiled once
        padded[: len(batches)] = batches
        bounds = (tf.constant(value) for value in (begin, begin + len(batches), steps))
        state = _compiled_steps()(x, targets, tf.constant(padded), *bounds, decay, state)
        advance(len(batches))
    kernel, bias, out, intercept = (value.numpy() for value in state[0])
    return HiddenLayer(kernel, bias, spread * out, spread * intercept + mean)


@functools.cache
def _compiled_steps() -> Any:
    import tensorflow as tf

    return tf.function(_trace_steps, jit_compile=True, reduce_retracing=True)


def _trace_steps(
    x: Any, y: Any, batches: Any, begin: Any, end: Any, steps: Any, decay: Any, state: tuple[list, list, list]
) -> tuple[list, list, list]:
    """Take steps `begin` to `end` of Keras's AdamW on the mean squared error; return weights and both averages."""
    import tensorflow as tf

    def step(number: Any, weights: list, first: list, second: list) -> tuple[Any, list, list, list]:
        rows = batches[number - begin]
        batch, targets = tf.gather(x, rows), tf.gather(y, rows)
        preactivation = batch @ weights[0] + weights[1]
        hidden = tf.nn.relu(preactivation)
        error = (hidden @ weights[2] + weights[3] - targets) * (2.0 / tf.cast(tf.size(targets), tf.float32))
        hidden_error = tf.where(preactivation > 0, error @ tf.transpose(weights[2]), 0.0)
        gradients = [
            tf.transpose(batch) @ hidden_error,
            tf.reduce_sum(hidden_error, 0),
            tf.transpose(hidden) @ error,
            tf.reduce_sum(error, 0),
        ]
        done = tf.cast(number, tf.float32)
        rate = LEARNING_RATE * 0.5 * (1 + tf.cos(np.pi * done / tf.cast(steps, tf.float32)))
        corrected = rate * tf.sqrt(1 - 0.999 ** (done + 1)) / (1 - 0.9 ** (done + 1))
        first = [mean + 0.1 * (gradient - mean) for mean, gradient in zip(first, gradients, strict=True)]
        second = [mean + 0.001 * (gradient**2 - mean) for mean, gradient in zip(second, gradients, strict=True)]
        weights = [
            value * (1 - rate * decay) - corrected * mean / (tf.sqrt(square) + 1e-7)
            for value, mean, square in zip(weights, first, second, strict=True)
        ]
        return number + 1, weights, first, second

    loop = tf.while_loop(lambda number, *_: number < end, step, (begin, *state))
    return loop[1], loop[2], loop[3]
