"""What training shows and saves while it runs: progress, checkpoints to resume from, and curves for TensorBoard."""

import contextlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.archives import read_npz
from pipeline.core.atomic import atomic_write
from pipeline.core.errors import PipelineError, RequestError, first_line

WriteCurves = Callable[[str, np.ndarray, int], None]
CHECKPOINT_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class Callbacks:
    """Progress bar, checkpoint and TensorBoard curves of a training.

    Attributes:
        progress: Whether to show a progress bar on stderr.
        checkpoint: A file to save the state to every CHECKPOINT_EVERY seconds; if it exists, training resumes from it.
        tensorboard: A folder for TensorBoard's curves, as `keras.callbacks.TensorBoard` writes them.
        title: The title of the progress bar.
    """

    progress: bool = False
    checkpoint: Path | None = None
    tensorboard: Path | None = None
    title: str = "training"


class FinishedSteps:
    """The results of a training's finished steps, kept in a checkpoint so that a resumed training skips them.

    Args:
        file: The checkpoint; None for no file.
        training: Numbers that identify the training, shape (M,), int.

    Raises:
        PipelineError: The file is damaged, or belongs to another training.
    """

    def __init__(self, file: Path | None, training: np.ndarray) -> None:
        self._file, self._saved = file, time.monotonic()
        self._arrays = read_checkpoint(file) if file and file.exists() else {"training": training}
        if not np.array_equal(self._arrays.get("training", ()), training):
            raise PipelineError(f"{file} is the checkpoint of another training; retrain.")

    def result(self, step: str, compute: Callable[[], Sequence[np.ndarray]]) -> list[np.ndarray]:
        """The arrays that a step returns, from the checkpoint or computed now.

        Args:
            step: The name of the step.
            compute: Computes the arrays; called if the step is not finished.

        Raises:
            PipelineError: The checkpoint cannot be written.
        """
        names = [name for name in self._arrays if name.startswith(f"{step}/")]
        if not names:
            results = {f"{step}/{number}": array for number, array in enumerate(compute())}
            self._arrays |= results
            names = list(results)
            if self._file and checkpoint_due(self._saved):
                write_checkpoint(self._file, self._arrays)
                self._saved = time.monotonic()
        return [self._arrays[name] for name in names]


def checkpoint_due(saved: float) -> bool:
    """Whether the last checkpoint, saved at this `time.monotonic` time, is at least CHECKPOINT_EVERY old."""
    return time.monotonic() - saved > CHECKPOINT_EVERY


def write_checkpoint(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a checkpoint atomically: if the process is killed, the file is the previous or the new checkpoint.

    Raises:
        PipelineError: The file cannot be written.
    """
    with atomic_write(file) as unfinished, open(unfinished, "wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # NumPy's stub mistakes the array names for options
        stream.flush()
        os.fsync(stream.fileno())


def read_checkpoint(file: Path) -> dict[str, np.ndarray]:
    """Read a checkpoint that `write_checkpoint` wrote, and check the archive's CRCs.

    Raises:
        PipelineError: The file is damaged.
    """
    try:
        return read_npz(file)
    except Exception as error:  # NumPy and zipfile raise many types of errors for damaged files
        raise PipelineError(
            f"{file} is damaged ({first_line(error)}); delete it to train from the first epoch."
        ) from error


def require_tensorboard() -> None:
    """Check that the package tensorboard, which TensorFlow's summaries need, is installed.

    Raises:
        RequestError: The package is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise RequestError("TensorBoard curves need the package tensorboard: pip install tensorboard.")


@contextlib.contextmanager
def curve_writer(folder: Path | None) -> Iterator[WriteCurves]:
    """Write curves to FOLDER/NAME/train and FOLDER/NAME/validation, or nowhere.

    Files and names are those of `keras.callbacks.TensorBoard`.

    Args:
        folder: The log folder, created when it is missing; None writes nothing.

    Yields:
        A function of a decoder's name, the new rows of its curves (loss, validation loss, validation cosine; shape
        (epochs, 3)), and the number of epochs up to the last of them.

    Raises:
        RequestError: The package tensorboard is not installed.
    """
    if folder is None:
        yield lambda name, rows, epochs: None
        return
    require_tensorboard()
    import tensorflow as tf

    with contextlib.ExitStack() as opened:
        writers = {}

        def writer(name: str, part: str) -> Any:
            if (name, part) not in writers:
                writers[name, part] = tf.summary.create_file_writer(str(folder / name / part))
                opened.callback(writers[name, part].close)
            return writers[name, part]

        def write(name: str, rows: np.ndarray, epochs: int) -> None:
            for epoch, (loss, validation_loss, validation_cosine) in enumerate(rows, epochs - len(rows)):
                with writer(name, "train").as_default(epoch):
                    tf.summary.scalar("epoch_loss", loss)
                with writer(name, "validation").as_default(epoch):
                    tf.summary.scalar("epoch_loss", validation_loss)
                    tf.summary.scalar("epoch_cosine_similarity", validation_cosine)

        yield write
