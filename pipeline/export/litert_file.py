"""A LiteRT (TensorFlow Lite) file from pixels to embeddings, by TensorFlow's converter."""

import json
import logging
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import PipelineError, first_line
from pipeline.core.keras_backend import quietly
from pipeline.core.machine import usable_cores
from pipeline.core.model_files import CARD
from pipeline.export.savedmodel import FROM_PIXELS, write_savedmodel

log = logging.getLogger(__name__)


def write_litert(model: Any, card: Mapping[str, Any], file: Path) -> None:
    """Write a `.tflite` file of LiteRT's built-in operators, with its card in an archive appended to the model.

    Runtimes ignore the archive; `unzip` and Python's `zipfile` read it like a normal ZIP file.

    Args:
        model: See `pipeline.export.whole_model.join_models`.
        card: The card of the model.
        file: The file to write.

    Raises:
        RequestError: Keras runs on another backend than TensorFlow.
        PipelineError: The model needs operators that LiteRT lacks.
    """
    folder = file.with_name(f"{file.name}-savedmodel")
    shutil.rmtree(folder, ignore_errors=True)  # the leftover of a killed process
    try:
        write_savedmodel(model, card, folder, takes_bytes=False)
        log.info("Converting it to LiteRT.")
        file.write_bytes(_convert(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(CARD, json.dumps(card, indent=2))


def _convert(folder: Path) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=[FROM_PIXELS])
    with quietly():
        try:
            return converter.convert()
        except Exception as error:  # its type is private to TensorFlow
            failure = error
    message = f"The decoder cannot be exported to litert ({first_line(failure)}); choose another format."
    raise PipelineError(message) from failure


class LiteRTFile:
    """A LiteRT file, run by TensorFlow's interpreter.

    Args:
        file: The file.
    """

    def __init__(self, file: Path) -> None:
        import tensorflow as tf

        with quietly(), warnings.catch_warnings():
            # TensorFlow warns that this interpreter will move to a separate package.
            warnings.filterwarnings("ignore", "(?s).*tf.lite.Interpreter is deprecated", UserWarning)
            self._interpreter = tf.lite.Interpreter(str(file), num_threads=usable_cores())

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Embeddings, shape (N, D), of RGB pixels, shape (N, 224, 224, 3), uint8."""
        with quietly():
            [embeddings] = self._interpreter.get_signature_runner(FROM_PIXELS)(pixels=pixels).values()
        return embeddings
