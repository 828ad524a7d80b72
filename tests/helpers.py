"""Helpers of several test files: images made from seeds, target tables, commands in this process or another."""

import contextlib
import csv
import io
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from pipeline.core.machine import has_int8_instructions
from pipeline.data.images import TICK_NS, ImageRef
from pipeline.features.backends.slots import Slots
from pipeline.features.backends.worker_pool import WorkerPool
from pipeline.features.backends.worker_process import CHUNK, Decoded, shared_digests

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "tests" / "programs"
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
# The smallest layer, with weights that need no download.
SMALL = ("--weights", "random:0", "--layer", "block5_pool", "--quiet")
# Without VNNI, OpenVINO's 16-bit sums saturate; it is only chosen with AMX.
needs_vnni = pytest.mark.skipif(has_int8_instructions() is False, reason="this processor has no VNNI")


@dataclass(frozen=True)
class Finished:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out)


def environment_at(home: Path) -> dict[str, str]:
    """A user's environment: another home, and no variables that point to the real one or configure Python.

    Above all without PYTHONUNBUFFERED, which also turns off C's buffering and so changes the order of output.
    """
    others = ("XDG_", "KERAS_", "PYTHON", "TF_CPP")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return kept | {"HOME": str(home), "PYTHONPATH": str(ROOT)}


def run_main(arguments: Iterable[object], cwd: Path, variables: Mapping[str, str]) -> Finished:
    """Run a command in this process, so that libraries are imported once for all tests."""
    from pipeline.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    before, handlers = dict(os.environ), {number: signal.getsignal(number) for number in INTERRUPTS}
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["pipeline", *map(str, arguments)])
        patch.chdir(cwd)
        _set_environment(variables)
        try:
            main()
        except SystemExit as done:
            code = int(done.code or 0)
        finally:
            _set_environment(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            forget_messages()
    return Finished(code, out.getvalue(), err.getvalue())


def forget_messages() -> None:
    """Reset the package's logger to its state before a command."""
    logger = logging.getLogger("pipeline")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


def _set_environment(variables: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


def run_python(*command: object, cwd: Path = ROOT, **options: Any) -> Finished:
    """Run Python in a new process with these arguments: "-m", "pipeline", ..., or a file."""
    finished = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=600, **options
    )
    return Finished(finished.returncode, finished.stdout, finished.stderr)


def run_program(name: str, *arguments: object, **variables: str) -> Finished:
    """Run a program of `tests/programs`; it must succeed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "scripts")))} | variables
    return check_ended(run_python(PROGRAMS / f"{name}.py", *arguments, env=environment))


def check_ended(finished: Finished, code: int = 0) -> Finished:
    """Return the command; fail unless it ended with this exit code and no traceback."""
    assert finished.code == code, finished.err
    assert "Traceback" not in finished.err, finished.err
    return finished


def is_gone_soon(group: int) -> bool:
    """Whether all processes of a group end by themselves; the kernel cannot end one that waits for a busy disk."""
    for _ in range(1200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def processes_with(variable: str, value: str) -> list[psutil.Process]:
    """The processes with this value of an environment variable."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(variable) == value:
                processes.append(process)
    return processes


def has_ended(variable: str, value: str, seconds: float = 20) -> bool:
    """Whether all such processes end soon; see `processes_with`."""
    for _ in range(round(seconds * 5)):
        if not processes_with(variable, value):
            return True
        time.sleep(0.2)
    return False


def wait_until(condition: Callable[[], Any], process: subprocess.Popen) -> None:
    """Wait for a state of a running process; fail if the process ends first."""
    while not condition():
        assert process.poll() is None, f"ended too early: {process.communicate()}"
        time.sleep(0.002)


class CrashingRef(ImageRef):
    """An image that kills the process that reads it, like a bug in a decoder."""

    __slots__ = ()

    def read(self) -> tuple[bytes, str | None]:
        os.kill(os.getpid(), signal.SIGSEGV)
        raise AssertionError


def make_image(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    """A different image for each seed: smooth patches of colour plus noise."""
    random = np.random.default_rng(seed)
    patches = Image.fromarray(random.integers(0, 200, (5, 5, 3), np.uint8))
    smooth = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray((smooth * 0.8 + random.integers(0, 50, (height, width, 3))).astype(np.uint8))


def make_images(folder: Path, seeds: Iterable[int]) -> Path:
    """A folder with one image per seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        make_image(seed).save(folder / f"{seed:04}.png")
    return folder


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The content of an image file."""
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def write_targets(folder: Path, *labels: str, dim: int = 3) -> Path:
    """A table with one random target per label."""
    file = folder / "targets.csv"
    with open(file, "w", newline="") as opened:
        random = np.random.default_rng(0)
        csv.writer(opened).writerows([label, *random.normal(size=dim)] for label in labels)
    return file


def decoder_weights(run: str | Path, styles: Iterable[str] = ("functional", "sequential")) -> list[np.ndarray]:
    """The weights of the decoders of a run, read by plain Keras."""
    import keras

    return [array for style in styles for array in keras.models.load_model(Path(run) / f"{style}.keras").get_weights()]


def are_equal(ours: Iterable[np.ndarray], theirs: Iterable[np.ndarray]) -> bool:
    """Whether arrays are equal to the last bit."""
    return all(np.array_equal(*pair) for pair in zip(ours, theirs, strict=True))


def are_close(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether features, shape (N, F), differ at most by the rounding of other batches: 1e-3 of their length."""
    return bool((np.linalg.norm(ours - theirs, axis=1) < 1e-3 * np.linalg.norm(theirs, axis=1)).all())


def load_npz(file: Path) -> dict[str, np.ndarray]:
    """Load all arrays of an `.npz`, and close it."""
    with np.load(file) as saved:
        return dict(saved)


def wait_for_tick(*folders: Path) -> None:
    """Wait until the files in folders are old enough for the file index to record them."""
    newest = max(file.stat().st_ctime for folder in folders for file in [folder, *folder.rglob("*")])
    time.sleep(max(0.0, newest + TICK_NS / 1e9 + 0.05 - time.time()))


@contextlib.contextmanager
def no_file_descriptors() -> Iterator[None]:
    """Prevent this process from opening more files, as if it had too many open."""
    limits, kept = resource.getrlimit(resource.RLIMIT_NOFILE), []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 8, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                kept.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for each in kept:
            os.close(each)


def decode_ahead(
    refs: Sequence[ImageRef],
    numbers: Sequence[int],
    stored: np.ndarray,
    slots: Slots,
    workers: int,
    max_pixels: int,
    suspects: Sequence[int] = (),
) -> Generator[Decoded, None, None]:
    """Decode images in a pool of their own; see `WorkerPool.decode`."""
    count = min(workers, max(1, -(-len(numbers) // CHUNK)))
    with contextlib.closing(WorkerPool(count, shared_digests(stored), slots, max_pixels, "squash")) as pool:
        yield from pool.decode(refs, numbers, suspects)
