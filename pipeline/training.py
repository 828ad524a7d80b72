"""Training: fit decoders to pairs of features and targets, all of them from one read of the features."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from pipeline.backend import import_keras
from pipeline.decoders import Recipe
from pipeline.errors import PipelineError, RequestError
from pipeline.feed import Stream, Vectors, in_blocks, in_memory, order
from pipeline.runs import read_checkpoint, write_checkpoint
from pipeline.state import TrainingState
from pipeline.tensorboard import curve_writer

CURVES = ("loss", "validation_loss", "validation_cosine")
MEMORY = 4 * 2**30
CHECKPOINT_EVERY = 10.0  # seconds
CALL_SECONDS = 0.5  # what a block of epochs should take, so that progress is seen and Ctrl-C is heard
MOST_ORDERS = 1_000_000  # row numbers that a block of epochs brings along
MOST_EPOCHS = 256


@dataclass(frozen=True)
class Data:
    """What decoders learn from, and what they are judged on.

    Attributes:
        x: Training features, shape (N, F), float32: an array, or rows of a feature store.
        y: Training targets, shape (N, D), float32.
        x_validation: Held-out features, shape (M, F), float32.
        y_validation: Held-out targets, shape (M, D), float32.
        memory: Bytes of features to hold at a time. Where they are on disk and more than this, they are streamed.
    """

    x: Vectors
    y: np.ndarray
    x_validation: Vectors
    y_validation: np.ndarray
    memory: int = MEMORY

    def loaded(self) -> "Data":
        """The same with those features in memory that the budget allows; training does this by itself."""
        whole = isinstance(self.x, np.ndarray) or self.x.nbytes + self.x_validation.nbytes <= self.memory
        small = whole or self.x_validation.nbytes <= self.memory // 4
        return dataclasses.replace(
            self,
            x=in_memory(self.x) if whole else self.x,
            x_validation=in_memory(self.x_validation) if small else self.x_validation,
        )


@dataclass(frozen=True)
class Watch:
    """How a training is watched over.

    Attributes:
        progress: Whether to show a progress bar on stderr.
        checkpoint: A file to save the state to every CHECKPOINT_EVERY seconds; one that exists is gone on from.
        tensorboard: A folder for TensorBoard's curves, as `keras.callbacks.TensorBoard` writes them.
    """

    progress: bool = False
    checkpoint: Path | None = None
    tensorboard: Path | None = None


@dataclass
class Fitted:
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
        """How many epochs were trained."""
        return len(self.curves["loss"])


class Diverged(PipelineError):
    """The loss became NaN or infinite; the decoders have their best weights.

    Attributes:
        fitted: How each training went until then; a kept epoch of 0 is the initial weights.
    """

    def __init__(self, message: str, fitted: dict[str, Fitted]) -> None:
        super().__init__(message)
        self.fitted = fitted


class Trainer(Protocol):
    """What runs the steps. Rows are Keras tensors or arrays: x (N, F), y (N, D), float32; orders are int32."""

    state: TrainingState

    def epochs(self, x, y, orders: np.ndarray, x_validation, y_validation) -> np.ndarray:
        """Train an epoch for each order (E, N) of the rows, or fewer where `end_epoch` says so; curves (done, 3)."""

    def block(self, x, y, order: np.ndarray) -> float:
        """Take the steps of one pass over some rows in this order, shape (N,); the losses summed over the rows."""

    def judge(self, x, y) -> np.ndarray:
        """Loss and cosine of some rows, each summed over them, shape (2,)."""

    def end_epoch(self, row: np.ndarray) -> bool:
        """Close an epoch of blocks whose means are `row` (3,); see `TrainingState.end_epoch`."""


def fit(
    models: Mapping[str, object], data: Data, recipe: Recipe, seed: int = 0, watch: Watch | None = None
) -> dict[str, Fitted]:
    """Train decoders in place, each with an optimizer of its own, on the same batches in the same order.

    On TensorFlow whole blocks of epochs are one compiled call (`pipeline.compiled`); other backends train through
    Keras's `fit`, to the same results within rounding. Held-out data choose nothing, unless the recipe keeps the best
    epoch.

    Args:
        models: Name -> `keras.Model` from (N, F) to (N, D).
        data: Training and held-out data.
        recipe: Optimizer, learning rate, loss, batch size, number of epochs and what to keep.
        seed: Seeds the shuffling.
        watch: Progress bar, checkpoint and TensorBoard.

    Returns:
        Name -> how the training went.

    Raises:
        RequestError: Keras knows no such optimizer or loss, or one optimizer was given to several decoders.
        PipelineError: The checkpoint is damaged or cannot be written.
        Diverged: A loss became NaN or infinite.
    """
    watch = watch or Watch()
    _compile(models, recipe, len(data.x))
    course = _Course(models, data.loaded(), recipe, seed)
    if watch.checkpoint and watch.checkpoint.exists():
        course.restore(watch.checkpoint)
    saved = time.monotonic()
    bar = tqdm(total=recipe.epochs, initial=course.epoch, unit="epoch", desc="training",
               disable=None if watch.progress else True)  # fmt: skip
    with bar, curve_writer(watch.tensorboard) as write_curves:
        for new in course.run():
            for name, rows in new.items():
                write_curves(name, rows, course.fitted[name].epochs)
            bar.set_postfix_str(_last_values(new), refresh=False)
            bar.update(course.epoch - bar.n)
            sound = all(np.isfinite(rows).all() for rows in new.values())
            if watch.checkpoint and sound and time.monotonic() - saved > CHECKPOINT_EVERY:
                course.save(watch.checkpoint)
                saved = time.monotonic()
    return course.close()


def _compile(models: Mapping[str, object], recipe: Recipe, rows: int) -> None:
    """Give each decoder its loss and an optimizer of its own."""
    keras = import_keras()
    if not isinstance(recipe.optimizer, str):
        _refuse_shared(recipe.optimizer, len(models))
    for model in models.values():
        rate = recipe.learning_rate
        if recipe.schedule == "cosine":
            steps = recipe.epochs * math.ceil(rows / recipe.batch_size)
            rate = keras.optimizers.schedules.CosineDecay(rate, steps)
        try:
            optimizer = recipe.optimizer
            if isinstance(optimizer, str):
                optimizer = keras.optimizers.get({"class_name": optimizer, "config": {"learning_rate": rate}})
            loss = keras.losses.get("cosine_similarity" if recipe.loss == "cosine" else recipe.loss)
            model.compile(optimizer=optimizer, loss=loss)
            probe = keras.ops.ones((1, model.output_shape[-1]))
            model.compute_loss(y=probe, y_pred=probe)
        except Exception as error:  # Keras and its backends raise whatever an unfit loss makes them stumble on
            raise RequestError(
                f"The decoder cannot be trained so: {(str(error).strip() or repr(error)).splitlines()[0]}"
            ) from error


def _refuse_shared(optimizer, decoders: int) -> None:
    steps = int(optimizer.iterations)
    if decoders > 1 or optimizer.built:
        so_far = f", which stands at {steps} now" if steps else ""
        raise RequestError(
            f"One {type(optimizer).__name__} cannot train several decoders. It has a step counter{so_far}, and Adam "
            "enlarges its averages by what that count says is still missing from them; the second decoder would begin "
            "without this correction, with first steps about three times too large, which saturates sigmoid layers "
            "(`python -m pipeline compare` shows it). Give each decoder an optimizer of its own: a name such as "
            "'adam', or a new object for each call of fit."
        )


@dataclass
class _Best:
    """The way back to a decoder's best weights. Weights are copied once for each block of epochs, before it, not after
    each better epoch: copies would take a quarter of the time of short epochs, and the same steps lead to the same bits
    again (on a GPU, within rounding).

    Attributes:
        values: Its training state after epoch `kept_at`.
        kept_at: See `values`.
        epoch: The best epoch, at or after it.
    """

    values: list[np.ndarray]
    kept_at: int
    epoch: int


class _Course:
    """The training of several decoders, side by side, from epoch to epoch."""

    def __init__(self, models: Mapping[str, object], data: Data, recipe: Recipe, seed: int) -> None:
        self._recipe, self._seed, self._rows = recipe, seed, len(data.x)
        self._epochs_at_once = max(1, min(MOST_EPOCHS, recipe.epochs, MOST_ORDERS // self._rows))
        self._pace = 1
        self.fitted = {name: Fitted() for name in models}
        self._trainers = {
            name: _trainer(TrainingState(model, recipe), self._epochs_at_once) for name, model in models.items()
        }
        self._best = {name: _Best(trainer.state.values(), 0, 0) for name, trainer in self._trainers.items()}
        self._x_validation, self._y_validation = data.x_validation, data.y_validation
        if isinstance(data.x, np.ndarray):
            self._stream = None
            self._x, self._y = _placed(data.x), _placed(data.y)
        else:
            # Two blocks of a quarter each; the other half is for the held-out features and for what reading needs.
            rows = data.memory // 4 // (data.x.shape[1] * 4) // recipe.batch_size * recipe.batch_size
            if not rows:
                raise RequestError(
                    f"--minibatch {recipe.batch_size} does not fit a quarter of --memory; lower or raise it."
                )
            self._stream = Stream(data.x, data.y, rows)

    @property
    def epoch(self) -> int:
        """Epochs that lie behind the decoder that came farthest."""
        return max(fitted.epochs for fitted in self.fitted.values())

    def _going(self) -> list[str]:
        patience = self._recipe.patience or math.inf
        return [
            name
            for name, fitted in self.fitted.items()
            if fitted.epochs < self._recipe.epochs and fitted.epochs - self._trainers[name].state.best_epoch < patience
        ]

    def run(self) -> Iterator[dict[str, np.ndarray]]:
        """Train to the end; yields the curves' new rows, name -> (epochs, 3), whenever there are some.

        Raises:
            Diverged: A loss became NaN or infinite.
        """
        while going := self._going():
            new = self._stream_epoch(going) if self._stream else self._train_epochs(going)
            for name, rows in new.items():
                for curve, values in zip(CURVES, rows.T, strict=True):
                    self.fitted[name].curves[curve] += values.tolist()
            yield new
            bad = [name for name in going if not np.isfinite(new[name]).all()]
            if bad:
                raise self._diverged(bad[0])

    def _train_epochs(self, going: list[str]) -> dict[str, np.ndarray]:
        epoch, count = self.epoch, min(self._pace, self._recipe.epochs - self.epoch)
        start, new = time.perf_counter(), {}
        for name in going:
            state = self._trainers[name].state
            before = state.values()
            new[name] = self._run_epochs(name, epoch, count)
            if state.best_epoch > epoch:
                self._best[name] = _Best(before, epoch, state.best_epoch)
        seconds = (time.perf_counter() - start) / count
        self._pace = max(1, min(self._epochs_at_once, 2 * count, int(CALL_SECONDS / seconds)))
        return new

    def _run_epochs(self, name: str, epoch: int, count: int) -> np.ndarray:
        orders = np.stack([order(self._rows, self._seed, epoch + number) for number in range(count)])
        validation = _placed(self._x_validation), _placed(self._y_validation)
        return self._timed(name, self._trainers[name].epochs, self._x, self._y, orders, *validation)

    def _stream_epoch(self, going: list[str]) -> dict[str, np.ndarray]:
        losses = dict.fromkeys(going, 0.0)
        for x, y, rows in self._stream.epoch(self._seed, self.epoch):
            x, y = _placed(x), _placed(y)
            for name in going:
                losses[name] += self._timed(name, self._trainers[name].block, x, y, rows)
        judged = {name: np.zeros(2) for name in going}
        done = 0
        for x in in_blocks(self._x_validation):
            y = self._y_validation[done : (done := done + len(x))]
            for name in going:
                judged[name] += self._timed(name, self._trainers[name].judge, _placed(x), _placed(y))
        new = {name: np.array([losses[name] / self._rows, *judged[name] / done]) for name in going}
        for name, row in new.items():
            state = self._trainers[name].state
            self._trainers[name].end_epoch(row)
            if state.best_epoch > self.epoch:
                self._best[name] = _Best(state.values(), state.best_epoch, state.best_epoch)
        return {name: row[None] for name, row in new.items()}

    def _timed(self, name: str, task: Callable, *arguments):
        start = time.perf_counter()
        result = task(*arguments)
        self.fitted[name].seconds += time.perf_counter() - start
        return result

    def close(self) -> dict[str, Fitted]:
        """Give the decoders the weights that the recipe keeps."""
        for name, fitted in self.fitted.items():
            fitted.kept_epoch = fitted.epochs
            if self._recipe.keep == "best":
                self._restore_best(name)
        return self.fitted

    def _restore_best(self, name: str) -> None:
        """Give a decoder its best weights: from what was kept before them, by the same epochs once more."""
        best = self._best[name]
        self._trainers[name].state.assign(best.values)
        if best.epoch > best.kept_at:
            self._run_epochs(name, best.kept_at, best.epoch - best.kept_at)
        self.fitted[name].kept_epoch = best.epoch

    def _diverged(self, name: str) -> Diverged:
        for each in self.fitted:
            self._restore_best(each)
        curves = self.fitted[name].curves
        epoch = next(epoch for epoch, row in enumerate(zip(*curves.values(), strict=True), 1)
                     if not np.isfinite(row).all())  # fmt: skip
        values = ", ".join(f"{curve.replace('_', ' ')} {curves[curve][epoch - 1]:.4g}" for curve in CURVES[:2])
        return Diverged(
            f"The loss of the {name} decoder is no longer finite after epoch {epoch} of {self._recipe.epochs} "
            f"({values}), so training was stopped. Try a lower --learning-rate, or targets of a smaller scale.",
            self.fitted,
        )

    def save(self, file: Path) -> None:
        """Write a checkpoint; a kill at any moment leaves the one before or the new one."""
        arrays = {}
        for name, fitted in self.fitted.items():
            arrays |= {
                f"{name}/now/{number}": value for number, value in enumerate(self._trainers[name].state.values())
            }
            best = self._best[name]
            arrays |= {f"{name}/best/{number}": value for number, value in enumerate(best.values)}
            arrays[f"{name}/best_epochs"] = np.array([best.kept_at, best.epoch])
            arrays[f"{name}/curves"] = np.array([fitted.curves[curve] for curve in CURVES])
            arrays[f"{name}/seconds"] = np.array(fitted.seconds)
        write_checkpoint(file, arrays)

    def restore(self, file: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            PipelineError: The file is damaged, or is of another training.
        """
        arrays = read_checkpoint(file)
        try:
            for name, fitted in self.fitted.items():
                state = self._trainers[name].state
                count = len(state.values())
                state.assign([arrays[f"{name}/now/{number}"] for number in range(count)])
                best = [arrays[f"{name}/best/{number}"] for number in range(count)]
                self._best[name] = _Best(best, *arrays[f"{name}/best_epochs"].tolist())
                fitted.curves = dict(zip(CURVES, arrays[f"{name}/curves"].tolist(), strict=True))
                fitted.seconds = float(arrays[f"{name}/seconds"])
        except (KeyError, ValueError) as error:
            raise PipelineError(f"{file} is the checkpoint of another training ({error}); train anew.") from error


def _trainer(state: TrainingState, epochs_at_once: int) -> Trainer:
    if import_keras().backend.backend() == "tensorflow":
        from pipeline.compiled import CompiledTrainer

        return CompiledTrainer(state, epochs_at_once)
    from pipeline.keras_fit import FitTrainer

    return FitTrainer(state)


def _placed(array: np.ndarray):
    """An array where the trainer wants it."""
    if import_keras().backend.backend() == "tensorflow":
        from pipeline.compiled import on_device

        return on_device(array)
    return array


def _last_values(new: dict[str, np.ndarray]) -> str:
    loss, _, cosine = next(iter(new.values()))[-1]
    return f"loss {loss:.4g}, validation cosine {cosine:.4f}"


def predict(model, x: Vectors) -> np.ndarray:
    """A decoder's predictions.

    Args:
        model: The decoder.
        x: Features, shape (N, F), float32.

    Returns:
        Predicted embeddings, shape (N, D), float32.
    """
    convert = import_keras().ops.convert_to_numpy
    # Called, not `predict`: that compiles a function for each model and shape, which costs more than it saves here.
    return np.concatenate([convert(model(block, training=False)) for block in in_blocks(x)])
