"""The fast engine on CPUs: MNN (https://github.com/alibaba/MNN), whose Winograd convolutions multiply less.

MNN runs networks in a format of its own. VGG16 is written once as an ONNX graph and put through MNN's converter, which
folds and packs the weights (a network built with `MNN.expr` calls lacks that and runs at less than half the speed), and
kept beside the feature stores. TensorFlow is not imported on this path.
"""

import hashlib
import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from pipeline.core.atomic import UNFINISHED
from pipeline.core.child_processes import end_with_parent
from pipeline.core.cores import usable_cores
from pipeline.core.errors import PipelineError, RequestError, cause
from pipeline.core.keras_backend import quietly
from pipeline.features.engines.onnx_graph import bgr_planes, tensor_name, write_onnx
from pipeline.features.extractor import Extractor
from pipeline.features.pooling import in_keras_order
from pipeline.features.vgg16 import PRE, activation_shapes, deepest
from pipeline.features.weights import weights_from

log = logging.getLogger(__name__)

BATCH_SIZE = 8


class MnnEngine:
    """VGG16 by MNN. See `pipeline.features.engines.Engine`.

    Args:
        extractors: What to run.
        batch_size: Images in a batch; 8 unless given.
        cache: The cache folder; converted networks are kept in `networks/` below it.

    Raises:
        RequestError: MNN is not installed, or the precision is not float32.
        PipelineError: The network cannot be converted or stored.
    """

    name = "mnn"

    def __init__(self, extractors: Sequence[Extractor], batch_size: int | None, cache: Path) -> None:
        precision = extractors[0].precision
        if precision != "float32":
            raise RequestError(
                f"The engine mnn computes in float32 only; precision {precision!r} needs the engine keras."
            )
        try:
            with quietly():
                import MNN.expr as expr
                import MNN.nn as nn
        except ImportError as error:
            raise RequestError(
                f"The engine mnn needs the package MNN, which cannot be imported ({error}); "
                "install it with pip install MNN, or use the engine keras."
            ) from error
        self.batch_size = batch_size or BATCH_SIZE
        self._expr = expr
        self._extractors = extractors
        self._layers = list(dict.fromkeys(extractor.layer for extractor in extractors))
        network = converted_network(extractors, cache)
        with quietly():
            # Kept as an attribute: the module does not keep its runtime alive.
            self._runtime = nn.create_runtime_manager(
                ({"backend": 0, "numThread": usable_cores(), "precision": "high"},)
            )
            self._network = nn.load_module_from_file(
                str(network), ["pixels"], [*map(tensor_name, self._layers)], runtime_manager=self._runtime
            )

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Compute features; see `pipeline.features.engines.Engine`."""
        planes = bgr_planes(pixels)
        images = self._expr.const(planes, list(planes.shape), self._expr.NCHW, self._expr.float)
        activations = dict(zip(self._layers, self._network.onForward([images]), strict=True))
        return [self._feature(extractor, activations[extractor.layer]) for extractor in self._extractors]

    def _feature(self, extractor: Extractor, activation: Any) -> np.ndarray:
        """Pool and project a layer. MNN pools where it can, in its own layout, so that no large layer is copied."""
        pooling = extractor.pooling
        window = pooling.window(extractor.side) if pooling else None
        if pooling and window:
            pool = self._expr.max_pool if pooling.kind == "max" else self._expr.avg_pool
            activation = pool(activation, [window, window], [window, window])
        planes = self._expr.convert(activation, self._expr.NCHW)
        array = np.array(planes.read(), np.float32).reshape(planes.shape)
        if pooling and not window:
            array = pooling(array)
        features = array if array.ndim == 2 else in_keras_order(array)
        return extractor.projection(features) if extractor.projection else features


def converted_network(extractors: Sequence[Extractor], cache: Path) -> Path:
    """Find the converted network, or convert it.

    The file's name ends in the digest of its content, so a damaged file is recognised and converted again.

    Args:
        extractors: Weights and layers.
        cache: The cache folder.

    Returns:
        The `.mnn` file, its content checked.

    Raises:
        PipelineError: The weights cannot be read, or the network cannot be converted or written.
    """
    folder, names = cache / "networks", _names(extractors)
    name = names[0]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if network := next(filter(None, (_intact_network(folder, each) for each in names)), None):
            return network
        with FileLock(folder / "converting.lock"):
            if network := _intact_network(folder, name):  # another process converted it while this one waited
                return network
            for damaged in _files(folder, name):
                log.warning("The converted network %s is damaged; it is converted again.", damaged)
                damaged.unlink()
            for left in folder.glob(f"{UNFINISHED}*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            extractors[0].weights.fetch()
            log.info("Converting VGG16 for MNN, once for these weights (30 to 60 s).")
            with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as unfinished:
                network = _convert(extractors, Path(unfinished).absolute())
                file = folder / f"{name}-{_digest(network)}.mnn"
                os.replace(network, file)
    except OSError as error:
        raise PipelineError(
            f"The converted network cannot be stored in {folder} ({cause(error)}); conversion takes up to 1.1 GB there "
            "and leaves 540 MB. Choose another cache folder, or use the engine keras."
        ) from error
    return file


def is_converted(extractors: Sequence[Extractor], cache: Path) -> bool:
    """Whether there is a converted network, be it intact or not."""
    return any(_files(cache / "networks", name) for name in _names(extractors))


def _names(extractors: Sequence[Extractor]) -> list[str]:
    """How the names of the networks begin that have all layers: the smallest first, then deeper ones, cut by MNN."""
    last, *others = _outputs(extractors)
    # The others' names together may be too long for that of a file.
    end = f"-pre-{hashlib.blake2b(' '.join(others).encode(), digest_size=4).hexdigest()}" if others else ""
    layers = list(activation_shapes())
    return [f"{extractors[0].weights.digest}-{layer}{end}" for layer in layers[layers.index(last) :]]


def _outputs(extractors: Sequence[Extractor]) -> list[str]:
    """What a network must be converted with as outputs: the deepest layer, and all values before an activation.

    The converter merges each ReLU into its convolution. Every value after it can then be read from the network; the one
    before it only where it was an output.
    """
    layers = [extractor.layer for extractor in extractors]
    return [deepest(layers), *sorted({layer for layer in layers if layer.endswith(PRE)})]


def _files(folder: Path, name: str) -> list[Path]:
    """The converted networks of a name, whatever their content."""
    return [file for file in folder.glob("*.mnn") if file.stem.rpartition("-")[0] == name]


def _intact_network(folder: Path, name: str) -> Path | None:
    """The network of a name whose content is what was written, if there is one."""
    return next((file for file in _files(folder, name) if file.stem == f"{name}-{_digest(file)}"), None)


def _digest(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def _convert(extractors: Sequence[Extractor], folder: Path) -> Path:
    """Convert in a process of its own, whose memory is freed with it; returns the network's file in `folder`."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _start_converter) as process:
        try:
            network = process.submit(_run_converter, extractors[0].weights.name, _outputs(extractors), folder).result()
        except BrokenProcessPool as error:
            raise PipelineError(
                "MNN's converter was killed, possibly out of memory (it needs about 3 GB). "
                "The engine keras needs no conversion."
            ) from error
    if not network.is_file():
        raise PipelineError("MNN's converter wrote no network; is the disk full? The engine keras needs none.")
    return network


def _start_converter() -> None:
    """Prepare the process: neither Ctrl-C nor a kill of its parent leaves it behind."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends it at once, without a traceback
    end_with_parent()


def _run_converter(weights: str, layers: Sequence[str], folder: Path) -> Path:
    graph, network = folder / "vgg16.onnx", folder / "vgg16.mnn"
    arrays = weights_from(weights).read(deepest(layers))
    os.chdir(folder)  # a conversion that is killed leaves a temporary file in the working directory
    write_onnx(arrays, layers, graph)
    with quietly():
        # The extension itself: its wrapper, MNN.tools.mnnconvert, installs packages and sends usage statistics.
        import _tools
        import MNN  # noqa: F401  (loads the libraries that the extension needs)

        _tools.mnnconvert(
            ["mnnconvert", "-f", "ONNX", "--modelFile", str(graph), "--MNNModel", str(network), "--bizCode", "vgg16"]
        )
    if network.is_file() and network.stat().st_size < sum(
        kernel.nbytes + bias.nbytes for kernel, bias in arrays.values()
    ):
        network.unlink()  # the converter does not notice that a disk is full
    return network
