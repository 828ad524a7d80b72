"""A SavedModel: a folder that TensorFlow and TensorFlow Serving run without this package."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import RequestError
from pipeline.core.keras_backend import import_keras, quietly
from pipeline.core.model_files import CARD
from pipeline.export.image_bytes import decode_batch

CARD_FOLDER = "assets.extra"  # ignored by TensorFlow
FROM_PIXELS, FROM_BYTES = "serve", "serve_bytes"


def write_savedmodel(model: Any, card: Mapping[str, Any], folder: Path, takes_bytes: bool) -> None:
    """Write a SavedModel with an endpoint from pixels, the default, and one from the bytes of image files.

    Args:
        model: The model from RGB pixels to embeddings; see `join_models`.
        card: The card of the model.
        folder: The folder to create.
        takes_bytes: Whether to write the endpoint from bytes.

    Raises:
        RequestError: Keras runs on another backend than TensorFlow.
        OSError: The folder cannot be written.
    """
    keras = import_keras()
    if keras.backend.backend() != "tensorflow":
        raise RequestError("This format is written by Keras on TensorFlow; set KERAS_BACKEND=tensorflow.")
    import tensorflow as tf

    with quietly():
        archive = keras.export.ExportArchive()
        pixels = tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8, "pixels")
        archive.add_endpoint(FROM_PIXELS, lambda pixels: model(pixels, training=False), [pixels])
        if takes_bytes:
            files = tf.TensorSpec((None,), tf.string, "files")
            archive.add_endpoint(FROM_BYTES, lambda files: model(decode_batch(files), training=False), [files])
        try:
            archive.write_out(str(folder), verbose=False)
        except tf.errors.OpError as error:
            raise OSError(error.message.rpartition("; ")[2]) from error  # the system's message comes last
    (folder / CARD_FOLDER).mkdir()
    (folder / CARD_FOLDER / CARD).write_text(json.dumps(card, indent=2), encoding="utf-8")


class SavedModel:
    """A SavedModel, run by TensorFlow alone.

    Args:
        folder: Its folder.
    """

    def __init__(self, folder: Path) -> None:
        import tensorflow as tf

        self._tf = tf
        with quietly():
            self._loaded = tf.saved_model.load(str(folder))

    def from_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Embeddings, shape (N, D), of RGB pixels, shape (N, 224, 224, 3), uint8."""
        return self._answer(FROM_PIXELS, pixels=self._tf.constant(pixels))

    def from_bytes(self, files: Sequence[bytes]) -> np.ndarray:
        """Embeddings, shape (N, D), of the contents of N image files."""
        return self._answer(FROM_BYTES, files=self._tf.constant(files))

    def _answer(self, endpoint: str, **inputs: Any) -> np.ndarray:
        [embeddings] = self._loaded.signatures[endpoint](**inputs).values()
        return embeddings.numpy()
