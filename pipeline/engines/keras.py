"""The reference engine: `keras.applications.VGG16`, on whatever Keras runs on."""

import numpy as np

from pipeline.backend import import_keras
from pipeline.images import SIDE
from pipeline.vgg16 import Extractor

BATCH_SIZE = 32


class KerasEngine:
    """VGG16 by Keras, cut behind the extractor's layer. See `pipeline.engines.Engine`.

    Args:
        extractor: What to run.
        batch_size: Images in a batch; 32 unless given.
    """

    name = "keras"

    def __init__(self, extractor: Extractor, batch_size: int | None = None) -> None:
        self.batch_size = batch_size or BATCH_SIZE
        self._model = build_network(extractor)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Compute features; see `pipeline.engines.Engine`."""
        return np.asarray(self._model.predict_on_batch(pixels), np.float32)


def build_network(extractor: Extractor):
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
