"""Checkpoints: the state of a training on disk, to resume from."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.core.archives import read_npz
from pipeline.core.atomic import atomic_write
from pipeline.core.errors import PipelineError, first_line


def write_checkpoint(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a checkpoint; a kill at any moment leaves the previous or the new one.

    Raises:
        PipelineError: It cannot be written.
    """
    with atomic_write(file) as unfinished, open(unfinished, "wb") as opened:
        np.savez(opened, **arrays)  # type: ignore[arg-type]  # NumPy's stub takes the names for options
        opened.flush()
        os.fsync(opened.fileno())


def read_checkpoint(file: Path) -> dict[str, np.ndarray]:
    """Read what `write_checkpoint` wrote; the archive's CRCs are checked.

    Raises:
        PipelineError: The file is damaged.
    """
    try:
        return read_npz(file)
    except Exception as error:  # NumPy and zipfile raise many types for damaged files
        raise PipelineError(
            f"{file} is damaged ({first_line(error)}); delete it to train from the first epoch."
        ) from error
