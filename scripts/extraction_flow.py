"""The overhead of `extract`, measured with engines that compute nothing; parts of benchmark_extraction.py.

`pipeline` compares `extract` with the decoding rate of the processors, and with an engine of fixed latency. `driver`
measures the main process alone, with the rate of eight fast devices. `scale` measures a second `extract` over many
unchanged images.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from unittest.mock import patch

import numpy as np
from measuring import table

from pipeline.core.machine import usable_cores
from pipeline.data.decoding import THUMBNAIL, decode
from pipeline.data.images import DIGEST, ImageRef, ImageSet, content_digest, file_ref
from pipeline.data.sources import find_images
from pipeline.features import extraction
from pipeline.features.backends import local
from pipeline.features.backends.slots import Slots
from pipeline.features.backends.worker_process import CHUNK, Decoded
from pipeline.features.engines.devices import IN_FLIGHT
from pipeline.features.extraction import extract_features
from pipeline.features.extractor import Extractor
from pipeline.features.file_index import FileIndex
from pipeline.features.options import ExtractionOptions
from pipeline.features.store import FeatureStore
from pipeline.features.weights import weights_from

SCRIPTS = Path(__file__).resolve().parent
EXTRACTOR = Extractor(weights_from("random:0"))
SMALL_LAYER = Extractor(
    weights_from("random:0"), "block5_pool"
)  # a second run reads no vectors, so a small layer is enough
BATCHES = (8, 32, 128)
MAIN_MILLISECONDS = 0.1  # the goal for the main process, per image
# `python -m pipeline`, which then prints its peak memory.
WITH_PEAK = """
import sys
from measuring import peak_memory
from pipeline.cli import main
try:
    main()
finally:
    print(peak_memory(), file=sys.stderr)
"""
MILLION_SECONDS, IMAGE_BYTES = 25, 500  # the goals of a second run


class IdleEngine:
    """An engine that waits without holding the GIL and returns constants.

    Args:
        batch_size: Images per batch.
        seconds: Seconds per batch, on one device.
        devices: The number of devices; each has two batches in flight if there are several.
    """

    name = "idle"
    device = "cpu"

    def __init__(self, batch_size: int, seconds: float = 0.0, devices: int = 1) -> None:
        self.batch_size, self._seconds = batch_size, seconds
        self._features = np.zeros((batch_size, EXTRACTOR.dim), np.float32)
        self.began = 0.0  # processor time of the main process at the first batch
        self._devices: SimpleQueue[Lock] = SimpleQueue()
        self.at_once = IN_FLIGHT * devices if devices > 1 else 1
        locks = [Lock() for _ in range(devices)]
        for number in range(self.at_once):
            self._devices.put(locks[number % devices])

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Return constants; see `pipeline.features.engines.Engine`."""
        self.began = self.began or time.process_time()
        device = self._devices.get()
        with device:
            time.sleep(self._seconds)
        self._devices.put(device)
        return [self._features]


class ReadyPool:
    """A pool whose workers finish at once: it returns images in slots without reading or decoding them.

    The arguments are those of `pipeline.features.backends.worker_pool.WorkerPool`.
    """

    def __init__(self, count: int, stored: object, slots: Slots, max_pixels: int, resize: str) -> None:
        self._slots = slots

    def decode(
        self, refs: Sequence[ImageRef], numbers: Sequence[int], suspects: Sequence[int] = ()
    ) -> Iterator[Decoded]:
        """Return images with different digests; see `WorkerPool.decode`."""
        for at in range(0, len(numbers), CHUNK):
            chunk = numbers[at : at + CHUNK]
            self._slots.wait_for(len(chunk))
            for number, slot in zip(chunk, self._slots.take(len(chunk)), strict=True):
                yield Decoded(number, slot, b"%016d" % number, f"version of {number}", True, 500 * 375)

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Flow:
    """Measurements of `extract` with an idle engine.

    Attributes:
        rate: Images a second, excluding start-up.
        main_milliseconds: Time of the main process per image, excluding start-up.
    """

    rate: float
    main_milliseconds: float


