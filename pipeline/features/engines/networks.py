"""Networks converted for engines, cached next to the feature stores: VGG16 is converted once for each set of weights.

A conversion runs in a separate process, to free its memory, and in a separate folder; the finished network is renamed
to its final name, which includes the digest of its content. So a damaged network is detected and converted again, and
a partly written one is never used.
"""

import hashlib
import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from pipeline.core.atomic import UNFINISHED
from pipeline.core.child_processes import blocked, end_with_parent, start_spawned
from pipeline.core.errors import PipelineError, cause, interrupted_with
from pipeline.core.machine import keep_freed_memory
from pipeline.features.engines.onnx_graph import write_onnx
from pipeline.features.vgg import Network
from pipeline.features.weights import Weights

log = logging.getLogger(__name__)

KEPT_MEMORY = 2**30  # bytes; more than the weights of VGG16, which a conversion copies repeatedly


@dataclass(frozen=True)
class Conversion:
    """The conversion of VGG16 for an engine. Its functions must be module-level, so that they can be pickled.

    Attributes:
        target: The target of the conversion, for messages.
        suffix: The suffix of converted networks.
        names: Function from network and layers to the names of converted networks with these outputs, the one to
            convert first.
        convert: Function that converts an `.onnx` file to a network next to it; its last argument is the mean
            to subtract from BGR pixels.
        weight_size: Bytes per weight in the network; a smaller file was truncated by a full disk.
        duration: The approximate duration, for messages.
        space: The disk space for the conversion and for its result, for messages.
        memory: The memory that it needs, for messages.
        alternative: An alternative without conversion, for messages.
    """

    target: str
    suffix: str
    names: Callable[[Network, Sequence[str]], list[str]]
    convert: Callable[[Path, Path, np.ndarray], None]
    weight_size: int
    duration: str
    space: str
    memory: str
    alternative: str


def converted_network(weights: Weights, layers: Sequence[str], cache: Path, conversion: Conversion) -> Path:
    """Find the converted network, or convert it.

    Args:
        weights: VGG16's weights.
        layers: The layers that are its outputs.
        cache: The cache folder; networks are stored in its subfolder `networks`.
        conversion: The conversion.

    Returns:
        The network's file, with its content checked.

    Raises:
        PipelineError: The weights cannot be read, or the network cannot be converted or written.
        Interrupted: Ctrl-C or SIGTERM arrived during the conversion.
    """
    folder = cache / "networks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if network := _intact_network(folder, weights, layers, conversion):
            return network
        with _lock(folder / "converting.lock", conversion):
            # Another process may have converted it while this one waited.
            network = _intact_network(folder, weights, layers, conversion)
            return network or _convert(folder, weights, layers, conversion)
    except OSError as error:
        raise PipelineError(
            f"The converted network cannot be stored in {folder} ({cause(error)}); conversion takes "
            f"{conversion.space}. Choose another cache folder, or use {conversion.alternative}."
        ) from error


