"""The backend on this machine: while the engine runs on a batch, worker processes decode the next ones.

    images ─ workers: read, decode ─ slots ─ batches ─ engine (a thread, two for each GPU) ─ results

Batches are filled in path order, regardless of the order in which workers finish, so a killed run resumes with the
batches of an uninterrupted one.
"""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from pipeline.data.decoding import THUMBNAIL
from pipeline.data.images import ImageSet
from pipeline.features.backends import Backend, Result
from pipeline.features.backends.slots import Slots
from pipeline.features.backends.worker_pool import WorkerPool
from pipeline.features.backends.worker_process import CHUNK, CHUNKS_AHEAD, Decoded, shared_digests
from pipeline.features.engines import Engine, batches, make_engine
from pipeline.features.engines.advice import advise_faster
from pipeline.features.engines.devices import CPU
from pipeline.features.extractor import Extractor, total_dim
from pipeline.features.options import ExtractionOptions
from pipeline.features.store_group import StoreGroup

log = logging.getLogger(__name__)

SPARE_BATCHES = 3  # one is being filled, and two wait, so that no device has to
LONG, VERY_LONG = 30, 600  # seconds; longer computations are announced, or announced with advice


class LocalBackend(Backend):
    """Decodes in worker processes, and computes in threads of this process.

    Args:
        extractors: The extractors to run.
        options: How to run them.
    """

    def __init__(self, extractors: Sequence[Extractor], options: ExtractionOptions) -> None:
        self._extractors, self._options = extractors, options

    def results(
        self, images: ImageSet, unknown: Sequence[int], suspects: Sequence[int], stores: StoreGroup
    ) -> Generator[list[Result], None, None]:
        """See `Backend`."""
        computing: _Computing | None = None
        to_compute: set[bytes] = set()
        forecast = Forecast(len(unknown) + len(suspects), self._extractors, stores)
        with contextlib.ExitStack() as stack:
            slots = Slots(self._slot_count())
            pool = stack.enter_context(contextlib.closing(self._worker_pool(len(unknown), slots, stores)))
            for image in pool.decode(images.refs, unknown, suspects):
                if not image.is_new or image.digest in to_compute or stores.has_arrived(image.digest):
                    slots.give_back([image.slot])
                    forecast.remaining -= 1
                    yield [Result(image)]
                else:
                    to_compute.add(image.digest)
                    if computing is None:
                        computing = stack.enter_context(contextlib.closing(self._computing(slots, forecast)))
                    computing.add(image)
                    self.started_at = computing.started_at
                if computing:
                    yield from computing.finished()
            if computing:
                computing.submit()
                self.started_at = computing.started_at
                yield from computing.all()

    def _slot_count(self) -> int:
        options = self._options
        batch, at_once = batches(options.engine, self._extractors, options.batch_size, options.device)
        in_work = options.worker_count * CHUNK * CHUNKS_AHEAD
        return batch * (at_once + SPARE_BATCHES + -(-in_work // batch))  # whole batches: their slots stay adjacent

    def _worker_pool(self, images: int, slots: Slots, stores: StoreGroup) -> WorkerPool:
        workers = min(self._options.worker_count, max(1, -(-images // CHUNK)))
        known, resize = shared_digests(stores.digests), self._extractors[0].resize
        return WorkerPool(workers, known, slots, self._options.max_pixels, resize)

    def _computing(self, slots: Slots, forecast: "Forecast") -> "_Computing":
        options = self._options
        engine = make_engine(options.engine, self._extractors, options.batch_size, options.folder, options.device)
        self.engine, self.device = engine.name, engine.device
        return _Computing(engine, slots, forecast)


class _Computing:
    """Runs an engine on batches, in threads; `submit`, `finished` and `all` are called from one thread.

    Attributes:
        started_at: When the first batch was submitted, by `time.monotonic`; None before that.
    """

    def __init__(self, engine: Engine, slots: Slots, forecast: "Forecast") -> None:
        self.started_at: float | None = None
        self._engine, self._slots, self._forecast = engine, slots, forecast
        self._threads = ThreadPoolExecutor(engine.at_once, "engine")
        self._batch: list[Decoded] = []
        self._batches: deque[Future[list[Result]]] = deque()

    def add(self, image: Decoded) -> None:
        """Add an image to the batch; submit the batch when it is full."""
        self._batch.append(image)
        if len(self._batch) == self._engine.batch_size:
            self.submit()

    def submit(self) -> None:
        """Submit the batch, full or not."""
        if self._batch:
            self.started_at = self.started_at or time.monotonic()
            self._batches.append(self._threads.submit(self._compute, self._batch))
            self._batch = []

    def _compute(self, batch: Sequence[Decoded]) -> list[Result]:
        slots = [image.slot for image in batch]
        try:
            features = self._engine(self._slots.batch(slots, self._engine.batch_size))
            return list(map(Result, batch, zip(*features, strict=True), self._slots.thumbnails[slots]))
        finally:
            self._slots.give_back(slots)

    def finished(self) -> Iterator[list[Result]]:
        """The results of finished batches, in the order of submission.

        Raises:
            Exception: The error of a batch.
        """
        while self._batches and self._batches[0].done():
            results = self._batches.popleft().result()
            self._forecast.note(len(results), self._engine)
            yield results

    def all(self) -> Iterator[list[Result]]:
        """The results of all batches; see `finished`."""
        while self._batches:
            wait([self._batches[0]])
            yield from self.finished()

    def close(self) -> None:
        """End the threads, and drop the batches that have not begun."""
        self._threads.shutdown(cancel_futures=True)


class Forecast:
    """Logs how much time and disk space a long computation will take, after the engine's second batch.

    If it takes much longer, also suggest a faster precision.

    Args:
        images: The number of images.
        extractors: The extractors that run.
        stores: Their stores.

    Attributes:
        remaining: The number of images without a result.
    """

    def __init__(self, images: int, extractors: Sequence[Extractor], stores: StoreGroup) -> None:
        self.remaining = images
        self._bytes, self._stores = 4 * total_dim(extractors) + THUMBNAIL**2, stores
        self._precision = extractors[0].precision
        self._batches, self._first = 0, 0.0

    def note(self, size: int, engine: Engine) -> None:
        """Note that the engine has computed a batch of `size` images."""
        now = time.monotonic()
        self.remaining -= size
        self._batches += 1
        if self._batches == 1:  # the first batch may have waited for a compiler
            self._first = now
        if self._batches != 1 + engine.at_once:  # the first batches end together
            return
        seconds = self.remaining * (now - self._first) / (engine.at_once * size)
        if seconds > LONG:
            log.info(
                "%d images to go: about %s, and %s in %s.",
                self.remaining,
                _duration(seconds),
                _size(self.remaining * self._bytes),
                self._stores.stores[0].path,
            )
        if seconds > VERY_LONG and engine.device == CPU:
            advise_faster(self._precision)


def _duration(seconds: float) -> str:
    """A duration in words, rounded like an estimate."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} seconds"
    return f"{minutes} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def _size(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
