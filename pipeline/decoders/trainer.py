"""The training steps of one decoder and the state they change: weights, optimizer, best weights, counters.

On TensorFlow, `pipeline.decoders.xla` compiles whole blocks of epochs. Other backends train through Keras's own `fit`,
which is slower and gives the same results within rounding.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from pipeline.core.keras_backend import import_keras
from pipeline.decoders.network import TrainingConfig


class TrainingState:
    """Everything that changes while a decoder is trained.

    Written with Keras operations, so that the same code runs inside and outside a compiled TensorFlow function.

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


class Trainer(Protocol):
    """Runs the training steps. Rows are Keras tensors or arrays: x (N, F), y (N, D), float32; orders are int32."""

    state: TrainingState

    def epochs(
        self, x: Any, y: Any, orders: np.ndarray, x_validation: Any, y_validation: Any, weights: Any = None
    ) -> np.ndarray:
        """Train one epoch per order of the rows (E, N), fewer if `end_epoch` stops early; return curves (done, 3)."""

    def block(self, x: Any, y: Any, order: np.ndarray) -> float:
        """Train one pass over a block in this order, shape (N,); return the loss summed over the rows."""

    def evaluate(self, x: Any, y: Any) -> np.ndarray:
        """Sum loss and cosine over the rows, shape (2,)."""

    def end_epoch(self, row: np.ndarray) -> bool:
        """Finish an epoch of blocks, with its means in `row` (3,); see `TrainingState.end_epoch`."""


class KerasTrainer:
    """Trains one decoder with Keras's `fit`. See `Trainer`.

    Args:
        state: The decoder.
    """

    def __init__(self, state: TrainingState) -> None:
        self.state = state

    def epochs(
        self, x: Any, y: Any, orders: np.ndarray, x_validation: Any, y_validation: Any, weights: Any = None
    ) -> np.ndarray:
        """Train for up to len(orders) epochs; see `Trainer`."""
        rows = []
        for order in orders:
            loss = self.block(x, y, order, weights) / len(order)
            rows.append([loss, *self.evaluate(x_validation, y_validation) / len(y_validation)])
            if not self.end_epoch(np.array(rows[-1])):
                break
        return np.array(rows)

    def block(self, x: Any, y: Any, order: np.ndarray, weights: Any = None) -> float:
        """Train once on a block of rows; see `Trainer`."""
        batches = _batches((x, y) if weights is None else (x, y, weights), order, self.state.batch_size)
        return self.state.model.fit(batches, shuffle=False, verbose=0).history["loss"][0] * len(order)

    def evaluate(self, x: Any, y: Any) -> np.ndarray:
        """Sum loss and cosine over rows; see `Trainer`."""
        ops = import_keras().ops
        return ops.convert_to_numpy(self.state.evaluate(x, ops.convert_to_tensor(y)))

    def end_epoch(self, row: np.ndarray) -> bool:
        """Finish an epoch of blocks; see `Trainer`."""
        return bool(self.state.end_epoch(row))


def trainer_of(state: TrainingState, most_epochs: int) -> Trainer:
    """The trainer for Keras's backend; one call of its `epochs` trains up to `most_epochs`."""
    if import_keras().backend.backend() == "tensorflow":
        from pipeline.decoders.xla import XlaTrainer

        return XlaTrainer(state, most_epochs)
    return KerasTrainer(state)


def for_trainer(array: Any) -> Any:
    """An array in the form that the trainer takes."""
    if import_keras().backend.backend() == "tensorflow":
        from pipeline.decoders.xla import as_tensor

        return as_tensor(array)
    return array


def _batches(arrays: Sequence[np.ndarray], order: np.ndarray, size: int) -> Any:
    """A `keras.utils.PyDataset` of batches of arrays (features, targets and optional weights) in the given order."""

    dataset: Any = import_keras().utils.PyDataset

    class Batches(dataset):
        def __len__(self) -> int:
            return -(-len(order) // size)

        def __getitem__(self, number: int) -> tuple[np.ndarray, ...]:
            rows = order[number * size : (number + 1) * size]
            return tuple(array[rows] for array in arrays)

    return Batches()
