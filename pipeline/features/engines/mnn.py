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
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from filelock import FileLock

from pipeline.core.atomic import UNFINISHED
from pipeline.core.child_processes import end_with_parent
from pipeline.core.cores import usable_cores
from pipeline.core.errors import PipelineError, RequestError, cause
from pipeline.core.keras_backend import quietly
from pipeline.features.engines.onnx_graph import bgr_planes, write_onnx
from pipeline.features.extractor import Extractor
from pipeline.features.weights import weights_from

log = logging.getLogger(__name__)

BATCH_SIZE = 8


class MnnEngine:
    """VGG16 by MNN. See `pipeline.features.engines.Engine`.

    Args:
        extractor: What to run.
        batch_size: Images in a batch; 8 unless given.
        cache: The cache folder; converted networks are kept in `networks/` below it.

    Raises:
        RequestError: MNN is not installed, or the precision is not float32.
        PipelineError: The network cannot be converted or stored.
    """

    name = "mnn"

    def __init__(self, extractor: Extractor, batch_size: int | None, cache: Path) -> None:
        if extractor.precision != "float32":
            raise RequestError(
                f"The engine mnn computes in float32 only; precision {extractor.precision!r} needs the engine keras."
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
        network = converted_network(extractor, cache)
        with quietly():
            # Kept as an attribute: the module does not keep its runtime alive.
            self._runtime = nn.create_runtime_manager(
                ({"backend": 0, "numThread": usable_cores(), "precision": "high"},)
            )
            self._network = nn.load_module_from_file(
                str(network), ["pixels"], ["features"], runtime_manager=self._runtime
            )

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Compute features; see `pipeline.features.engines.Engine`."""
        planes = bgr_planes(pixels)
        images = self._expr.const(planes, list(planes.shape), self._expr.NCHW, self._expr.float)
        return np.array(self._network.forward(images).read(), np.float32).reshape(len(pixels), -1)


def converted_network(extractor: Extractor, cache: Path) -> Path:
    """Find the converted network, or convert it.

    The file's name ends in the digest of its content, so a damaged file is recognised and converted again.

    Args:
        extractor: Weights and layer.
        cache: The cache folder.

    Returns:
        The `.mnn` file, its content checked.

    Raises:
        PipelineError: The weights cannot be read, or the network cannot be converted or written.
    """
    folder, name = _place(extractor, cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if network := _intact_network(folder, name):
            return network
        with FileLock(folder / "converting.lock"):
            if network := _intact_network(folder, name):  # another process converted it while this one waited
                return network
            for damaged in folder.glob(f"{name}-*.mnn"):
                log.warning("The converted network %s is damaged; it is converted again.", damaged)
                damaged.unlink()
            for left in folder.glob(f"{UNFINISHED}*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            extractor.weights.fetch()
            log.info("Converting VGG16 for MNN, once for these weights (30 to 60 s).")
            with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as unfinished:
                network = _convert(extractor, Path(unfinished).absolute())
                file = folder / f"{name}-{_digest(network)}.mnn"
                os.replace(network, file)
    except OSError as error:
        raise PipelineError(
            f"The converted network cannot be stored in {folder} ({cause(error)}); conversion takes up to 1.1 GB there "
            "and leaves 540 MB. Choose another cache folder, or use the engine keras."
        ) from error
    return file


def is_converted(extractor: Extractor, cache: Path) -> bool:
    """Whether there is a converted network, be it intact or not."""
    folder, name = _place(extractor, cache)
    return any(folder.glob(f"{name}-*.mnn"))


def _place(extractor: Extractor, cache: Path) -> tuple[Path, str]:
    """The folder of converted networks, and how the names of this one's files begin."""
    return cache / "networks", f"{extractor.weights.digest}-{extractor.layer}"


def _intact_network(folder: Path, name: str) -> Path | None:
    """The network of a name whose content is what was written, if there is one."""
    return next((file for file in folder.glob(f"{name}-*.mnn") if file.stem == f"{name}-{_digest(file)}"), None)


def _digest(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def _convert(extractor: Extractor, folder: Path) -> Path:
    """Convert in a process of its own, whose memory is freed with it; returns the network's file in `folder`."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _start_converter) as process:
        try:
            network = process.submit(_run_converter, extractor.weights.name, extractor.layer, folder).result()
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


def _run_converter(weights: str, layer: str, folder: Path) -> Path:
    graph, network = folder / "vgg16.onnx", folder / "vgg16.mnn"
    arrays = weights_from(weights).read(layer)
    os.chdir(folder)  # a conversion that is killed leaves a temporary file in the working directory
    write_onnx(arrays, layer, graph)
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
