"""Learning curves for TensorBoard, with the files and names that `keras.callbacks.TensorBoard` writes."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import RequestError

WriteCurves = Callable[[str, np.ndarray, int], None]


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
