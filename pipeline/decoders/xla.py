"""Compiled training: whole loops of training steps inside one XLA function (https://openxla.org/xla).

Keras `fit` returns to Python after each step, and a decoder's step is so short that nearly all of the time is spent
there. Here the loops over epochs and batches, the validation after each epoch, the best weights and early stopping are
part of the compiled function, and Python only sees blocks of epochs.

`XlaTrainer` does this for any Keras model, loss and optimizer. `train_network` trains many similar networks and
starts several times as fast, because its function is compiled once for all folds and weight decays. A Keras
optimizer would make the weight decay and the length of the schedule constants of that function. So AdamW's step is
written out here; it also works when Keras runs on another backend.

Needs TensorFlow; call `import_keras` first, which configures its threads and logging.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.decoders.hidden_layer import BATCH, HiddenLayer, NetworkConfig
from pipeline.decoders.streaming import is_aligned
from pipeline.decoders.trainer import TrainingState

LEARNING_RATE = 1e-3  # of `train_network`
STEPS_PER_CALL = 500  # of `train_network`; few enough for progress to show and Ctrl-C to work


class XlaTrainer:
    """Trains one decoder. See `pipeline.decoders.trainer.Trainer`.

    Args:
        state: The decoder.
        epochs_at_once: The largest number of epochs in one call of `epochs`.
    """

    def __init__(self, state: TrainingState, epochs_at_once: int) -> None:
        self.state = state
        self._epochs_at_once = epochs_at_once
        self._epochs = tf.function(self._trace_epochs, jit_compile=True)
        self._block = tf.function(self._trace_pass, jit_compile=True)
        self._evaluate = tf.function(state.evaluate, jit_compile=True)
        self._end_epoch = tf.function(state.end_epoch, jit_compile=True)

    def epochs(
        self, x: Any, y: Any, orders: np.ndarray, x_validation: Any, y_validation: Any, weights: Any = None
    ) -> np.ndarray:
        """Train for up to len(orders) epochs; see `pipeline.decoders.trainer.Trainer`."""
        padded = np.zeros((self._epochs_at_once, orders.shape[1]), np.int32)  # a fixed shape is compiled once
        padded[: len(orders)] = orders
        count = tf.constant(len(orders))
        curves, done = self._epochs(x, y, tf.constant(padded), count, x_validation, y_validation, weights)
        return curves.numpy()[: int(done)]

    def block(self, x: Any, y: Any, order: np.ndarray) -> float:
        """Train once on a block of rows; see `pipeline.decoders.trainer.Trainer`."""
        return float(self._block(x, y, tf.constant(order)))

    def evaluate(self, x: Any, y: Any) -> np.ndarray:
        """Sum loss and cosine over rows; see `pipeline.decoders.trainer.Trainer`."""
        return self._evaluate(x, y).numpy()

    def end_epoch(self, row: np.ndarray) -> bool:
        """Finish an epoch of blocks; see `pipeline.decoders.trainer.Trainer`."""
        return bool(self._end_epoch(tf.constant(row, tf.float32)))

    def _trace_epochs(
        self,
        x: tf.Tensor,
        y: tf.Tensor,
        orders: tf.Tensor,
        count: tf.Tensor,
        x_validation: tf.Tensor,
        y_validation: tf.Tensor,
        weights: tf.Tensor | None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        curves = tf.zeros((orders.shape[0], 3))
        done, proceed = tf.constant(0), tf.constant(True)
        while tf.logical_and(done < count, proceed):
            loss = self._trace_pass(x, y, orders[done], weights) / orders.shape[1]
            scores = self.state.evaluate(x_validation, y_validation) / y_validation.shape[0]
            row = tf.stack([loss, scores[0], scores[1]])
            curves = tf.tensor_scatter_nd_update(curves, [[done]], [row])
            proceed = self.state.end_epoch(row)
            done += 1
        return curves, done

    def _trace_pass(self, x: tf.Tensor, y: tf.Tensor, order: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
        """Take a step for each batch of an order, the last one possibly shorter; return the summed loss."""
        size = self.state.batch_size
        full, rest = divmod(order.shape[0], size)
        total = tf.zeros(())
        if full:  # known when the function is traced; a loop that never runs would still be compiled
            for step in tf.range(full):
                rows = tf.reshape(tf.slice(order, [step * size], [size]), [size])
                total += self._trace_step(x, y, rows, weights)
        if rest:
            total += self._trace_step(x, y, order[full * size :], weights)
        return total

    def _trace_step(self, x: tf.Tensor, y: tf.Tensor, rows: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
        model, variables = self.state.model, self.state.model.trainable_variables
        batch, targets = tf.gather(x, rows), tf.gather(y, rows)
        sample_weight = None if weights is None else tf.gather(weights, rows)
        with tf.GradientTape() as tape:
            predicted = model(batch, training=True)
            loss = model.compute_loss(x=batch, y=targets, y_pred=predicted, sample_weight=sample_weight)
        self.state.optimizer.apply(tape.gradient(loss, variables), variables)
        return loss * rows.shape[0]


def as_tensor(array: np.ndarray) -> tf.Tensor:
    """An array as a tensor; on a CPU an aligned array and its tensor share their memory."""
    if not is_aligned(array) or tf.config.list_physical_devices("GPU"):
        return tf.convert_to_tensor(array)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


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
        stretch: See `pipeline.decoders.hidden_layer.Coordinates`.
        seed: Random seed of the initial weights and the order of the rows.
        advance: Called with the number of steps done since the last call.

    Returns:
        The network.
    """
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
    return tf.function(_trace_steps, jit_compile=True, reduce_retracing=True)


def _trace_steps(
    x: Any, y: Any, batches: Any, begin: Any, end: Any, steps: Any, decay: Any, state: tuple[list, list, list]
) -> tuple[list, list, list]:
    """Take steps `begin` to `end` of Keras's AdamW on the mean squared error; return weights and both averages."""

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
