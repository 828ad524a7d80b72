"""The ways to run VGG16 that the engine benchmark compares, each in a separate process."""

import contextlib
import importlib.util
import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from pipeline.features.engines import make_engine
from pipeline.features.engines.keras import build_network
from pipeline.features.engines.onnx_graph import bgr_planes, write_onnx
from pipeline.features.extractor import Extractor
from pipeline.features.vgg import NETWORKS, PREPROCESSINGS
from pipeline.features.weights import weights_from

WEIGHTS = "random:0"
MEAN = PREPROCESSINGS["caffe"].mean
INT8 = "ONNX Runtime, int8, batch 8"
Peer = Callable[[np.ndarray], np.ndarray]  # RGB pixels (N, 224, 224, 3), uint8 -> features


def peers() -> dict[str, Callable[[Path], Peer]]:
    """The ways to run VGG16 that are installed: name -> a function from a cache folder to the peer."""
    available: dict[str, Callable[[Path], Peer]] = {
        "MNN, batch 8": _mnn,
        "Keras predict, batch 32": _keras,
        "Keras predict, one by one": _keras_one_by_one,
    }
    if importlib.util.find_spec("torch"):
        available["PyTorch, channels last, batch 8"] = _torch
    if importlib.util.find_spec("onnxruntime"):
        available["ONNX Runtime, batch 8"] = _onnxruntime
        available[INT8] = _int8
    if importlib.util.find_spec("openvino"):
        available["OpenVINO, batch 8"] = _openvino
    return available


class Worker:
    """A peer in a separate process, so that the threads of one library do not slow down another.

    Args:
        name: One of `peers`.
        cache: The cache folder.
    """

    def __init__(self, name: str, cache: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        context.Process(target=_serve, args=(name, cache, theirs), daemon=True).start()

    def __call__(self, pixels: np.ndarray) -> tuple[float, np.ndarray]:
        """Compute features in the process; returns the seconds it took, and the features."""
        self._connection.send(pixels)
        return self._connection.recv()


def _serve(name: str, cache: Path, connection: Connection) -> None:
    peer = peers()[name](cache)
    with contextlib.suppress(EOFError):  # the parent process has exited
        while True:
            pixels = connection.recv()
            start = time.perf_counter()
            features = peer(pixels)
            connection.send((time.perf_counter() - start, features))


def _mnn(cache: Path) -> Peer:
    engine = make_engine("mnn", [Extractor(weights_from(WEIGHTS))], 8, cache)
    return _in_eights(lambda pixels: engine(pixels)[0])


def _int8(cache: Path) -> Peer:
    engine = make_engine("auto", [Extractor(weights_from(WEIGHTS), precision="int8")], 8, cache)
    return _in_eights(lambda pixels: engine(pixels)[0])


def _keras(cache: Path) -> Peer:
    network = build_network([Extractor(weights_from(WEIGHTS))])
    return lambda pixels: network.predict(pixels, batch_size=32, verbose=0)


def _keras_one_by_one(cache: Path) -> Peer:
    network = build_network([Extractor(weights_from(WEIGHTS))])
    return lambda pixels: np.concatenate([network.predict(image[None], verbose=0) for image in pixels])


def _onnx(cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    graph = cache / "vgg16.onnx"
    if not graph.exists():
        write_onnx(NETWORKS["vgg16"], weights_from(WEIGHTS).read("fc2"), ["fc2"], graph)
    return graph


def _in_eights(run: Callable[[np.ndarray], np.ndarray]) -> Peer:
    return lambda pixels: np.concatenate([run(pixels[at : at + 8]) for at in range(0, len(pixels), 8)])


def _torch(cache: Path) -> Peer:
    import torch

    arrays, layers = weights_from(WEIGHTS).read("fc2"), []
    for block in NETWORKS["vgg16"].blocks:
        for name, before, after in block:
            layer = torch.nn.Conv2d(before, after, 3, padding=1)
            layer.weight.data = torch.tensor(arrays[name][0]).permute(3, 2, 0, 1).contiguous()
            layer.bias.data = torch.tensor(arrays[name][1])
            layers += [layer, torch.nn.ReLU(inplace=True)]
        layers.append(torch.nn.MaxPool2d(2))
    for (name, before, after), side in zip(NETWORKS["vgg16"].dense[:2], (7, 1), strict=True):
        layer = torch.nn.Linear(before, after)
        kernel = arrays[name][0].reshape(side, side, -1, after).transpose(3, 2, 0, 1)
        layer.weight.data = torch.tensor(np.ascontiguousarray(kernel)).reshape(after, before)
        layer.bias.data = torch.tensor(arrays[name][1])
        layers += [torch.nn.Flatten(), layer, torch.nn.ReLU(inplace=True)]
    network = torch.nn.Sequential(*layers).eval().to(memory_format=torch.channels_last)

    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.tensor(bgr_planes(pixels, MEAN)).to(memory_format=torch.channels_last)).numpy()

    return _in_eights(run)


def _onnxruntime(cache: Path) -> Peer:
    import onnxruntime

    session = onnxruntime.InferenceSession(_onnx(cache), providers=["CPUExecutionProvider"])
    return _in_eights(
        lambda pixels: session.run(None, {"pixels": bgr_planes(pixels, MEAN)})[0].reshape(len(pixels), -1)
    )


def _openvino(cache: Path) -> Peer:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it would report the import
    import openvino

    compiled = openvino.compile_model(_onnx(cache), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return _in_eights(lambda pixels: compiled(bgr_planes(pixels, MEAN))[0].reshape(len(pixels), -1))