def flow(images: ImageSet, engine: IdleEngine, work: Path) -> Flow:
    """Run `extract` with an idle engine, into a new store."""
    options = ExtractionOptions(batch_size=engine.batch_size, cache=Path(tempfile.mkdtemp(dir=work)), progress=False)
    with (
        patch.object(local, "make_engine", lambda *_: engine),
        patch.object(local, "batches", lambda *_: (engine.batch_size, engine.at_once)),
        patch.object(extraction, "ensure_weights", lambda *_: None),
    ):
        features = extract_features(images, EXTRACTOR, options)
    used = time.process_time() - engine.began
    assert features.computed == len(images)
    return Flow(len(images) / (features.seconds - features.seconds_starting), 1000 * used / len(images))


def driver(work: Path, count: int = 64_000, devices: int = 8, rate: int = 2_000, batch: int = 256) -> Flow:
    """The main process alone: images that need no decoding, through simulated devices, into the store.

    Args:
        work: A folder for the store.
        count: The number of images.
        devices: The number of devices.
        rate: Images a second of a device.
        batch: Images in a batch.
    """
    names = [f"{number:07}.jpg" for number in range(count)]
    images = ImageSet("nowhere", names, [file_ref(work / name) for name in names], [""] * count)
    with patch.object(local, "WorkerPool", ReadyPool):
        result = flow(images, IdleEngine(batch, batch / rate, devices), work)
    goal = devices * rate
    name = f"{devices} simulated devices of {rate:,} images a second, batch {batch}, no decoding"
    row = (name, f"{result.rate:,.0f}", f"{result.rate / goal:.2f}", f"{result.main_milliseconds:.3f}")
    table(("the main process alone", "images a second", "against the devices", "ms per image"), [row])
    return result


def decode_rate(images: ImageSet, processes: int) -> float:
    """Images a second that all processes together read and decode, without the rest of the pipeline."""
    parts = [[ref.uri for ref in images.refs[number::processes]] for number in range(processes)]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        list(pool.map(_decode_all, [part[:8] for part in parts]))  # starts the processes
        return sum(pool.map(_decode_all, parts))


def _decode_all(files: Sequence[str]) -> float:
    start = time.perf_counter()
    for file in files:
        decode(Path(file).read_bytes())
    return len(files) / (time.perf_counter() - start)


def pipeline(work: Path, rounds: int, photographs: Callable[..., Path]) -> None:
    """`extract` with an engine that takes no time, and with an engine of fixed latency.

    Args:
        work: A folder for images and stores.
        rounds: Measured rounds.
        photographs: Writes images: folder, count, size -> the folder.
    """
    rows = []
    for size, count, goal in (((500, 375), 3000, 0.9), ((32, 32), 10_000, 0.75)):
        images = find_images(photographs(work / f"flow{size[0]}", count, size))
        rows += _flow_rows(images, f"{count:,} JPEGs of {size[0]} x {size[1]}", goal, work, rounds)
    table(("images", "engine", "images a second", "against", "goal", "main process, ms per image (goal 0.1)"), rows)


def _flow_rows(images: ImageSet, name: str, goal: float, work: Path, rounds: int) -> list[Sequence[str]]:
    cores = usable_cores()
    decoding: list[float] = []
    free: dict[int, list[Flow]] = {batch: [] for batch in BATCHES}
    for _ in range(rounds):
        for batch in BATCHES:
            decoding.append(decode_rate(images, cores))
            free[batch].append(flow(images, IdleEngine(batch), work))
    possible = statistics.median(decoding)
    rows: list[Sequence[str]] = [(name, f"none: {cores} processes decode", f"{possible:.0f}", "", "", "")]
    for batch, flows in free.items():
        rate, used = _medians(flows)
        rows.append(
            (name, f"free, batch {batch}", f"{rate:.0f}", f"{rate / possible:.2f} of decoding", str(goal), used)
        )
    for batch, flows in free.items():
        seconds = batch / (0.7 * _medians(flows)[0])  # the engine is the bottleneck
        rate, used = _medians([flow(images, IdleEngine(batch, seconds), work) for _ in range(rounds)])
        against = f"{rate * seconds / batch:.3f} of the engine"
        rows.append((name, f"{1000 * seconds:.0f} ms for a batch of {batch}", f"{rate:.0f}", against, "0.95", used))
    return rows


