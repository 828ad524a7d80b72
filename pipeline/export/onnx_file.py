"""An ONNX file from pixels to embeddings: preprocessing, the VGG16 graph of the engines, and the decoder, op by op."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import RequestError
from pipeline.core.keras_backend import import_keras
from pipeline.core.machine import usable_cores
from pipeline.core.model_files import CARD, ModelCard
from pipeline.data.decoding import SIDE
from pipeline.features.engines.onnx_graph import network_nodes, tensor_name
from pipeline.features.extractor import Extractor, read_weights
from pipeline.features.pooling import cell_weights
from pipeline.features.projection import dense_matrix

OPSET, IR_VERSION = 20, 9  # of ONNX; the first with Gelu
PIXELS, EMBEDDINGS = "pixels", "embeddings"

# Keras activation -> ONNX operator, and its attributes if Keras's defaults differ from ONNX's.
ACTIVATIONS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "celu": ("Celu", {}),
    "elu": ("Elu", {}),
    "exponential": ("Exp", {}),
    "gelu": ("Gelu", {}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6}),
    "hard_silu": ("HardSwish", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.2}),
    "linear": ("Identity", {}),
    "log_softmax": ("LogSoftmax", {}),
    "mish": ("Mish", {}),
    "relu": ("Relu", {}),
    "selu": ("Selu", {}),
    "sigmoid": ("Sigmoid", {}),
    "softmax": ("Softmax", {}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "tanh": ("Tanh", {}),
}


def check_installed() -> None:
    """Check that ONNX Runtime, which verifies the written file, is installed.

    Raises:
        RequestError: It is not installed.
    """
    if not find_spec("onnxruntime"):
        raise RequestError(
            "Format onnx needs the package onnxruntime, which is not installed; "
            "install it with pip install 'image-vectors[onnx]', or choose another format."
        )


def check_decoder(decoder: Any) -> None:
    """Check that a decoder can be exported, before any work is done.

    Raises:
        RequestError: A layer or an activation has no counterpart in ONNX.
    """
    add_decoder(Graph(), decoder, "features")


class Graph:
    """A growing list of ONNX nodes and their weights."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, operator: str, *inputs: str | np.ndarray, output: str = "", **attributes: Any) -> str:
        """Add a node with one output.

        Args:
            operator: Its ONNX operator.
            inputs: The names of its inputs, or arrays.
            output: The name of its output; by default derived from the operator.
            attributes: Its attributes.

        Returns:
            The name of its output.
        """
        from onnx import helper, numpy_helper

        name = output or f"{operator}_{len(self.nodes)}"
        names = []
        for number, value in enumerate(inputs):
            if not isinstance(value, str):
                self.weights.append(numpy_helper.from_array(value, f"{name}_{number}"))
            names.append(value if isinstance(value, str) else f"{name}_{number}")
        self.nodes.append(helper.make_node(operator, names, [name], **attributes))
        return name


def add_decoder(graph: Graph, decoder: Any, features: str) -> str:
    """Add the layers of a decoder, of the types that `pipeline.decoders` makes: Normalization and Dense.

    Args:
        graph: The graph.
        decoder: The `keras.Model`.
        features: The name of its input.

    Returns:
        The name of its output.

    Raises:
        RequestError: A layer or an activation has no counterpart in ONNX.
    """
    keras = import_keras()
    last = features
    for layer in getattr(decoder, "operations", decoder.layers):  # a Sequential model has no `operations`
        if isinstance(layer, keras.layers.Normalization):
            mean, variance = (keras.ops.convert_to_numpy(statistic)[0] for statistic in (layer.mean, layer.variance))
            deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
            last = graph.add("Div", graph.add("Sub", last, mean), deviation)
        elif type(layer) is keras.layers.Dense and layer.use_bias:
            last = _add_activation(graph, layer, graph.add("Gemm", last, *layer.get_weights()))
        elif not isinstance(layer, keras.layers.InputLayer):
            raise RequestError(
                f"The decoder's layer {layer.name!r} ({type(layer).__name__}) cannot be exported to onnx; "
                "choose another format."
            )
    return last


