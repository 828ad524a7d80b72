"""A decoder in training: its optimizer, its best epoch, and how it is judged after each epoch.

Written with Keras operations, so that the same lines run inside a compiled TensorFlow function and outside of one.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.backend import import_keras
from pipeline.decoders import Recipe


class TrainingState:
    """All of a decoder's training that changes from step to step.

    Args:
        model: The decoder, compiled with its loss and an optimizer of its own.
        recipe: Batch size and early stopping.

    Attributes:
        model: The decoder.
        optimizer: Its optimizer.
        batch_size: Images a step.
    """

    def __init__(self, model, recipe: Recipe) -> None:
        keras = import_keras()
        self.model, self.optimizer, self.batch_size = model, model.optimizer, recipe.batch_size
        self._patience, self._ops = recipe.patience, keras.ops
        self.optimizer.build(model.trainable_variables)
        self._best_loss = keras.Variable(np.inf, trainable=False, dtype="float32")
        self._best_epoch = keras.Variable(0, trainable=False, dtype="int32")
        self._epoch = keras.Variable(0, trainable=False, dtype="int32")

    def judge(self, x, y):
        """Sums of loss and cosine over the rows of x (N, F) and y (N, D); a tensor of shape (2,), float32."""
        ops = self._ops
        predicted = self.model(x, training=False)
        loss = self.model.compute_loss(x=x, y=y, y_pred=predicted, training=False)
        lengths = ops.sqrt(ops.sum(predicted**2, axis=1) * ops.sum(y**2, axis=1))
        dots = ops.sum(predicted * y, axis=1)
        cosines = ops.where(lengths > 0, dots / ops.where(lengths > 0, lengths, 1.0), 0.0)
        return ops.stack([loss * y.shape[0], ops.sum(cosines)])

    def end_epoch(self, row):
        """Count an epoch, and note it if it is the best so far.

        Args:
            row: Training loss, validation loss and validation cosine, shape (3,).

        Returns:
            Whether to go on: all are finite, and the last best epoch is not too long ago.
        """
        ops = self._ops
        self._epoch.assign(self._epoch.value + 1)
        if row[1] < self._best_loss.value:
            self._best_loss.assign(row[1])
            self._best_epoch.assign(self._epoch.value)
        going = ops.all(ops.isfinite(row))
        if self._patience is not None:
            going = ops.logical_and(going, self._epoch.value - self._best_epoch.value < self._patience)
        return going

    @property
    def best_epoch(self) -> int:
        """The epoch with the least validation loss so far, counted from 1; 0 before there is one."""
        return int(self._best_epoch.value)

    def values(self) -> list[np.ndarray]:
        """A copy of all that training changes."""
        return [np.array(self._ops.convert_to_numpy(variable.value)) for variable in self._variables()]

    def assign(self, values: Sequence[np.ndarray]) -> None:
        """Take over what `values` gave."""
        for variable, value in zip(self._variables(), values, strict=True):
            variable.assign(value)

    def _variables(self) -> list:
        marks = [self._best_loss, self._best_epoch, self._epoch]
        return [*self.model.variables, *self.optimizer.variables, *marks]
