"""One Keras model from pixels to an embedding: preprocessing, VGG16 and the decoder."""

from typing import Any

from pipeline.core.errors import RequestError
from pipeline.core.keras_backend import import_keras
from pipeline.core.model_files import ModelCard
from pipeline.features.engines.keras import build_network
from pipeline.features.extractor import Extractor


def join_models(extractor: Extractor, card: ModelCard, decoder: Any) -> Any:
    """Put a decoder behind the network whose features it was trained on.

    Args:
        extractor: What the features were computed with.
        card: The decoder's card.
        decoder: The `keras.Model` from (N, F) to (N, D).

    Returns:
        A `keras.Model` from RGB pixels, (N, 224, 224, 3) uint8, to embeddings, (N, D) float32.

    Raises:
        RequestError: The features need what a Keras model has no layer for.
    """
    if extractor.projection or extractor.precision == "int8":
        what = "a random projection" if extractor.projection else "8-bit arithmetic"
        raise RequestError(f"A decoder of features with {what} cannot be exported; train one without.")
    ops = import_keras().ops
    network = build_network(extractor.parts)
    scales = card.scales or [1.0] * len(network.outputs)
    parts = [output / scale if scale != 1 else output for output, scale in zip(network.outputs, scales, strict=True)]
    features = ops.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
    return import_keras().Model(network.inputs[0], decoder(features), name="embedding")
