"""Engines: implementations of VGG16, from batches of pixels to features; each is a module in this folder."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, get_args

import numpy as np

from pipeline.core.errors import RequestError
from pipeline.core.keras_backend import accelerators, unseen_gpu
from pipeline.features.extractor import Extractor
from pipeline.features.options import EngineName

log = logging.getLogger(__name__)

ENGINES = get_args(EngineName)


class Engine(Protocol):
    """Runs one extractor, or several that differ only in layer, pooling and projection, in one pass.

    Attributes:
        name: "keras", "mnn", or "onnxruntime" for precision int8.
        device: What it runs on: "cpu", or devices as Keras names them, such as "gpu:0".
        batch_size: The number of images in a batch.
        at_once: The number of batches it processes at a time, each in a thread.
    """

    name: str
    device: str
    batch_size: int
    at_once: int

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Compute features.

        Args:
            pixels: RGB, shape (batch_size, 224, 224, 3), uint8. Always a full batch: as all calls have the same
                shape, the feature of an image does not depend on the other images in its batch.

        Returns:
            The features of each extractor, in their order, shape (batch_size, dim), float32.
        """
        ...


def make_engine(name: str, extractors: Sequence[Extractor], batch_size: int | None, cache: Path) -> Engine:
    """Create an engine by name.

    Args:
        name: One of ENGINES. "auto" selects ONNX Runtime for int8, Keras for other reduced precisions or if its backend
            sees an accelerator, and otherwise MNN (Keras if MNN is not installed).
        extractors: One extractor, or several with the same weights and precision.
        batch_size: Images in a batch; None leaves the choice to the engine.
        cache: The cache folder, where an engine may store converted networks.

    Returns:
        The engine, with its weights loaded.

    Raises:
        RequestError: The engine is unknown, does not support the precision, or the weights cannot be read.
    """
    engine = _resolve(name, extractors)
    if engine == "onnxruntime":
        from pipeline.features.engines.int8 import Int8Engine

        return Int8Engine(extractors, batch_size, cache)
    if name != "mnn" and (gpu := unseen_gpu()):
        log.warning("%s. Features are computed on the processor, many times slower.", gpu)
    if engine == "mnn":
        from pipeline.features.engines.mnn import MnnEngine

        return MnnEngine(extractors, batch_size, cache)
    from pipeline.features.engines.keras import KerasEngine

    return KerasEngine(extractors, batch_size)


def ensure_weights(name: str, extractors: Sequence[Extractor], cache: Path) -> None:
    """Make sure that the weights of an engine are available: download them if necessary.

    Args:
        name: See `make_engine`.
        extractors: See `make_engine`.
        cache: See `make_engine`.

    Raises:
        RequestError: The engine is unknown, does not support the precision, or is not installed.
        PipelineError: The weights cannot be downloaded.
    """
    engine = _resolve(name, extractors)
    if engine == "onnxruntime":
        from pipeline.features.engines import int8

        int8.check_installed()
        if int8.is_converted(extractors, cache):
            return
    if engine == "mnn":
        from pipeline.features.engines import mnn

        if mnn.is_converted(extractors, cache):
            return
    extractors[0].weights.fetch()


def check_precision(name: str, precision: str) -> None:
    """Refuse an engine that does not support a precision.

    Args:
        name: See `make_engine`.
        precision: One of `pipeline.features.vgg.PRECISIONS`.

    Raises:
        RequestError: The engine is unknown, or does not support the precision.
    """
    if name not in ENGINES:
        raise RequestError(f"engine {name!r} is unknown; choose from {', '.join(ENGINES)}.")
    if precision == "int8" and name != "auto":
        raise RequestError(f"The engine {name} does not compute in int8; leave engine out: ONNX Runtime does.")
    if precision != "float32" and name == "mnn":
        raise RequestError(f"The engine mnn computes in float32 only; precision {precision!r} needs the engine keras.")


def _resolve(name: str, extractors: Sequence[Extractor]) -> str:
    precision = extractors[0].precision
    check_precision(name, precision)
    if precision == "int8":
        return "onnxruntime"
    if name != "auto":
        return name
    fast_on_cpu = precision == "float32" and find_spec("MNN") and not accelerators()
    return "mnn" if fast_on_cpu else "keras"
