"""Training through Keras's own `fit` for backends other than TensorFlow: slower, with the same results."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.core.keras_backend import import_keras
from pipeline.decoders.train_state import TrainingState


class KerasTrainer:
    """Trains one decoder. See `pipeline.decoders.training.Trainer`.

    Args:
        state: The decoder.
    """

    def __init__(self, state: TrainingState) -> None:
        self.state = state

    def epochs(
        self, x: Any, y: Any, orders: np.ndarray, x_validation: Any, y_validation: Any, weights: Any = None
    ) -> np.ndarray:
        """Train for up to len(orders) epochs; see `pipeline.decoders.training.Trainer`."""
        rows = []
        for order in orders:
            loss = self.block(x, y, order, weights) / len(order)
            rows.append([loss, *self.evaluate(x_validation, y_validation) / len(y_validation)])
            if not self.end_epoch(np.array(rows[-1])):
                break
        return np.array(rows)

    def block(self, x: Any, y: Any, order: np.ndarray, weights: Any = None) -> float:
        """Train once on a block of rows; see `pipeline.decoders.training.Trainer`."""
        batches = _batches((x, y) if weights is None else (x, y, weights), order, self.state.batch_size)
        return self.state.model.fit(batches, shuffle=False, verbose=0).history["loss"][0] * len(order)

    def evaluate(self, x: Any, y: Any) -> np.ndarray:
        """Sum loss and cosine over rows; see `pipeline.decoders.training.Trainer`."""
        ops = import_keras().ops
        return ops.convert_to_numpy(self.state.evaluate(x, ops.convert_to_tensor(y)))

    def end_epoch(self, row: np.ndarray) -> bool:
        """Finish an epoch of blocks; see `pipeline.decoders.training.Trainer`."""
        return bool(self.state.end_epoch(row))


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
