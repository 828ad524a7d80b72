"""The fast engine on CPUs: MNN (https://github.com/alibaba/MNN), with Winograd convolutions, which multiply less.

MNN has its own format. VGG16 is written once as an ONNX graph and converted by MNN's converter, which folds and packs
the weights (without that, a network built with `MNN.expr` calls runs at less than half the speed). TensorFlow is not
imported on this path.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import RequestError
from pipeline.core.keras_backend import quietly
from pipeline.core.machine import usable_cores
from pipeline.features.engines import networks
from pipeline.features.engines.onnx_graph import bgr_planes, tensor_name
from pipeline.features.extractor import Extractor
from pipeline.features.pooling import in_keras_order
from pipeline.features.vgg import PRE, Network

BATCH_SIZE = 8


class MnnEngine:
    """VGG16 by MNN. See `pipeline.features.engines.Engine`.

    Args:
        extractors: The extractors to run.
        batch_size: Images in a batch; None for 8.
        cache: The cache folder; converted networks are stored in its subfolder `networks`.

    Raises:
        RequestError: MNN is not installed.
        PipelineError: The network cannot be converted or stored.
    """

    name, device = "mnn", "cpu"
    at_once = 1

    def __init__(self, extractors: Sequence[Extractor], batch_size: int | None, cache: Path) -> None:
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
            # An attribute, because the module does not keep its runtime alive.
            self._runtime = nn.create_runtime_manager(
                ({"backend": 0, "numThread": usable_cores(), "precision": "high"},)
            )
            self._network = nn.load_module_from_file(
                str(network), ["pixels"], [*map(tensor_name, self._layers)], runtime_manager=self._runtime
            )

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Compute features; see `pipeline.features.engines.Engine`."""
        planes = bgr_planes(pixels, self._extractors[0].weights.preprocessing.mean)
        images = self._expr.const(planes, list(planes.shape), self._expr.NCHW, self._expr.float)
        activations = dict(zip(self._layers, self._network.onForward([images]), strict=True))
        return [self._feature(extractor, activations[extractor.layer]) for extractor in self._extractors]

    def _feature(self, extractor: Extractor, activation: Any) -> np.ndarray:
        """Pool and project a layer. If possible, MNN pools in its own layout, so that no large layer is copied."""
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
    """Find the network converted for MNN, or convert it; see `pipeline.features.engines.networks`."""
    return networks.converted_network(extractors[0].weights, _outputs(extractors), cache, MNN)


def is_converted(extractors: Sequence[Extractor], cache: Path) -> bool:
    """Whether there is a converted network, intact or not."""
    return networks.is_converted(extractors[0].weights, _outputs(extractors), cache, MNN)


def _names(network: Network, outputs: Sequence[str]) -> list[str]:
    """The names of networks that include all layers: the smallest first, then deeper ones, which MNN truncates."""
    last, *pre_layers = outputs
    # The joined names of these layers may be too long for a file name.
    end = f"-pre-{hashlib.blake2b(' '.join(pre_layers).encode(), digest_size=4).hexdigest()}" if pre_layers else ""
    layers = list(network.activation_shapes)
    return [f"{layer}{end}" for layer in layers[layers.index(last) :]]


def _outputs(extractors: Sequence[Extractor]) -> list[str]:
    """The outputs that a network must be converted with: the deepest layer, and all values before an activation.

    The converter merges each ReLU into its convolution. Every value after a ReLU can be read from the network; a value
    before it only if it was an output.
    """
    layers = [extractor.layer for extractor in extractors]
    last = extractors[0].weights.network.deepest(layers)
    return [last, *sorted({layer for layer in layers if layer.endswith(PRE)})]


def _convert(graph: Path, network: Path, mean: np.ndarray) -> None:
    with quietly():
        # The extension itself: its wrapper, MNN.tools.mnnconvert, installs packages and sends usage statistics.
        import _tools
        import MNN  # noqa: F401  (loads the libraries that the extension needs)

        _tools.mnnconvert(
            ["mnnconvert", "-f", "ONNX", "--modelFile", str(graph), "--MNNModel", str(network), "--bizCode", "vgg16"]
        )


MNN = networks.Conversion(
    target="MNN",
    suffix=".mnn",
    names=_names,
    convert=_convert,
    weight_size=4,
    duration="10 to 60 s",
    space="up to 1.1 GB there and leaves 540 MB",
    memory="3.5 GB",
    alternative="the engine keras",
)