@contextmanager
def _lock(file: Path, conversion: Conversion) -> Iterator[None]:
    """A lock that one process holds at a time; a process that has to wait logs it."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("Waiting for another process that converts VGG16 (%s).", conversion.duration)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_converted(weights: Weights, layers: Sequence[str], cache: Path, conversion: Conversion) -> bool:
    """Whether there is a converted network, intact or not; the arguments are those of `converted_network`."""
    return any(_files(cache / "networks", weights, layers, conversion))


def _files(folder: Path, weights: Weights, layers: Sequence[str], conversion: Conversion) -> list[Path]:
    """The converted networks with these layers, intact or not, best first."""
    files = list(folder.glob(f"*{conversion.suffix}"))
    names = [f"{weights.digest}-{name}" for name in conversion.names(weights.network, layers)]
    return [file for name in names for file in files if _parts(file, conversion)[0] == name]


def _parts(file: Path, conversion: Conversion) -> tuple[str, str]:
    """The name of a network, and the digest of its content when it was written."""
    name, _, digest = file.name.removesuffix(conversion.suffix).rpartition("-")
    return name, digest


def _intact_network(folder: Path, weights: Weights, layers: Sequence[str], conversion: Conversion) -> Path | None:
    """A converted network with unchanged content, or None."""
    files = _files(folder, weights, layers, conversion)
    return next((file for file in files if _parts(file, conversion)[1] == _digest(file)), None)


def _digest(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def _convert(folder: Path, weights: Weights, layers: Sequence[str], conversion: Conversion) -> Path:
    """Convert while this process holds the lock; returns the network's file in `folder`."""
    name = f"{weights.digest}-{conversion.names(weights.network, layers)[0]}"
    for damaged in _files(folder, weights, layers, conversion):
        if _parts(damaged, conversion)[0] == name:
            log.warning("The converted network %s is damaged; it is converted again.", damaged)
            damaged.unlink()
    leftovers = list(folder.glob(f"{UNFINISHED}*"))  # of killed processes
    for leftover in leftovers:
        shutil.rmtree(leftover, ignore_errors=True)
    weights.fetch()
    again = "again, for an earlier conversion was killed" if leftovers else "once for these weights"
    log.info("Converting %s for %s, %s (%s).", weights.network.title, conversion.target, again, conversion.duration)
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as unfinished:
        network = _convert_in_process(weights, layers, Path(unfinished).absolute(), conversion)
        file = folder / f"{name}-{_digest(network)}{conversion.suffix}"
        os.replace(network, file)
    return file


def _convert_in_process(weights: Weights, layers: Sequence[str], folder: Path, conversion: Conversion) -> Path:
    """Convert in a process that ends with this function; returns the network's file in `folder`."""
    context = multiprocessing.get_context("spawn")  # neither TensorFlow nor Lance survives a fork
    connection, child_end = context.Pipe(duplex=False)
    process = context.Process(target=_run_conversion, args=(child_end, weights, layers, folder, conversion))
    interrupted = (
        f"Interrupted while VGG16 was converted for {conversion.target}. The same command resumes; it converts again "
        f"({conversion.duration})."
    )
    try:
        with interrupted_with(interrupted):
            with blocked(signal.SIGINT):
                start_spawned(process)
            child_end.close()  # so that the pipe ends when the process ends
            while isinstance(outcome := connection.recv(), logging.LogRecord):
                if log.isEnabledFor(outcome.levelno):
                    log.handle(outcome)
    except EOFError as error:
        raise PipelineError(
            f"The conversion for {conversion.target} was killed, possibly out of memory (it needs about "
            f"{conversion.memory}). To do without it, use {conversion.alternative}."
        ) from error
    finally:
        if process.pid:
            process.kill()
            process.join()
        connection.close()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


class _ToParent(logging.Handler):
    """Sends log records to the parent process."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = record.getMessage(), None
        self._connection.send(record)


def _run_conversion(
    connection: Connection, weights: Weights, layers: Sequence[str], folder: Path, conversion: Conversion
) -> None:
    """In the process: send the network's file, or the error. The parent handles Ctrl-C and ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    keep_freed_memory(KEPT_MEMORY)
    logger = logging.getLogger("pipeline")
    logger.addHandler(_ToParent(connection))
    logger.setLevel(logging.INFO)
    try:
        graph, network = folder / "vgg16.onnx", folder / f"vgg16{conversion.suffix}"
        arrays = weights.read(weights.network.deepest(layers))
        os.chdir(folder)  # converters write temporary files to the working directory or that of `tempfile`
        tempfile.tempdir = str(folder)
        write_onnx(weights.network, arrays, layers, graph)
        count = sum(kernel.size + bias.size for kernel, bias in arrays.values())
        del arrays
        conversion.convert(graph, network, weights.preprocessing.mean)
        if not network.is_file() or network.stat().st_size < conversion.weight_size * count:
            raise PipelineError(
                f"The conversion for {conversion.target} wrote no whole network; is the disk full? To do without it, "
                f"use {conversion.alternative}."
            )
        connection.send(network)
    except Exception as error:
        connection.send(error)
