"""One Keras model from pixels to an embedding: preprocessing, VGG16 and the decoder."""

import math
from collections.abc import Sequence
from typing import Any

from pipeline.core.errors import RequestError
from pipeline.core.keras_backend import import_keras
from pipeline.core.model_files import ModelCard
from pipeline.features.engines.keras import build_network
from pipeline.features.extractor import Extractor
from pipeline.features.projection import dense_matrix
from pipeline.features.vgg import base_layer

LARGEST = 2**31 - 2**20  # bytes of weights in one file; Protocol Buffers and FlatBuffers are limited to 2 GiB
LIMITED = ("onnx", "litert")  # the formats with this limit; they are written in float32


def check_exportable(extractors: Sequence[Extractor], decoder_parameters: int, kind: str) -> None:
    """Check that the exported model can compute the features, and that its weights are within the format's limit.

    Args:
        extractors: The extractor of each layer of the features.
        decoder_parameters: The number of weights of the decoder.
        kind: The format.

    Raises:
        RequestError: The format does not support the features, or the model is too large for it.
    """
    precision = extractors[0].precision
    if precision == "int8":
        raise RequestError("A decoder of features in int8 cannot be exported; train one on float32.")
    if kind in LIMITED and precision not in ("float32", "tf32"):
        raise RequestError(
            f"A decoder of features in {precision} cannot be exported to {kind}, which computes in float32; "
            "choose savedmodel or keras, or train one on float32."
        )
    network = extractors[0].weights.network
    kernels = network.weighted_layers(network.deepest(extractor.layer for extractor in extractors)).values()
    weights = decoder_parameters + sum(math.prod(kernel) + kernel[-1] for kernel in kernels)
    weights += sum(extractor.pooled_dim * extractor.dim for extractor in extractors if extractor.projection)
    if (kind in LIMITED or extractors[0].projection) and 4 * weights > LARGEST:
        raise RequestError(
            f"The model has {4 * weights / 1e9:.1f} GB of weights, but an exported {kind} is limited to "
            "2.1 GB; train on fewer features or with fewer hidden units. (Without a projection, savedmodel and "
            "keras allow more.)"
        )


def join_models(extractors: Sequence[Extractor], card: ModelCard, decoder: Any) -> Any:
    """Append a decoder to the network that computes its features.

    Args:
        extractors: The extractor of each layer of the features; see `check_exportable`.
        card: The decoder's card.
        decoder: The `keras.Model` from (N, F) to (N, D).

    Returns:
        A `keras.Model` from RGB pixels, (N, 224, 224, 3) uint8, to embeddings, (N, D) float32.
    """
    keras = import_keras()
    network = build_network(extractors)
    projected = [_project(*pair) for pair in zip(network.outputs, extractors, strict=True)]
    scales = card.scales or [1.0] * len(projected)
    parts = [output / scale if scale != 1 else output for output, scale in zip(projected, scales, strict=True)]
    features = keras.ops.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
    return keras.Model(network.inputs[0], decoder(features), name="embedding")


def _project(output: Any, extractor: Extractor) -> Any:
    if extractor.projection is None:
        return output
    layer = import_keras().layers.Dense(extractor.dim, use_bias=False, name=f"{base_layer(extractor.layer)}_projection")
    projected = layer(output)
    layer.set_weights([dense_matrix(extractor.projection, extractor.pooled_dim)])
    return projected
