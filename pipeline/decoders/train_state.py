"""A decoder in training: its optimizer, its best weights, and its evaluation after each epoch.

Written with Keras operations, so that the same code runs inside and outside a compiled TensorFlow function.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.core.keras_backend import import_keras
from pipeline.decoders.config import TrainingConfig


class TrainingState:
    """Everything that changes while a decoder is trained.

    Args:
        model: The decoder, compiled with a loss and its own optimizer.
        config: Batch size, early stopping and which weights to keep.

    Attributes:
        model: The decoder.
        optimizer: Its optimizer.
        batch_size: Images in a step.
    """

    def __init__(self, model: Any, config: TrainingConfig) -> None:
        keras = import_keras()
        self.model, self.optimizer, self.batch_size = model, model.optimizer, config.batch_size
        self._patience, self._ops = config.patience, keras.ops
        self.optimizer.build(model.trainable_variables)
        self._best_cosine = keras.Variable(-np.inf, trainable=False, dtype="float32")
        self._best_epoch = keras.Variable(0, trainable=False, dtype="int32")
        self._epoch = keras.Variable(0, trainable=False, dtype="int32")
        kept = model.trainable_variables if config.keep == "best" else []
        # Copies, because a Keras variable made from a tf.Variable is that same variable.
        best = [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in kept]
        self._best_weights = [keras.Variable(weights, trainable=False) for weights in best]

    def evaluate(self, x: Any, y: Any) -> Any:
        """Sum loss and cosine over the rows of x (N, F) and y (N, D); a tensor of shape (2,), float32."""
        ops = self._ops
        predicted = self.model(x, training=False)
        loss = self.model.compute_loss(x=x, y=y, y_pred=predicted, training=False)
        lengths = ops.sqrt(ops.sum(predicted**2, axis=1) * ops.sum(y**2, axis=1))
        dots = ops.sum(predicted * y, axis=1)
        cosines = ops.where(lengths > 0, dots / ops.where(lengths > 0, lengths, 1.0), 0.0)
        return ops.stack([loss * y.shape[0], ops.sum(cosines)])

    def end_epoch(self, row: Any) -> Any:
        """Count an epoch, and keep its weights if it is the best so far.

        Args:
            row: Training loss, validation loss and validation cosine, shape (3,).

        Returns:
            Whether to continue: all three are finite, and the best epoch is recent enough.
        """
        ops = self._ops
        self._epoch.assign(self._epoch.value + 1)
        if row[2] > self._best_cosine.value:
            self._best_cosine.assign(row[2])
            self._best_epoch.assign(self._epoch.value)
            for best, variable in zip(self._best_weights, self.model.trainable_variables, strict=False):
                best.assign(variable.value)
        proceed = ops.all(ops.isfinite(row))
        if self._patience is not None:
            proceed = ops.logical_and(proceed, self._epoch.value - self._best_epoch.value < self._patience)
        return proceed

    @property
    def best_epoch(self) -> int:
        """The epoch with the highest validation cosine so far, counted from 1; 0 before the first epoch."""
        return int(self._best_epoch.value)

    def restore_best(self) -> None:
        """Set the decoder to the weights of its best epoch; needs `keep="best"`."""
        for best, variable in zip(self._best_weights, self.model.trainable_variables, strict=True):
            variable.assign(best.value)

    def values(self) -> list[np.ndarray]:
        """A copy of everything that training changes."""
        return [np.array(self._ops.convert_to_numpy(variable.value)) for variable in self._variables()]

    def assign(self, values: Sequence[np.ndarray]) -> None:
        """Restore values that `values` returned."""
        for variable, value in zip(self._variables(), values, strict=True):
            variable.assign(value)

    def _variables(self) -> list:
        counters = [self._best_cosine, self._best_epoch, self._epoch]
        return [*self.model.variables, *self.optimizer.variables, *counters, *self._best_weights]