def _add_activation(graph: Graph, layer: Any, values: str) -> str:
    name = import_keras().activations.serialize(layer.activation)
    if name == "silu":
        return graph.add("Mul", values, graph.add("Sigmoid", values))
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise RequestError(
            f"The decoder's layer {layer.name!r} has an activation that ONNX lacks ({name}); choose another format, or "
            f"train with one of {', '.join(sorted([*ACTIVATIONS, 'silu']))}."
        )
    operator, attributes = ACTIVATIONS[name]
    return graph.add(operator, values, **attributes)


def write_onnx_file(
    extractors: Sequence[Extractor], model_card: ModelCard, decoder: Any, card: Mapping[str, Any], file: Path
) -> None:
    """Write an ONNX file from RGB pixels, (N, 224, 224, 3) uint8, to embeddings, (N, D) float32, for any N.

    Args:
        extractors: The extractor of each layer of the features.
        model_card: The decoder's card, for its scales.
        decoder: The `keras.Model` from (N, F) to (N, D).
        card: The card of the model; it becomes a property of the file's metadata.
        file: The file to write.

    Raises:
        RequestError: A layer or an activation of the decoder has no counterpart in ONNX.
    """
    import onnx
    from onnx import TensorProto, helper

    graph = Graph()
    floats = graph.add("Cast", PIXELS, to=TensorProto.FLOAT)
    rgb = graph.add("Transpose", floats, perm=[0, 3, 1, 2])
    bgr = graph.add("Gather", rgb, np.array([2, 1, 0]), axis=1)
    planes = graph.add("Sub", bgr, extractors[0].weights.preprocessing.mean[:, None, None])
    layers = [extractor.layer for extractor in extractors]
    nodes, weights = network_nodes(extractors[0].weights.network, read_weights(extractors), layers, planes)
    graph.nodes += nodes
    graph.weights += weights
    features = _add_features(graph, extractors, model_card)
    graph.add("Identity", add_decoder(graph, decoder, features), output=EMBEDDINGS)

    pixels = helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["N", SIDE, SIDE, 3])
    embeddings = helper.make_tensor_value_info(EMBEDDINGS, TensorProto.FLOAT, ["N", model_card.target_dim])
    onnx_graph = helper.make_graph(graph.nodes, "embedding", [pixels], [embeddings], graph.weights)
    model = helper.make_model(onnx_graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    helper.set_model_props(model, {CARD: json.dumps(card)})
    onnx.save(model, file)


def _add_features(graph: Graph, extractors: Sequence[Extractor], card: ModelCard) -> str:
    """Add pooling, projection and scale of each layer, and concatenate the layers."""
    scales = card.scales or [1.0] * len(extractors)
    features = [
        graph.add("Div", _add_layer(graph, extractor), np.array([scale], np.float32))
        for extractor, scale in zip(extractors, scales, strict=True)
    ]
    return graph.add("Concat", *features, axis=1)


def _add_layer(graph: Graph, extractor: Extractor) -> str:
    """Add the pooling of a layer, flattened to rows, columns, channels (Keras's order), and its projection."""
    planes, pooling = tensor_name(extractor.layer), extractor.pooling
    if pooling and pooling.kind == "max":
        planes = graph.add("GlobalMaxPool", planes)
    elif pooling and pooling.kind == "mean":
        planes = graph.add("GlobalAveragePool", planes)
    elif pooling and pooling.kind == "grid":
        weights = cell_weights(pooling.cells, extractor.side)
        planes = graph.add("MatMul", graph.add("MatMul", weights, planes), np.ascontiguousarray(weights.T))
    features = graph.add("Flatten", graph.add("Transpose", planes, perm=[0, 2, 3, 1]))
    if extractor.projection:
        features = graph.add("MatMul", features, dense_matrix(extractor.projection, extractor.pooled_dim))
    return features


class OnnxFile:
    """An ONNX file, run by ONNX Runtime alone.

    Args:
        file: The file.
    """

    def __init__(self, file: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Embeddings, shape (N, D), of RGB pixels, shape (N, 224, 224, 3), uint8."""
        [embeddings] = self._session.run([EMBEDDINGS], {PIXELS: pixels})
        return embeddings
