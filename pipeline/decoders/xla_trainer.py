"""Compiled training: whole blocks of epochs inside one XLA function around a Keras model, its loss and its optimizer.

Keras `fit` returns to Python after each step, and a decoder's step is so short that nearly all of the time is spent
there. Here the loops over epochs and batches, the validation after each epoch, the best weights and early stopping are
part of the compiled function (https://openxla.org/xla), and Python only sees blocks of epochs.

Needs Keras's TensorFlow backend; `pipeline.decoders.keras_trainer` does the same for other backends.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.decoders.streaming import is_aligned
from pipeline.decoders.train_state import TrainingState


class XlaTrainer:
    """Trains one decoder. See `pipeline.decoders.training.Trainer`.

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
        """Train for up to len(orders) epochs; see `pipeline.decoders.training.Trainer`."""
        padded = np.zeros((self._epochs_at_once, orders.shape[1]), np.int32)  # a fixed shape is compiled once
        padded[: len(orders)] = orders
        count = tf.constant(len(orders))
        curves, done = self._epochs(x, y, tf.constant(padded), count, x_validation, y_validation, weights)
        return curves.numpy()[: int(done)]

    def block(self, x: Any, y: Any, order: np.ndarray) -> float:
        """Train once on a block of rows; see `pipeline.decoders.training.Trainer`."""
        return float(self._block(x, y, tf.constant(order)))

    def evaluate(self, x: Any, y: Any) -> np.ndarray:
        """Sum loss and cosine over rows; see `pipeline.decoders.training.Trainer`."""
        return self._evaluate(x, y).numpy()

    def end_epoch(self, row: np.ndarray) -> bool:
        """Finish an epoch of blocks; see `pipeline.decoders.training.Trainer`."""
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
