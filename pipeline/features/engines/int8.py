"""The engine of `--precision int8`: VGG16 with 8-bit integer weights and activations, on ONNX Runtime or OpenVINO.

The quantization is static: a scale for each output channel of the weights, and one for each activation, from its range
on one tile of each photograph in the sample. So it depends only on the weights, not on the user's images. ONNX Runtime
quantizes; both libraries run the same graph, and their results differ by rounding.
"""

import hashlib
import logging
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from pipeline.core.errors import RequestError
from pipeline.core.machine import has_amx_int8, has_int8_instructions, usable_cores
from pipeline.data.decoding import decode
from pipeline.data.sample import SAMPLE
from pipeline.features.engines import networks
from pipeline.features.engines.onnx_graph import bgr_planes, tensor_name
from pipeline.features.extractor import Extractor
from pipeline.features.pooling import in_keras_order
from pipeline.features.vgg import CALIBRATION, Network

log = logging.getLogger(__name__)

BATCH_SIZE = 8
Run = Callable[[np.ndarray], list[np.ndarray]]  # planes -> activations
TILES = "*/1-1.jpg"  # of the sample; CALIBRATION identifies them


class Int8Engine:
    """VGG16 in int8. See `pipeline.features.engines.Engine`.

    Args:
        extractors: The extractors to run.
        batch_size: Images in a batch; None for 8.
        cache: The cache folder; quantized networks are stored in its subfolder `networks`.

    Raises:
        RequestError: ONNX Runtime is not installed.
        PipelineError: The network cannot be quantized or stored.
    """

    device = "cpu"
    at_once = 1

    def __init__(self, extractors: Sequence[Extractor], batch_size: int | None, cache: Path) -> None:
        check_installed()
        _note_instructions()
        self.batch_size = batch_size or BATCH_SIZE
        self._extractors = extractors
        self._layers = _outputs(extractors)
        network = networks.converted_network(extractors[0].weights, self._layers, cache, INT8)
        # With AMX, OpenVINO is 2.5 to 3 times as fast; with VNNI alone, both are equally fast.
        self.name = "openvino" if has_amx_int8() and find_spec("openvino") else "onnxruntime"
        load = _openvino if self.name == "openvino" else _onnxruntime
        self._run = load(network, [tensor_name(layer) for layer in self._layers])

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Compute features; see `pipeline.features.engines.Engine`."""
        planes = bgr_planes(pixels, self._extractors[0].weights.preprocessing.mean)
        activations = dict(zip(self._layers, self._run(planes), strict=True))
        return [_feature(extractor, activations[extractor.layer]) for extractor in self._extractors]


def _note_instructions() -> None:
    """Say if the processor is slow in int8, or a faster library is not installed."""
    if has_int8_instructions() is False:
        log.warning(
            "This processor has no VNNI instructions, without which int8 is slow. Precision float32 is the better "
            "choice."
        )
    elif has_int8_instructions() is None:
        log.info("It is unknown whether this processor has VNNI instructions; without them int8 is slow.")
    elif has_amx_int8() and not find_spec("openvino"):
        log.info(
            "This processor has AMX, with which OpenVINO computes int8 2.5 times as fast as ONNX Runtime; install it "
            "with pip install 'image-vectors[int8]'."
        )


def _onnxruntime(network: Path, names: Sequence[str]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.add_session_config_entry("session.x64quantprecision", "1")  # without VNNI, its sums would saturate
    session = onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
    return lambda planes: session.run(names, {"pixels": planes})


def _openvino(network: Path, names: Sequence[str]) -> Run:
    # Without this module, OpenVINO neither reports its import to Google Analytics nor writes into the home folder.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": usable_cores(),
        "INFERENCE_PRECISION_HINT": "f32",  # not bfloat16 where the network is not quantized
        "ENABLE_CPU_PINNING": False,  # with it, several processes would share the first cores
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(network), "CPU", settings)

    def run(planes: np.ndarray) -> list[np.ndarray]:
        activations = compiled(planes)
        return [activations[name] for name in names]

    return run


def _feature(extractor: Extractor, planes: np.ndarray) -> np.ndarray:
    features = extractor.pooling(planes) if extractor.pooling else in_keras_order(planes)
    return extractor.projection(features) if extractor.projection else features


def check_installed() -> None:
    """Check that ONNX Runtime is installed.

    Raises:
        RequestError: It is not installed.
    """
    if not find_spec("onnxruntime"):
        raise RequestError(
            "Precision int8 needs the package onnxruntime, which is not installed; "
            "install it with pip install 'image-vectors[int8]', or use precision float32."
        )


def is_converted(extractors: Sequence[Extractor], cache: Path) -> bool:
    """Whether there is a quantized network, intact or not."""
    return networks.is_converted(extractors[0].weights, _outputs(extractors), cache, INT8)


def calibration_tiles() -> list[Path]:
    """The images that determine the ranges of activations, in order.

    Raises:
        RequestError: This installation lacks the sample.
    """
    if SAMPLE is None:
        raise RequestError("This installation lacks the sample, which precision int8 is calibrated on; use float32.")
    return sorted(SAMPLE.glob(TILES))


def _outputs(extractors: Sequence[Extractor]) -> list[str]:
    return sorted({extractor.layer for extractor in extractors})


def _names(network: Network, layers: Sequence[str]) -> list[str]:
    """The name of the network with exactly these layers; quantization fixes the outputs."""
    name = f"{network.deepest(layers)}-int8-{CALIBRATION}"
    # The joined names of the layers may be too long for a file name.
    return [
        name if len(layers) == 1 else f"{name}-{hashlib.blake2b(' '.join(layers).encode(), digest_size=4).hexdigest()}"
    ]


def _quantize(graph: Path, network: Path, mean: np.ndarray) -> None:
    from onnxruntime import quantization

    class Tiles(quantization.CalibrationDataReader):
        """Iterates over the tiles."""

        def __init__(self) -> None:
            self._tiles = iter(calibration_tiles())

        def get_next(self) -> dict[str, np.ndarray] | None:
            """The network's input for the next tile, or None after the last."""
            tile = next(self._tiles, None)
            return {"pixels": bgr_planes(decode(tile.read_bytes())[None], mean)} if tile else None

    logging.disable(logging.WARNING)  # hides advice to simplify the graph; this process does nothing else
    quantization.quantize_static(
        str(graph),
        str(network),
        Tiles(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Relu", "MaxPool"],  # not the softmax of `predictions`: 256 levels are too few
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=quantization.CalibrationMethod.MinMax,
    )


INT8 = networks.Conversion(
    target="int8",
    suffix=".int8.onnx",
    names=_names,
    convert=_quantize,
    weight_size=1,
    duration="10 to 60 s",
    space="up to 1.3 GB there and leaves 140 MB",
    memory="3.5 GB",
    alternative="precision float32",
)
