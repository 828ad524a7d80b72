"""The computation of features: while the engine runs on a batch, the next one is formed and the previous one is stored.

images (main thread) ─ batches ─ engine (a thread, two on a GPU) ─ features ─ saver (a thread) ─ feature store
"""

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.data.decoding import THUMBNAIL
from pipeline.data.images import DIGEST
from pipeline.features.engines import Engine
from pipeline.features.ray_cluster import Fleet
from pipeline.features.slots import Slots
from pipeline.features.store_group import StoreGroup
from pipeline.features.workers import Decoded

log = logging.getLogger(__name__)

# Features are stored after this time or this many bytes, whichever comes first: committing each batch would take longer
# than a GPU needs to compute it. In a bucket the time is a multiple of this.
STORE_SECONDS = 1.0
STORE_BYTES = 2**25
LONG = 30  # seconds; longer computations are announced


@dataclass
class Computed:
    """The outcome of a computation.

    Attributes:
        count: The number of images computed.
        engine: The engine's name; None if there was nothing to compute.
        started_at: When the engine got its first batch, by `time.monotonic`; on Ray, when its first block came back.
        fleet: The actors, if it ran on Ray.
        not_finite: The digests of the images whose features have NaN or infinite values.
    """

    count: int = 0
    engine: str | None = None
    started_at: float = 0.0
    fleet: Fleet | None = None
    not_finite: Set[bytes] = frozenset()


class Saver:
    """Stores features in groups of batches; `save` and `flush` are called from one thread.

    Args:
        stores: The feature stores.
        dim: The dimension of all features of an image together.
        bar: The progress bar.

    Attributes:
        count: The number of images stored.
        not_finite: The digests of images whose features have NaN or infinite values and are not stored.
    """

    def __init__(self, stores: StoreGroup, dim: int, bar: Any) -> None:
        self.count = 0
        self.not_finite: set[bytes] = set()
        self._stores, self._dim, self._bar = stores, dim, bar
        self._gathered: list[tuple[Sequence[Decoded], list[np.ndarray], np.ndarray]] = []
        self._batches, self._first, self._stored = 0, 0.0, 0.0

    def save(
        self, batch: Sequence[Decoded], slots: Slots, computing: "Future[list[np.ndarray]]", at_once: int = 1
    ) -> None:
        """Wait for a batch's features and store them, at once or with later ones; see `add`.

        Args:
            batch: The images.
            slots: The slots with their thumbnails.
            computing: Their features, not yet computed.
            at_once: The number of batches computed at a time.
        """
        features = [array[: len(batch)] for array in computing.result()]
        self._announce(len(batch), at_once)
        self.add(batch, features, slots.thumbnails[[image.slot for image in batch]])

    def add(self, batch: Sequence[Decoded], features: list[np.ndarray], thumbnails: np.ndarray) -> None:
        """Store the finite features of images, at once or with later ones.

        Raises:
            PipelineError: The store cannot be written.
        """
        is_finite = np.logical_and.reduce([np.isfinite(array).all(axis=1) for array in features])
        if not is_finite.all():
            self.not_finite.update(batch[row].digest for row in np.flatnonzero(~is_finite).tolist())
            self._bar.update(int((~is_finite).sum()))
            batch = [batch[row] for row in np.flatnonzero(is_finite).tolist()]
            features, thumbnails = [array[is_finite] for array in features], thumbnails[is_finite]
        if not batch:
            return
        self._gathered.append((batch, features, thumbnails))
        now = time.monotonic()
        size = sum(len(images) for images, *_ in self._gathered) * self._dim * features[0].itemsize
        if now - self._stored >= STORE_SECONDS * self._stores.commit_cost or size >= STORE_BYTES:
            self.flush()
            self._stored = now

    def flush(self) -> None:
        """Store the gathered features.

        Raises:
            PipelineError: The store cannot be written.
        """
        if not self._gathered:
            return
        batches, features, thumbnails = zip(*self._gathered, strict=True)
        self._gathered = []
        images = list(itertools.chain.from_iterable(batches))
        self._stores.append(
            np.frombuffer(b"".join(image.digest for image in images), DIGEST),
            [np.concatenate(arrays) for arrays in zip(*features, strict=True)],
            np.concatenate(thumbnails),
            np.array([image.pixel_count for image in images]),
        )
        self.count += len(images)
        self._bar.update(len(images))

    def _announce(self, size: int, at_once: int) -> None:
        """After the engine's second batch, log the estimated time and disk space if the computation takes long."""
        now = time.monotonic()
        self._batches += 1
        if self._batches == 1:  # the first batch may have waited for a compiler
            self._first = now
        if self._batches != 1 + at_once:  # the first batches end together
            return
        remaining, seconds = self._bar.total - self._bar.n, (now - self._first) / (at_once * size)
        if remaining * seconds > LONG:
            log.info(
                "%d images to go: about %s, and %s in %s.",
                remaining,
                _duration(remaining * seconds),
                _size(remaining * (4 * self._dim + THUMBNAIL**2)),
                self._stores.stores[0].path,
            )


def compute(new: Iterator[Decoded], slots: Slots, make_engine: Callable[[], Engine], saver: Saver) -> Computed:
    """Run the engine on new images and store their features.

    Args:
        new: The images, decoded into slots.
        slots: The slots.
        make_engine: Makes the engine; called when the first image has arrived.
        saver: Stores the features.

    Returns:
        The outcome.

    Raises:
        PipelineError: The engine, the workers or the store failed. Features computed before are stored.
    """
    first = next(new, None)
    if first is None:
        return Computed()
    engine = make_engine()
    new = itertools.chain([first], new)
    computing, saving = ThreadPoolExecutor(engine.at_once, "engine"), ThreadPoolExecutor(1, "saver")
    started_at = 0.0
    try:
        for batch in iter(lambda: list(itertools.islice(new, engine.batch_size)), []):
            started_at = started_at or time.monotonic()
            slot_numbers = [image.slot for image in batch]
            features = computing.submit(engine, slots.batch(slot_numbers, engine.batch_size))
            slots.give_back_after(saving.submit(saver.save, batch, slots, features, engine.at_once), slot_numbers)
        slots.wait_for_all()
    finally:
        computing.shutdown(cancel_futures=True)
        saving.shutdown(cancel_futures=True)
        saver.flush()
    return Computed(saver.count, engine.name, started_at, not_finite=saver.not_finite)


def _duration(seconds: float) -> str:
    """A duration in words, rounded like an estimate."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} seconds"
    return f"{minutes} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def _size(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
