"""VGG16 or VGG19 as an ONNX graph, for engines that do not run Keras's model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.decoding import SIDE
from pipeline.features.vgg import PRE, Arrays, Network, base_layer

OPSET, IR_VERSION = 13, 8  # of ONNX: old enough for any converter


def bgr_planes(pixels: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The input of the network.

    Args:
        pixels: RGB, shape (N, 224, 224, 3), uint8.
        mean: The mean of B, G and R; see `pipeline.features.vgg.Preprocessing`.

    Returns:
        BGR minus the mean, shape (N, 3, 224, 224), float32.
    """
    planes = np.empty((len(pixels), 3, SIDE, SIDE), np.float32)
    return np.subtract(pixels.transpose(0, 3, 1, 2)[:, ::-1], mean[:, None, None], out=planes)


def tensor_name(layer: str) -> str:
    """The name in the graph of a layer's activation, or of its value before the activation (":pre")."""
    if layer.endswith("_pool"):
        return f"pool{layer[len('block')]}"
    return base_layer(layer) if layer.endswith(PRE) else f"{layer}_{'softmax' if layer == 'predictions' else 'relu'}"


def network_nodes(network: Network, arrays: Arrays, layers: Sequence[str], planes: str) -> tuple[list[Any], list[Any]]:
    """A network as ONNX nodes, up to the deepest of `layers`.

    Dense layers become convolutions: fc1 a 7 x 7 one, which fits its input exactly once, later ones 1 x 1.

    Args:
        network: The network.
        arrays: The weights of all layers up to the last of `layers`.
        layers: The layers to compute, tensors named by `tensor_name`, shape (N, channels, side, side); the side of
            dense layers is 1.
        planes: The name of the input, BGR planes (N, 3, 224, 224).

    Returns:
        The nodes, and the tensors of their weights.
    """
    from onnx import helper, numpy_helper

    nodes, weights = [], []

    def convolve(source: str, name: str, kernel: np.ndarray, padding: int) -> str:
        transposed = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))  # (rows, columns, in, out) -> (out, in, ...)
        weights.append(numpy_helper.from_array(transposed, f"{name}_kernel"))
        weights.append(numpy_helper.from_array(arrays[name][1], f"{name}_bias"))
        inputs = [source, f"{name}_kernel", f"{name}_bias"]
        nodes.append(helper.make_node("Conv", inputs, [name], kernel_shape=kernel.shape[:2], pads=[padding] * 4))
        activation = {"axis": 1, "op_type": "Softmax"} if name == "predictions" else {"op_type": "Relu"}
        nodes.append(helper.make_node(inputs=[name], outputs=[tensor_name(name)], **activation))
        return tensor_name(name)

    last = planes
    for layer in network.layers_up_to(network.deepest(layers)):
        if layer.endswith("_pool"):
            pool = tensor_name(layer)
            nodes.append(helper.make_node("MaxPool", [last], [pool], kernel_shape=[2, 2], strides=[2, 2]))
            last = pool
        else:
            kernel = arrays[layer][0]
            if kernel.ndim == 2:
                side = 7 if layer == "fc1" else 1
                kernel = kernel.reshape(side, side, -1, kernel.shape[1])
            last = convolve(last, layer, kernel, padding=1 if layer.startswith("block") else 0)
    return nodes, weights


def write_onnx(network: Network, arrays: Arrays, layers: Sequence[str], file: Path) -> None:
    """Write a network as an ONNX graph from BGR planes (N, 3, 224, 224) to one or several layers.

    Args:
        network: The network.
        arrays: The weights of all layers up to the last of `layers`.
        layers: The layers that become outputs; see `network_nodes`.
        file: The `.onnx` file to write.
    """
    import onnx
    from onnx import TensorProto, helper

    nodes, weights = network_nodes(network, arrays, layers, "pixels")
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])
    names = dict.fromkeys(map(tensor_name, layers))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None, None, None]) for name in names]
    graph = helper.make_graph(nodes, "vgg16", [pixels], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.save(model, file)
