"""Checkpoints: the state of a training on disk, to resume from."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.core.archives import read_npz
from pipeline.core.atomic import atomic_write
from pipeline.core.errors import PipelineError, first_line

CHECKPOINT_EVERY = 10.0  # seconds


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
        """The resulting arrays of a step, from the checkpoint or computed now.

        Args:
            step: The name of the step.
            compute: Called for the result if the step is not finished.

        Raises:
            PipelineError: The checkpoint cannot be written.
        """
        names = [name for name in self._arrays if name.startswith(f"{step}/")]
        if not names:
            results = {f"{step}/{number}": array for number, array in enumerate(compute())}
            self._arrays |= results
            names = list(results)
            if self._file and time.monotonic() - self._saved > CHECKPOINT_EVERY:
                write_checkpoint(self._file, self._arrays)
                self._saved = time.monotonic()
        return [self._arrays[name] for name in names]


def write_checkpoint(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a checkpoint atomically: a kill at any moment leaves the previous or the new one.

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
