"""Engines: implementations of VGG16, from batches of pixels to features; each is a module in this folder."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, get_args

import numpy as np

from pipeline.core.errors import RequestError
from pipeline.core.keras_backend import accelerators, unseen_gpu
from pipeline.features.engines.devices import BATCH_SIZE, CPU, batches_at_once, chosen_devices, default_batch_size
from pipeline.features.extractor import Extractor
from pipeline.features.options import EngineName

log = logging.getLogger(__name__)

ENGINES = get_args(EngineName)


class Engine(Protocol):
    """Runs one extractor, or several that differ only in layer, pooling and projection, in one pass.

    Attributes:
        name: "keras", "mnn", or for precision int8 "onnxruntime" or "openvino".
        device: What it runs on: "cpu", or devices as Keras names them, such as "gpu:0, gpu:1".
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


def make_engine(
    name: str, extractors: Sequence[Extractor], batch_size: int | None, cache: Path, device: str | None = None
) -> Engine:
    """Create an engine by name.

    Args:
        name: One of ENGINES. "auto" selects the engine of int8, Keras for other reduced precisions or on
            accelerators, and otherwise MNN (Keras if MNN is not installed).
        extractors: One extractor, or several with the same weights and precision.
        batch_size: Images in a batch; None leaves the choice to the engine.
        cache: The cache folder, where an engine may store converted networks.
        device: The devices to run on; see `pipeline.features.options.ExtractionOptions`.

    Returns:
        The engine, with its weights loaded.

    Raises:
        RequestError: The engine is unknown, does not support the precision or the device, or the weights cannot be
            read.
    """
    engine = _resolve(name, extractors, device)
    if engine == "int8":
        from pipeline.features.engines.int8 import Int8Engine

        return Int8Engine(extractors, batch_size, cache)
    if name != "mnn" and device is None and (gpu := unseen_gpu()):
        log.warning("%s. Features are computed on the processor, many times slower.", gpu)
    if engine == "mnn":
        from pipeline.features.engines.mnn import MnnEngine

        return MnnEngine(extractors, batch_size, cache)
    from pipeline.features.engines.keras import KerasEngine

    return KerasEngine(extractors, batch_size, chosen_devices(device))


def batches(
    name: str, extractors: Sequence[Extractor], batch_size: int | None, device: str | None = None
) -> tuple[int, int]:
    """The largest batch size, and the number of batches at a time, of an engine that is not created yet.

    Args:
        name: See `make_engine`, also for the other arguments.

    Raises:
        RequestError: See `make_engine`.
    """
    if _resolve(name, extractors, device) != "keras":
        return batch_size or BATCH_SIZE, 1
    devices = chosen_devices(device)
    return batch_size or default_batch_size(devices), batches_at_once(devices)


def ensure_weights(name: str, extractors: Sequence[Extractor], cache: Path, device: str | None = None) -> None:
    """Make sure that the weights of an engine are available: download them if necessary.

    Args:
        name: See `make_engine`.
        extractors: See `make_engine`.
        cache: See `make_engine`, also for `device`.

    Raises:
        RequestError: The engine is unknown, does not support the precision or the device, or is not installed.
        PipelineError: The weights cannot be downloaded.
    """
    engine = _resolve(name, extractors, device)
    if engine == "int8":
        from pipeline.features.engines import int8

        int8.check_installed()
        if int8.is_converted(extractors, cache):
            return
    if engine == "mnn":
        from pipeline.features.engines import mnn

        if mnn.is_converted(extractors, cache):
            return
    extractors[0].weights.fetch()


def check_engine(name: str, precision: str, device: str | None = None) -> None:
    """Refuse an engine that does not support a precision or a device.

    Args:
        name: See `make_engine`.
        precision: One of `pipeline.features.vgg.PRECISIONS`.
        device: See `make_engine`.

    Raises:
        RequestError: The engine is unknown, or does not support the precision or the device.
    """
    if name not in ENGINES:
        raise RequestError(f"engine {name!r} is unknown; choose from {', '.join(ENGINES)}.")
    if precision == "int8" and name != "auto":
        raise RequestError(
            f"The engine {name} does not compute in int8; leave engine out: ONNX Runtime or OpenVINO does."
        )
    if precision != "float32" and name == "mnn":
        raise RequestError(f"The engine mnn computes in float32 only; precision {precision!r} needs the engine keras.")
    if device not in (None, CPU) and (name == "mnn" or precision == "int8"):
        what = "precision int8" if precision == "int8" else "engine mnn"
        raise RequestError(f"The {what} runs only on the processor, not on {device}; leave {what.split()[0]} out.")


def _resolve(name: str, extractors: Sequence[Extractor], device: str | None) -> str:
    precision = extractors[0].precision
    check_engine(name, precision, device)
    if precision == "int8":
        return "int8"
    if name != "auto":
        return name
    on_cpu = device == CPU or (device is None and not accelerators())
    return "mnn" if on_cpu and precision == "float32" and find_spec("MNN") else "keras"
