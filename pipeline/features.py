"""The cached feature stage: images -> features, computing only what the feature store lacks.

    files ─ unchanged? ─ read and decode (worker processes) ─ batches ─ engine ─ feature store (a thread)

Batches are filled in path order whatever worker finishes first, so vectors stay in step with their paths, and a run
that was killed goes on with the batches that an undisturbed one would have formed.
"""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import platformdirs
from tqdm import tqdm

from pipeline import images as image_files
from pipeline.cores import usable_cores
from pipeline.engines import ENGINES, Engine, make_engine
from pipeline.errors import ImageError, PipelineError, RequestError
from pipeline.fileindex import FileIndex, Stamp
from pipeline.images import MAX_PIXELS, SIDE, ImageSet, Record
from pipeline.store import FeatureStore
from pipeline.vgg16 import Extractor

CHUNK = 8  # images that a worker reads and decodes at a time
REPAIRS = 3  # how often what is damaged in the store is computed again
CHUNKS_AHEAD = 3  # chunks that wait, decoded or in work, for each worker


@dataclass(frozen=True)
class Computing:
    """How the feature stage runs; none of it changes the features beyond rounding.

    Attributes:
        engine: One of `pipeline.engines.ENGINES`.
        batch_size: Images in a batch; None leaves the choice to the engine.
        workers: Processes that read and decode; None means one for each usable core.
        cache: The folder of the feature stores.
        progress: Whether to show a progress bar on stderr.
        max_pixels: How many pixels an image may unpack to; larger ones are skipped.
    """

    engine: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    cache: Path = field(default_factory=lambda: platformdirs.user_cache_path("image-vectors"))
    progress: bool = True
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise RequestError(f"--engine {self.engine!r} is unknown; choose from {', '.join(ENGINES)}.")
        for option, value in (("--batch-size", self.batch_size), ("--workers", self.workers)):
            if value is not None and value < 1:
                raise RequestError(f"{option} must be at least 1, not {value}.")

    @property
    def worker_count(self) -> int:
        """The number of processes that read and decode."""
        return self.workers or usable_cores()


@dataclass(frozen=True)
class Failure:
    """An image that was skipped, and why."""

    path: str
    error: str


@dataclass
class Features:
    """What the feature stage knows of a set of images; the vectors themselves stay in the store.

    Attributes:
        store: The feature store.
        dim: F, the dimension of a feature.
        images: The images that have a feature, in path order.
        digests: Their content digests, in the same order.
        failed: The images that could not be read.
        computed: How many vectors were computed now.
        cached: How many images had their vector in the store already, or share it with a copy among them.
        seconds: How long the stage took.
        engine: The engine that computed, or None where nothing was left to compute.
    """

    store: FeatureStore
    dim: int
    images: ImageSet
    digests: list[str]
    failed: list[Failure] = field(default_factory=list)
    computed: int = 0
    cached: int = 0
    seconds: float = 0.0
    engine: str | None = None

    @property
    def paths(self) -> Sequence[str]:
        """The names of the images that have a feature."""
        return self.images.paths

    def take(self, rows: Sequence[int]) -> "Features":
        """The same knowledge of some of the images only, by row number."""
        return dataclasses.replace(self, images=self.images.take(rows), digests=[self.digests[row] for row in rows])

    def stored(self) -> "StoredFeatures":
        """The vectors, on disk until they are asked for."""
        return StoredFeatures(self.store, self.store.rows(self.digests), self.dim)

    def vectors(self) -> np.ndarray:
        """All vectors at once, shape (len(paths), dim), float32."""
        return self.stored()[:]


