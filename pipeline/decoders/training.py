"""Training: fit several decoders to the same features and targets, sharing each read of the features."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.progress import progress_bar
from pipeline.core.vectors import Vectors, in_blocks
from pipeline.decoders.callbacks import Callbacks, checkpoint_due, curve_writer, read_checkpoint, write_checkpoint
from pipeline.decoders.network import TrainingConfig, compile_decoders
from pipeline.decoders.options import MEMORY
from pipeline.decoders.streaming import Stream, epoch_order, in_memory
from pipeline.decoders.trainer import TrainingState, for_trainer, trainer_of

CURVES = ("loss", "validation_loss", "validation_cosine")
CALL_SECONDS = 0.5  # the time a block of epochs should take, short enough for progress to show and Ctrl-C to work
MOST_ORDERS = 1_000_000  # row numbers in the orders of a block of epochs
MOST_EPOCHS = 256


@dataclass(frozen=True)
class TrainingData:
    """Training data, and validation data to evaluate after each epoch.

    Attributes:
        x: Training features, shape (N, F), float32.
        y: Training targets, shape (N, D), float32.
        x_validation: Validation features, shape (M, F), float32.
        y_validation: Validation targets, shape (M, D), float32.
        memory: Bytes of features to keep in memory. Larger features on disk are streamed.
        weights: The weight of each training image in the loss, shape (N,), float32, with a mean of 1; None for equal
            weights. For features in memory only.
        bands: The number of features of each layer, in order; empty for a single layer.
    """

    x: Vectors
    y: np.ndarray
    x_validation: Vectors
    y_validation: np.ndarray
    memory: int = MEMORY
    weights: np.ndarray | None = None
    bands: Sequence[int] = ()

    def loaded(self) -> "TrainingData":
        """Load as many of the features into memory as the budget allows; `fit` does this itself."""
        validation_size = _size(self.x_validation)
        whole = isinstance(self.x, np.ndarray) or _size(self.x) + validation_size <= self.memory
        small = whole or validation_size <= self.memory // 4
        return dataclasses.replace(
            self,
            x=in_memory(self.x) if whole else self.x,
            x_validation=in_memory(self.x_validation) if small else self.x_validation,
        )


def _size(x: Vectors) -> int:
    """The size of features in memory, in bytes."""
    return math.prod(x.shape) * x.dtype.itemsize


@dataclass
class History:
    """How the training of one decoder went.

    Attributes:
        curves: A value for each epoch: "loss", "validation_loss" and "validation_cosine".
        kept_epoch: The epoch whose weights the decoder has, counted from 1.
        seconds: How long it trained.
    """

    curves: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in CURVES})
    kept_epoch: int = 0
    seconds: float = 0.0

    @property
    def epochs(self) -> int:
        """The number of epochs trained."""
        return len(self.curves["loss"])

    def finite_curves(self) -> dict[str, list[float | None]]:
        """The curves for JSON, with None for values that are not finite."""
        return {
            name: [value if math.isfinite(value) else None for value in curve] for name, curve in self.curves.items()
        }


class Diverged(PipelineError):
    """The loss became NaN or infinite; the decoders are left with their last finite or best weights.

    Attributes:
        histories: How each training went until then; a kept epoch of 0 means the initial weights.
    """

    def __init__(self, message: str, histories: dict[str, History]) -> None:
        super().__init__(message)
        self.histories = histories


def fit(
    models: Mapping[str, Any],
    data: TrainingData,
    config: TrainingConfig,
    seed: int = 0,
    callbacks: Callbacks | None = None,
) -> dict[str, History]:
    """Train decoders in place, each with its own optimizer, on the same batches in the same order.

    On TensorFlow, a block of epochs is one compiled call (`pipeline.decoders.xla`); other backends train
    through Keras's `fit`, with the same results within rounding. Validation data have no influence unless the config
    keeps the best epoch.

    Args:
        models: Name -> `keras.Model` from (N, F) to (N, D).
        data: Training and validation data.
        config: Optimizer, learning rate, loss, batch size, number of epochs and which weights to keep.
        seed: Random seed of the shuffling.
        callbacks: Progress bar, checkpoint and TensorBoard.

    Returns:
        Name -> how the training went.

    Raises:
        RequestError: Keras does not know the optimizer or loss, or several decoders share one optimizer.
        PipelineError: The checkpoint is damaged or cannot be written.
        Diverged: A loss became NaN or infinite.
    """
    callbacks = callbacks or Callbacks()
    compile_decoders(models, config, len(data.x))
    loop = TrainingLoop(models, data.loaded(), config, seed)
    if callbacks.checkpoint and callbacks.checkpoint.exists():
        loop.restore(callbacks.checkpoint)
    saved = time.monotonic()
    bar = progress_bar(config.epochs, "epoch", callbacks.title, callbacks.progress, loop.epoch)
    with bar, curve_writer(callbacks.tensorboard) as write_curves:
        for new in loop.run():
            for name, rows in new.items():
                write_curves(name, rows, loop.histories[name].epochs)
            bar.set_postfix_str(_last_values(new), refresh=False)
            bar.update(loop.epoch - bar.n)
            finite = all(np.isfinite(rows).all() for rows in new.values())
            if callbacks.checkpoint and finite and checkpoint_due(saved):
                loop.save(callbacks.checkpoint)
                saved = time.monotonic()
    return loop.close()


class TrainingLoop:
    """Trains several decoders side by side, a block of epochs at a time.

    Args:
        models: Name -> compiled `keras.Model`.
        data: Training and validation data, loaded.
        config: How to train.
        seed: Random seed of the shuffling.

    Attributes:
        histories: Name -> how the training has gone so far.
    """

    def __init__(self, models: Mapping[str, Any], data: TrainingData, config: TrainingConfig, seed: int) -> None:
        self._config, self._seed, self._rows = config, seed, len(data.x)
        self._most_epochs = max(1, min(MOST_EPOCHS, config.epochs, MOST_ORDERS // self._rows))
        self._epochs_per_call = 1
        self.histories = {name: History() for name in models}
        self._trainers = {
            name: trainer_of(TrainingState(model, config), self._most_epochs) for name, model in models.items()
        }
        # The state after the last block of epochs without a NaN, and its epoch, to return to if training diverges.
        self._finite = {name: (trainer.state.values(), 0) for name, trainer in self._trainers.items()}
        self._x_validation, self._y_validation = data.x_validation, data.y_validation
        self._stream: Stream | None = None
        if isinstance(data.x, np.ndarray):
            self._x, self._y = for_trainer(data.x), for_trainer(data.y)
            self._weights = None if data.weights is None else for_trainer(data.weights)
        else:
            # Two blocks of a quarter of the memory each; the other half is for the validation features and for reading.
            rows = data.memory // 4 // (data.x.shape[1] * 4) // config.batch_size * config.batch_size
            if not rows:
                raise RequestError(
                    f"A batch of {config.batch_size} does not fit into a quarter of the memory budget; lower the batch "
                    "size or raise the budget."
                )
            self._stream = Stream(data.x, data.y, rows)

    @property
    def epoch(self) -> int:
        """The number of epochs done by the decoder that has trained longest."""
        return max(history.epochs for history in self.histories.values())

    def _unfinished(self) -> list[str]:
        patience = self._config.patience or math.inf
        return [
            name
            for name, history in self.histories.items()
            if history.epochs < self._config.epochs
            and history.epochs - self._trainers[name].state.best_epoch < patience
        ]

    def run(self) -> Iterator[dict[str, np.ndarray]]:
        """Train to the end.

        Yields:
            The new rows of the curves, name -> (epochs, 3), after each block of epochs.

        Raises:
            Diverged: A loss became NaN or infinite.
        """
        while names := self._unfinished():
            new = self._stream_epoch(names) if self._stream else self._train_epochs(names)
            for name, rows in new.items():
                for curve, values in zip(CURVES, rows.T, strict=True):
                    self.histories[name].curves[curve] += values.tolist()
            yield new
            if diverged := [name for name in names if not np.isfinite(new[name]).all()]:
                raise self._diverged(diverged[0])

    def _train_epochs(self, names: list[str]) -> dict[str, np.ndarray]:
        epoch, count = self.epoch, min(self._epochs_per_call, self._config.epochs - self.epoch)
        orders = np.stack([epoch_order(self._rows, self._seed, epoch + number) for number in range(count)])
        validation = for_trainer(self._x_validation), for_trainer(self._y_validation)
        start, new = time.perf_counter(), {}
        for name in names:
            self._finite[name] = (self._trainers[name].state.values(), epoch)
            new[name] = self._timed(
                name, self._trainers[name].epochs, self._x, self._y, orders, *validation, self._weights
            )
        seconds = (time.perf_counter() - start) / count
        self._epochs_per_call = max(1, min(self._most_epochs, 2 * count, int(CALL_SECONDS / seconds)))
        return new

    def _stream_epoch(self, names: list[str]) -> dict[str, np.ndarray]:
        assert self._stream
        losses = dict.fromkeys(names, 0.0)
        for name in names:
            self._finite[name] = (self._trainers[name].state.values(), self.epoch)
        for x, y, rows in self._stream.epoch(self._seed, self.epoch):
            block = for_trainer(x), for_trainer(y)
            for name in names:
                losses[name] += self._timed(name, self._trainers[name].block, *block, rows)
        scores = {name: np.zeros(2) for name in names}
        done = 0
        for x in in_blocks(self._x_validation):
            y = self._y_validation[done : (done := done + len(x))]
            for name in names:
                scores[name] += self._timed(name, self._trainers[name].evaluate, for_trainer(x), for_trainer(y))
        new = {name: np.array([losses[name] / self._rows, *scores[name] / done]) for name in names}
        for name, row in new.items():
            self._trainers[name].end_epoch(row)
        return {name: row[None] for name, row in new.items()}

    def _timed(self, name: str, task: Callable, *arguments: Any) -> Any:
        start = time.perf_counter()
        result = task(*arguments)
        self.histories[name].seconds += time.perf_counter() - start
        return result

    def close(self) -> dict[str, History]:
        """Set the decoders to the weights that the config keeps, and return the histories."""
        for name, history in self.histories.items():
            history.kept_epoch = history.epochs
            if self._config.keep == "best":
                state = self._trainers[name].state
                state.restore_best()
                history.kept_epoch = state.best_epoch
        return self.histories

    def _diverged(self, name: str) -> Diverged:
        """Go back to finite weights; return the error to raise."""
        for decoder, history in self.histories.items():
            state = self._trainers[decoder].state
            values, history.kept_epoch = self._finite[decoder]
            state.assign(values)
            if self._config.keep == "best":
                state.restore_best()
                history.kept_epoch = state.best_epoch
        curves = self.histories[name].curves
        rows = zip(*curves.values(), strict=True)
        epoch = next(epoch for epoch, row in enumerate(rows, 1) if not np.isfinite(row).all())
        losses = ", ".join(f"{curve.replace('_', ' ')} {curves[curve][epoch - 1]:.4g}" for curve in CURVES[:2])
        return Diverged(
            f"The loss of the {name} decoder is not finite after epoch {epoch} of {self._config.epochs} ({losses}), so "
            "training was stopped. Try a lower learning rate, or targets of a smaller scale.",
            self.histories,
        )

    def save(self, file: Path) -> None:
        """Write a checkpoint atomically: if the process is killed, the file is the previous or the new checkpoint."""
        arrays: dict[str, np.ndarray] = {}
        for name, history in self.histories.items():
            values = self._trainers[name].state.values()
            arrays |= {f"{name}/state/{number}": value for number, value in enumerate(values)}
            arrays[f"{name}/curves"] = np.array([history.curves[curve] for curve in CURVES])
            arrays[f"{name}/seconds"] = np.array(history.seconds)
        write_checkpoint(file, arrays)

    def restore(self, file: Path) -> None:
        """Resume from a checkpoint.

        Raises:
            PipelineError: The file is damaged, or belongs to another training.
        """
        arrays = read_checkpoint(file)
        try:
            for name, history in self.histories.items():
                state = self._trainers[name].state
                state.assign([arrays[f"{name}/state/{number}"] for number in range(len(state.values()))])
                history.curves = dict(zip(CURVES, arrays[f"{name}/curves"].tolist(), strict=True))
                history.seconds = float(arrays[f"{name}/seconds"])
        except (KeyError, ValueError) as error:
            raise PipelineError(f"{file} is the checkpoint of another training ({error}); retrain.") from error


def _last_values(new: dict[str, np.ndarray]) -> str:
    loss, _, cosine = next(iter(new.values()))[-1]
    return f"loss {loss:.4g}, validation cosine {cosine:.4f}"
