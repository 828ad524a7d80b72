"""VGG16 as an ONNX graph, for the engines that do not run Keras's own model."""

from pathlib import Path

import numpy as np

from pipeline.data.decoding import SIDE
from pipeline.features.vgg16 import BGR_MEAN, BLOCKS, DENSE, Arrays

OPSET, IR_VERSION = 13, 8  # of ONNX: old enough for any converter


def bgr_planes(pixels: np.ndarray) -> np.ndarray:
    """Keras's preprocessing for VGG16, with the channels before the pixels.

    Args:
        pixels: RGB, shape (N, 224, 224, 3), uint8.

    Returns:
        BGR minus the ImageNet means, shape (N, 3, 224, 224), float32.
    """
    planes = np.empty((len(pixels), 3, SIDE, SIDE), np.float32)
    return np.subtract(pixels.transpose(0, 3, 1, 2)[:, ::-1], BGR_MEAN[:, None, None], out=planes)


def write_onnx(arrays: Arrays, layer: str, file: Path) -> None:
    """Write VGG16 up to a layer as an ONNX graph from BGR planes (N, 3, 224, 224) to features (N, dim).

    Dense layers become convolutions: fc1 one of 7 x 7 that fits its input exactly once, fc2 one of 1 x 1.

    Args:
        arrays: The weights of all layers up to `layer`.
        layer: The layer whose activation is the output, after ReLU.
        file: The `.onnx` file to write.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights = [], []

    def convolve(source: str, name: str, kernel: np.ndarray, padding: int) -> str:
        planes = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))  # (rows, columns, in, out) -> (out, in, ...)
        weights.append(numpy_helper.from_array(planes, f"{name}_kernel"))
        weights.append(numpy_helper.from_array(arrays[name][1], f"{name}_bias"))
        inputs = [source, f"{name}_kernel", f"{name}_bias"]
        nodes.append(helper.make_node("Conv", inputs, [name], kernel_shape=kernel.shape[:2], pads=[padding] * 4))
        nodes.append(helper.make_node("Relu", [name], [f"{name}_relu"]))
        return f"{name}_relu"

    last = "pixels"
    for number, block in enumerate(BLOCKS, start=1):
        for name, _, _ in block:
            last = convolve(last, name, arrays[name][0], padding=1)
        nodes.append(helper.make_node("MaxPool", [last], [f"pool{number}"], kernel_shape=[2, 2], strides=[2, 2]))
        last = f"pool{number}"
    if layer == "block5_pool":
        nodes.append(helper.make_node("GlobalAveragePool", [last], ["average"]))
        last = "average"
    for (name, _, units), side in zip(DENSE, (7, 1), strict=True):
        if name in arrays:
            last = convolve(last, name, arrays[name][0].reshape(side, side, -1, units), padding=0)
    nodes.append(helper.make_node("Flatten", [last], ["features"]))

    shapes = {"pixels": ["N", 3, SIDE, SIDE], "features": ["N", None]}
    pixels, features = (helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in shapes.items())
    graph = helper.make_graph(nodes, "vgg16", [pixels], [features], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.save(model, file)