@dataclass(frozen=True)
class StoredFeatures:
    """Features on disk, read like an array: `stored[rows]`.

    Attributes:
        store: The feature store.
        rows: Where each feature is in it, shape (N,).
        dim: F, the dimension of a feature.
    """

    store: FeatureStore
    rows: np.ndarray
    dim: int

    @property
    def shape(self) -> tuple[int, int]:
        """(N, F)."""
        return len(self.rows), self.dim

    @property
    def nbytes(self) -> int:
        """What they would take in memory."""
        return len(self.rows) * self.dim * 4

    def subset(self, rows: np.ndarray) -> "StoredFeatures":
        """Some of the rows, still on disk."""
        return dataclasses.replace(self, rows=self.rows[rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.store.take(self.rows[rows])


def extract(images: ImageSet, extractor: Extractor, computing: Computing | None = None) -> Features:
    """Make sure that every image's feature is in the store.

    Images that cannot be read are skipped and reported; they change no other image's feature. Each batch is stored
    while the next one is computed: what is interrupted loses at most what was in flight.

    Args:
        images: The images.
        extractor: What turns them into features.
        computing: How to run it.

    Returns:
        The images with their digests, what was computed and what failed.

    Raises:
        PipelineError: No image could be read, or the store, the weights or a worker failed.
    """
    computing = computing or Computing()
    start = time.monotonic()
    store = FeatureStore(computing.cache, extractor)
    computed, engine = 0, None
    for _ in range(REPAIRS):
        survey, used = _fill(store, images, extractor, computing)
        computed, engine = computed + survey.computed, used or engine
        if not store.drop_damaged(list(survey.digests.values())):
            break
    else:
        raise PipelineError(f"The feature store {store.path} changes as soon as it is written; is the disk failing?")
    if computed:
        store.tidy()
    rows = [row for row, path in enumerate(images.paths) if path in survey.digests]
    if not rows:
        failure = survey.failed[0]
        raise PipelineError(
            f"None of the {len(images)} images of {images.source} could be read; "
            f"the first is {failure.path}: {failure.error}."
        )
    return Features(
        store=store,
        dim=extractor.dim,
        images=images.take(rows),
        digests=[survey.digests[images.paths[row]] for row in rows],
        failed=survey.failed,
        computed=computed,
        cached=len(rows) - computed,
        seconds=time.monotonic() - start,
        engine=engine,
    )


def _fill(
    store: FeatureStore, images: ImageSet, extractor: Extractor, computing: Computing
) -> tuple["_Survey", str | None]:
    """Compute what the store lacks; what was found, and the engine where one was needed."""
    with (
        contextlib.closing(FileIndex(computing.cache)) as index,
        tqdm(total=len(images), unit="image", desc="features", disable=None if computing.progress else True) as bar,
    ):
        survey = _Survey(images, store, index, bar)
        with contextlib.closing(_decode_ahead(survey.unknown, store.digests, computing)) as decoded:
            engine = _compute(survey.new(decoded), extractor, computing, survey)
        survey.record()
    return survey, engine


class _Survey:
    """Book-keeping of one extraction: which image has which content, and which contents are yet to be computed."""

    def __init__(self, images: ImageSet, store: FeatureStore, index: FileIndex, bar: tqdm) -> None:
        self.store, self.index, self.bar = store, index, bar
        self.digests: dict[str, str] = {}
        self.failed: list[Failure] = []
        self.computed = 0
        self.unknown: list[tuple[str, Path | Record]] = []
        self._read: list[tuple[Path, Stamp, str]] = []
        for path, file in zip(images.paths, images.files, strict=True):
            digest = file.digest if isinstance(file, Record) else index.digest(file)
            if digest in store:
                self.digests[path] = digest
                bar.update()
            else:
                self.unknown.append((path, file))

    def new(self, decoded: Iterator["Decoded"]) -> Iterator["Decoded"]:
        """Enter each image as it comes; pass on those whose feature is to be computed, one of several copies only."""
        scheduled: set[str] = set()
        for image in decoded:
            if image.error:
                self.failed.append(Failure(image.path, image.error))
            else:
                self.digests[image.path] = image.digest
                if image.stamp:
                    self._read.append((image.file, image.stamp, image.digest))
            # Another process may have stored it meanwhile.
            if image.pixels is not None and image.digest not in scheduled and image.digest not in self.store:
                scheduled.add(image.digest)
                yield image
            else:
                self.bar.update()

    def save(self, batch: Sequence["Decoded"], features: np.ndarray) -> None:
        """Store a batch's features."""
        thumbnails = np.stack([image_files.thumbnail(image.pixels) for image in batch])
        self.store.append([image.digest for image in batch], features, thumbnails)
        self.computed += len(batch)
        self.bar.update(len(batch))

    def record(self) -> None:
        """Let the next run know the files that were read."""
        self.index.record(self._read, time.time_ns())
        self._read.clear()


def _compute(new: Iterator["Decoded"], extractor: Extractor, computing: Computing, survey: _Survey) -> str | None:
    """Run the engine on what is new; while it computes a batch, a thread stores the one before.

    Returns:
        The engine's name, or None where nothing was new.
    """
    first = next(new, None)
    if first is None:
        return None
    engine = make_engine(computing.engine, extractor, computing.batch_size, computing.cache)
    new = itertools.chain([first], new)
    with ThreadPoolExecutor(1, "store") as writer:
        saving: Future[None] | None = None
        while batch := list(itertools.islice(new, engine.batch_size)):
            features = _run(engine, batch)
            if saving:
                saving.result()
            saving = writer.submit(survey.save, batch, features)
        saving.result()
    return engine.name


def _run(engine: Engine, batch: "Sequence[Decoded]") -> np.ndarray:
    """Compute the features of at most a batch of images, filled up with black ones; shape (len(batch), dim)."""
    pixels = np.zeros((engine.batch_size, SIDE, SIDE, 3), np.uint8)
    for row, image in zip(pixels, batch, strict=False):
        row[...] = image.pixels
    features = engine(pixels)[: len(batch)]
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        raise PipelineError(
            f"The {engine.name} engine gave values that are not finite numbers for {batch[int(bad.argmax())].path}; "
            "nothing of this batch was stored. The weights or the precision do not suit these images."
        )
    return features


@dataclass(frozen=True)
class Decoded:
    """One image as a worker hands it over: its digest and, where the store lacks it, its pixels; or an error."""

    path: str
    file: Path | None = None
    digest: str = ""
    stamp: Stamp | None = None
    pixels: np.ndarray | None = None
    error: str = ""


def _decode_ahead(
    items: Sequence[tuple[str, Path | Record]], stored: frozenset[str], computing: Computing
) -> Iterator[Decoded]:
    """Read and decode images in worker processes, a bounded number of chunks ahead; yields them in order."""
    chunks = [items[at : at + CHUNK] for at in range(0, len(items), CHUNK)]
    workers = min(computing.worker_count, len(chunks))
    if not workers:
        return
    # Spawned, not forked: neither TensorFlow nor Lance survives a fork.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start_worker, (stored, computing.max_pixels)
    )
    ahead: deque[Future[list[Decoded]]] = deque()
    try:
        for chunk in chunks:
            # A data set is read here, for its reader does not travel to another process.
            contents = [(path, item.read() if isinstance(item, Record) else item) for path, item in chunk]
            ahead.append(pool.submit(_decode_chunk, contents))
            if len(ahead) > workers * CHUNKS_AHEAD:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()
    except BrokenProcessPool as error:
        raise PipelineError(
            "A process that reads images was ended from outside, perhaps for want of memory. What was computed is "
            "stored; run the same command again to go on, with fewer --workers."
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_stored: frozenset[str] = frozenset()  # in a worker: the digests that need no decoding
_max_pixels = MAX_PIXELS


def _start_worker(stored: frozenset[str], max_pixels: int) -> None:
    """Prepare a worker: Ctrl-C is the parent's business, and a parent that was killed leaves no worker behind."""
    global _stored, _max_pixels
    _stored, _max_pixels = stored, max_pixels
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _decode_chunk(chunk: Sequence[tuple[str, Path | bytes]]) -> list[Decoded]:
    return [_decode_one(path, item) for path, item in chunk]


def _decode_one(path: str, item: Path | bytes) -> Decoded:
    file = None if isinstance(item, bytes) else item
    try:
        data, stamp = (item, None) if isinstance(item, bytes) else image_files.read(item)
        digest = image_files.digest(data)
        return Decoded(path, file, digest, stamp, None if digest in _stored else image_files.decode(data, _max_pixels))
    except ImageError as error:
        return Decoded(path, file, error=str(error))