def _medians(flows: Sequence[Flow]) -> tuple[float, str]:
    rate = statistics.median(result.rate for result in flows)
    return rate, f"{statistics.median(result.main_milliseconds for result in flows):.3f}"


def scale(work: Path, counts: tuple[int, int] = (100_000, 200_000)) -> dict[str, float]:
    """Time and memory of a second `extract`, by the number of images, and extrapolated to a million.

    Args:
        work: A folder for the images and stores.
        counts: A smaller and a larger number of images.

    Returns:
        bytes_per_image and seconds_at_a_million.
    """
    measured = [_second_run(work / str(count), count) for count in counts]
    rows = [
        (f"second `extract`, {count:,} images", f"{seconds:.1f} s, {memory / 1e6:.0f} MB", "")
        for count, (seconds, memory) in zip(counts, measured, strict=True)
    ]
    (less, low), (more, high) = measured
    step = counts[1] - counts[0]
    result = {
        "bytes_per_image": (high - low) / step,
        "seconds_at_a_million": more + (more - less) / step * (1e6 - counts[1]),
    }
    rows.append(("at a million images", f"{result['seconds_at_a_million']:.0f} s", f"{MILLION_SECONDS} s"))
    rows.append(("memory per additional image", f"{result['bytes_per_image']:.0f} bytes", f"{IMAGE_BYTES} bytes"))
    table(("`extract` of stored images", "measured", "goal"), rows)
    return result


def _second_run(work: Path, count: int) -> tuple[float, int]:
    """Median seconds and largest peak memory, in bytes, of three runs of a command."""
    folder, cache = work / "images", work / "cache"
    fill(folder, cache, count)
    command = [sys.executable, "-c", WITH_PEAK, "extract", str(folder), "--weights", "random:0", "--quiet", "--json"]
    seconds, memory = [], 0
    for _ in range(3):
        start = time.perf_counter()
        layer = ("--layer", SMALL_LAYER.layer, "--cache", str(cache))
        ended = subprocess.run([*command, *layer], capture_output=True, check=True, cwd=SCRIPTS)
        seconds.append(time.perf_counter() - start)
        result = json.loads(ended.stdout)
        assert (result["cached"], result["computed"]) == (count, 0)
        memory = max(memory, int(ended.stderr))
    return statistics.median(seconds), memory


def fill(folder: Path, cache: Path, count: int) -> None:
    """Write files that are not images, and a store and a file index with their entries, as after a first `extract`."""
    folder.mkdir(parents=True)
    store, index = FeatureStore(cache, SMALL_LAYER), FileIndex(cache)
    random = np.random.default_rng(0)
    for start in range(0, count, 10_000):
        entries = []
        for number in range(start, min(start + 10_000, count)):
            subfolder = folder / f"{number // 1000:04}"
            subfolder.mkdir(exist_ok=True)
            file = subfolder / f"{number:07}.jpg"
            file.write_bytes(str(number).encode())
            os.utime(file, (0, 0))  # files younger than two seconds have no version
            ref = file_ref(file)
            entries.append((ref, ref.version() or "", content_digest(str(number).encode())))
        index.record(entries)
        digests = np.frombuffer(b"".join(digest for *_, digest in entries), DIGEST)
        vectors = random.random((len(entries), SMALL_LAYER.dim), np.float32)
        store.append(
            digests, vectors, np.zeros((len(entries), THUMBNAIL, THUMBNAIL), np.uint8), np.ones(len(entries), int)
        )
    index.close()
