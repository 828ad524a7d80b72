"""The reference engine: `keras.applications.VGG16`, on whatever Keras runs on."""

import contextlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from pipeline.core.errors import PipelineError
from pipeline.core.keras_backend import accelerators, import_keras
from pipeline.data.decoding import SIDE
from pipeline.features.extractor import Extractor

log = logging.getLogger(__name__)

BATCH_SIZE = 32
# How TensorFlow and JAX (RESOURCE_EXHAUSTED, OOM) and PyTorch (out of memory) say it.
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "OOM when allocating", "out of memory", "Out of memory")


class KerasEngine:
    """VGG16 by Keras, cut behind the extractor's layer. See `pipeline.features.engines.Engine`.

    Args:
        extractor: What to run.
        batch_size: Images in a batch; 32 unless given. Several devices round it up to a multiple of their number.
        devices: What to run on, as Keras names them; None means all accelerators that its backend sees.
    """

    name = "keras"

    def __init__(self, extractor: Extractor, batch_size: int | None = None, devices: list[str] | None = None) -> None:
        self.batch_size = batch_size or BATCH_SIZE
        self._part = self.batch_size  # what the devices' memory has room for
        devices = accelerators() if devices is None else devices
        self._scope: Callable[[], AbstractContextManager] = contextlib.nullcontext
        if len(devices) > 1 and (scope := data_parallel(devices)):
            self._scope = scope
            self.batch_size = self._part = -(-self.batch_size // len(devices)) * len(devices)
        with self._scope():
            self._network = build_network(extractor)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Compute features; see `pipeline.features.engines.Engine`. If memory runs out, the batch is halved."""
        while True:
            try:
                parts = [self._predict(pixels[at : at + self._part]) for at in range(0, len(pixels), self._part)]
                return np.concatenate([np.asarray(part, np.float32) for part in parts])
            except Exception as error:  # each backend has its own error type for this
                if not any(sign in str(error) for sign in OUT_OF_MEMORY):
                    raise
                if self._part == 1:
                    raise PipelineError("The device has too little memory for one image at a time.") from error
                self._part = -(-self._part // 2)
                log.warning("Out of memory; continuing with %d images at a time.", self._part)

    def _predict(self, pixels: np.ndarray) -> np.ndarray:
        if self._scope is contextlib.nullcontext:
            return self._network.predict_on_batch(pixels)
        with self._scope():  # `predict` shares a batch out, `predict_on_batch` does not
            return self._network.predict(pixels, batch_size=len(pixels), verbose=0)


def data_parallel(devices: list[str]) -> Callable[[], AbstractContextManager] | None:
    """A scope in which Keras keeps a copy of each weight on each device and shares every batch out among them.

    Args:
        devices: Two or more devices, as Keras names them.

    Returns:
        What makes the scope; None on PyTorch, where Keras uses one device.
    """
    keras = import_keras()
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        return tensorflow.distribute.MirroredStrategy(devices).scope
    if keras.backend.backend() == "jax":
        return keras.distribution.DataParallel(devices=devices).scope
    log.warning("On PyTorch, Keras uses one of the %d devices; on TensorFlow and JAX it would use all.", len(devices))
    return None


def build_network(extractor: Extractor) -> Any:
    """Build the Keras model from pixels to features, with the extractor's weights.

    Args:
        extractor: Weights, layer and precision.

    Returns:
        A `keras.Model` from (N, 224, 224, 3) uint8 RGB to (N, dim).
    """
    keras = import_keras()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(extractor.precision)
    try:
        network = keras.applications.VGG16(
            weights=None, include_top=extractor.layer != "block5_pool", input_shape=(SIDE, SIDE, 3)
        )
        pixels = keras.Input((SIDE, SIDE, 3), dtype="uint8")
        cut = keras.Model(network.inputs, network.get_layer(extractor.layer).output)
        features = cut(keras.applications.vgg16.preprocess_input(keras.ops.cast(pixels, "float32")))
        if extractor.layer == "block5_pool":
            features = keras.layers.GlobalAveragePooling2D(dtype="float32")(features)
    finally:
        keras.config.set_dtype_policy(before)
    for name, arrays in extractor.read_weights().items():
        network.get_layer(name).set_weights(arrays)
    return keras.Model(pixels, features)
