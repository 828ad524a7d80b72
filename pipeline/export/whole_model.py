"""One Keras model from pixels to an embedding: preprocessing, VGG16 and the decoder."""

import math
from typing import Any

from pipeline.core.errors import RequestError
from pipeline.core.keras_backend import import_keras
from pipeline.core.model_files import ModelCard
from pipeline.features.engines.keras import build_network
from pipeline.features.extractor import Extractor
from pipeline.features.vgg16 import deepest, weighted_layers

LARGEST = 2**31 - 2**20  # bytes of weights in one file; Protocol Buffers and FlatBuffers end at 2 GiB
LIMITED = ("onnx", "litert")  # formats of such files, which are written in float32


def check_exportable(extractor: Extractor, decoder_parameters: int, kind: str) -> None:
    """Refuse features that no exported model can compute, and weights that the format cannot hold.

    Args:
        extractor: What the features were computed with.
        decoder_parameters: How many weights the decoder has.
        kind: The format.

    Raises:
        RequestError: The features need what a format lacks, or the model is too large for it.
    """
    if extractor.projection or extractor.precision == "int8":
        what = "a random projection" if extractor.projection else "8-bit arithmetic"
        raise RequestError(f"A decoder of features with {what} cannot be exported; train one without.")
    if kind in LIMITED and extractor.precision != "float32":
        raise RequestError(
            f"A decoder of features in {extractor.precision} cannot be exported to {kind}, which computes in float32; "
            "choose savedmodel or keras, or train one on float32."
        )
    kernels = weighted_layers(deepest(extractor.layers)).values()
    size = 4 * (sum(math.prod(kernel) + kernel[-1] for kernel in kernels) + decoder_parameters)
    if kind in LIMITED and size > LARGEST:
        raise RequestError(
            f"The model has {size / 1e9:.1f} GB of weights, and a file of format {kind} holds 2.1 GB; choose "
            "savedmodel or keras, or train on fewer features or with fewer hidden units."
        )


def join_models(extractor: Extractor, card: ModelCard, decoder: Any) -> Any:
    """Put a decoder behind the network whose features it was trained on.

    Args:
        extractor: What the features were computed with; see `check_exportable`.
        card: The decoder's card.
        decoder: The `keras.Model` from (N, F) to (N, D).

    Returns:
        A `keras.Model` from RGB pixels, (N, 224, 224, 3) uint8, to embeddings, (N, D) float32.
    """
    ops = import_keras().ops
    network = build_network(extractor.parts)
    scales = card.scales or [1.0] * len(network.outputs)
    parts = [output / scale if scale != 1 else output for output, scale in zip(network.outputs, scales, strict=True)]
    features = ops.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
    return import_keras().Model(network.inputs[0], decoder(features), name="embedding")
