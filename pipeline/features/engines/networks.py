"""Networks converted for an engine, kept beside the feature stores: VGG16 is converted once for given weights.

A conversion runs in a process of its own, whose memory is freed with it, and in a folder of its own; the finished
network is renamed into place under the digest of its content. So a damaged network is recognised and converted again,
and one that is half written is never used.
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

from filelock import FileLock, Timeout

from pipeline.core.atomic import UNFINISHED
from pipeline.core.child_processes import blocked, end_with_parent, start_spawned
from pipeline.core.errors import Interrupted, PipelineError, cause
from pipeline.core.freed_memory import keep_freed_memory
from pipeline.features.engines.onnx_graph import write_onnx
from pipeline.features.vgg16 import deepest
from pipeline.features.weights import Weights, weights_from

log = logging.getLogger(__name__)

KEPT_MEMORY = 2**30  # bytes; more than the weights of VGG16, which a conversion copies several times


@dataclass(frozen=True)
class Conversion:
    """How VGG16 becomes the network that an engine runs. Its functions belong to a module: they run elsewhere, too.

    Attributes:
        target: What VGG16 is converted to, for messages.
        suffix: How the names of such networks end.
        names: From layers to the names of the networks that have them as outputs, the one to convert first.
        convert: From an `.onnx` file to a network beside it.
        weight_size: The bytes of a weight in the network; a smaller file was cut short by a full disk.
        duration: About how long it takes, for messages.
        space: The disk space that it takes and leaves, for messages.
        memory: The memory that it needs, for messages.
        alternative: What needs no conversion, for messages.
    """

    target: str
    suffix: str
    names: Callable[[Sequence[str]], list[str]]
    convert: Callable[[Path, Path], None]
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
        cache: The cache folder; networks are kept in `networks/` below it.
        conversion: What to convert it to.

    Returns:
        The network's file, its content checked.

    Raises:
        PipelineError: The weights cannot be read, or the network cannot be converted or written.
        Interrupted: Ctrl-C or SIGTERM came during the conversion.
    """
    folder = cache / "networks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if network := _intact_network(folder, weights, layers, conversion):
            return network
        with _turn(folder / "converting.lock", conversion):
            # Another process may have converted it while this one waited.
            network = _intact_network(folder, weights, layers, conversion)
            return network or _convert(folder, weights, layers, conversion)
    except OSError as error:
        raise PipelineError(
            f"The converted network cannot be stored in {folder} ({cause(error)}); conversion takes "
            f"{conversion.space}. Choose another cache folder, or use {conversion.alternative}."
        ) from error


@contextmanager
def _turn(file: Path, conversion: Conversion) -> Iterator[None]:
    """A lock that one process holds at a time; the others say that they wait."""
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
    """Whether there is a converted network, be it intact or not; the arguments are those of `converted_network`."""
    return any(_files(cache / "networks", weights, layers, conversion))


def _files(folder: Path, weights: Weights, layers: Sequence[str], conversion: Conversion) -> list[Path]:
    """The converted networks that have the layers, whatever their content, the best first."""
    found = list(folder.glob(f"*{conversion.suffix}"))
    names = [f"{weights.digest}-{name}" for name in conversion.names(layers)]
    return [file for name in names for file in found if _parts(file, conversion)[0] == name]


def _parts(file: Path, conversion: Conversion) -> tuple[str, str]:
    """The name of a network, and the digest of its content when it was written."""
    name, _, digest = file.name.removesuffix(conversion.suffix).rpartition("-")
    return name, digest


def _intact_network(folder: Path, weights: Weights, layers: Sequence[str], conversion: Conversion) -> Path | None:
    """A network whose content is what was written, if there is one."""
    files = _files(folder, weights, layers, conversion)
    return next((file for file in files if _parts(file, conversion)[1] == _digest(file)), None)


def _digest(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def _convert(folder: Path, weights: Weights, layers: Sequence[str], conversion: Conversion) -> Path:
    """Convert while this process holds the lock; returns the network's file in `folder`."""
    name = f"{weights.digest}-{conversion.names(layers)[0]}"
    for damaged in _files(folder, weights, layers, conversion):
        if _parts(damaged, conversion)[0] == name:
            log.warning("The converted network %s is damaged; it is converted again.", damaged)
            damaged.unlink()
    left = list(folder.glob(f"{UNFINISHED}*"))  # by a process that was killed
    for each in left:
        shutil.rmtree(each, ignore_errors=True)
    weights.fetch()
    again = "again, for an earlier conversion was killed" if left else "once for these weights"
    log.info("Converting VGG16 for %s, %s (%s).", conversion.target, again, conversion.duration)
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as unfinished:
        network = _convert_elsewhere(weights, layers, Path(unfinished).absolute(), conversion)
        file = folder / f"{name}-{_digest(network)}{conversion.suffix}"
        os.replace(network, file)
    return file


def _convert_elsewhere(weights: Weights, layers: Sequence[str], folder: Path, conversion: Conversion) -> Path:
    """Convert in a process of its own, which is over when this function is; returns the network's file in `folder`."""
    context = multiprocessing.get_context("spawn")  # neither TensorFlow nor Lance survives a fork
    connection, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run_conversion, args=(theirs, weights.name, layers, folder, conversion))
    try:
        with blocked(signal.SIGINT):
            start_spawned(process)
        theirs.close()  # so that the end of the process is the end of the pipe
        outcome = connection.recv()
    except EOFError as error:
        raise PipelineError(
            f"The conversion for {conversion.target} was killed, possibly out of memory (it needs about "
            f"{conversion.memory}). To do without it, use {conversion.alternative}."
        ) from error
    except KeyboardInterrupt as interrupt:
        raise Interrupted(
            f"Interrupted while VGG16 was converted for {conversion.target}. The same command resumes; it converts "
            f"again ({conversion.duration})."
        ) from interrupt
    finally:
        if process.pid:
            process.kill()
            process.join()
        connection.close()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _run_conversion(
    connection: Connection, weights: str, layers: Sequence[str], folder: Path, conversion: Conversion
) -> None:
    """In the process: send the network's file, or the error. Ctrl-C is the parent's business, which ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    keep_freed_memory(KEPT_MEMORY)
    try:
        graph, network = folder / "vgg16.onnx", folder / f"vgg16{conversion.suffix}"
        arrays = weights_from(weights).read(deepest(layers))
        os.chdir(folder)  # converters write temporary files to the working directory or that of `tempfile`
        tempfile.tempdir = str(folder)
        write_onnx(arrays, layers, graph)
        count = sum(kernel.size + bias.size for kernel, bias in arrays.values())
        del arrays
        conversion.convert(graph, network)
        if not network.is_file() or network.stat().st_size < conversion.weight_size * count:
            raise PipelineError(
                f"The conversion for {conversion.target} wrote no whole network; is the disk full? To do without it, "
                f"use {conversion.alternative}."
            )
        connection.send(network)
    except Exception as error:
        connection.send(error)
