"""The cached feature stage: images -> features, computing only what the feature store lacks.

    images ─ unchanged? ─ read and decode (worker processes) ─ batches ─ engine ─ feature store (a thread)

Batches are filled in path order, however the workers finish, so vectors stay in step with their paths, and a run that
was killed resumes with the batches that an undisturbed run would have formed.
"""

import contextlib
import dataclasses
import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import platformdirs

from pipeline.core.cores import usable_cores
from pipeline.core.errors import ImageError, PipelineError, RequestError, cause
from pipeline.core.progress import progress_bar
from pipeline.data.decoding import MAX_PIXELS, SIDE, THUMBNAIL, check_size, thumbnail
from pipeline.data.images import ImageRef, ImageSet
from pipeline.features.engines import ENGINES, Engine, ensure_weights, make_engine
from pipeline.features.extractor import Extractor
from pipeline.features.file_index import FileIndex
from pipeline.features.store import FeatureStore
from pipeline.features.workers import Decoded, decode_ahead

log = logging.getLogger(__name__)

REPAIRS = 3  # how often damage in the store is computed again
LONG = 30  # seconds; what takes longer is announced


@dataclass(frozen=True)
class ExtractionOptions:
    """How the feature stage runs; none of this changes the features beyond rounding.

    Attributes:
        engine: One of `pipeline.features.engines.ENGINES`.
        batch_size: Images in a batch; None leaves the choice to the engine.
        workers: Processes that read and decode; None means one for each usable core.
        cache: The folder of the feature stores.
        progress: Whether to show the progress on stderr.
        max_pixels: The size of the largest image to decode, in pixels; larger ones are skipped.
    """

    engine: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    cache: Path = field(default_factory=lambda: platformdirs.user_cache_path("image-vectors"))
    progress: bool = True
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise RequestError(f"engine {self.engine!r} is unknown; choose from {', '.join(ENGINES)}.")
        for name in ("batch_size", "workers", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{name} must be at least 1, not {value}.")

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
    """The features of a set of images; the vectors themselves stay in the store.

    Attributes:
        store: The feature store.
        dim: F, the dimension of a feature.
        images: The images that have a feature, in path order.
        digests: Their content digests, in the same order.
        failed: The images that could not be read.
        computed: How many vectors were computed now.
        cached: How many images had their vector in the store already, or share it with a duplicate.
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

    def subset(self, rows: Sequence[int] | np.ndarray) -> "Features":
        """The features of some of the images, by row number."""
        return dataclasses.replace(self, images=self.images.subset(rows), digests=[self.digests[row] for row in rows])

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
    def dtype(self) -> np.dtype:
        """float32."""
        return np.dtype(np.float32)

    def subset(self, rows: np.ndarray) -> "StoredFeatures":
        """Some of the rows, still on disk."""
        return dataclasses.replace(self, rows=self.rows[rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.store.take(self.rows[rows])


def extract_features(images: ImageSet, extractor: Extractor, options: ExtractionOptions | None = None) -> Features:
    """Make sure that every image's feature is in the store.

    Images that cannot be read are skipped, with a warning; they change no other image's feature. Each batch is stored
    while the next one is computed, so an interruption loses at most the images in flight.

    Args:
        images: The images.
        extractor: What turns them into features.
        options: How to run it.

    Returns:
        The images with their digests, what was computed and what failed.

    Raises:
        PipelineError: No image could be read, or the store, the weights or a worker failed.
    """
    options = options or ExtractionOptions()
    start = time.monotonic()
    _make_cache(options.cache)
    store = FeatureStore(options.cache, extractor)
    computed, engine = 0, None
    for _ in range(REPAIRS):
        survey, used = _fill(store, images, extractor, options)
        computed, engine = computed + survey.computed, used or engine
        if not store.drop_damaged(list(survey.digests.values())):
            break
    else:
        raise PipelineError(f"The feature store {store.path} changes as soon as it is written; is the disk failing?")
    if computed:
        store.tidy()
    for failed in survey.failed:
        log.warning("skipped %s: %s", failed.path, failed.error)
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
        images=images.subset(rows),
        digests=[survey.digests[images.paths[row]] for row in rows],
        failed=survey.failed,
        computed=computed,
        cached=len(rows) - computed,
        seconds=time.monotonic() - start,
        engine=engine,
    )


def _make_cache(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PipelineError(
            f"The cache folder {cache} cannot be created ({cause(error)}). Choose another with cache=DIR."
        ) from error


def _fill(
    store: FeatureStore, images: ImageSet, extractor: Extractor, options: ExtractionOptions
) -> tuple["_Survey", str | None]:
    """Compute the features that the store lacks; returns the survey, and the engine's name where one was needed."""
    with contextlib.closing(FileIndex(options.cache)) as index:
        survey = _Survey(images, store, index, options)
        if survey.unknown and not len(store):  # weights are needed for certain: miss them before anything is started
            ensure_weights(options.engine, [extractor], options.cache)
        decoding = decode_ahead(survey.unknown, store.digests, options.worker_count, options.max_pixels)
        with survey.bar, contextlib.closing(decoding) as decoded:
            engine = _compute(survey.new(decoded), extractor, options, survey)
        survey.record()
    return survey, engine


class _Survey:
    """The state of one extraction: which image has which content, and which contents have to be computed."""

    def __init__(self, images: ImageSet, store: FeatureStore, index: FileIndex, options: ExtractionOptions) -> None:
        self.store, self.index, self._max_pixels = store, index, options.max_pixels
        self.digests: dict[str, str] = {}
        self.failed: list[Failure] = []
        self.computed = 0
        self.unknown: list[tuple[str, ImageRef]] = []
        self._read: list[tuple[ImageRef, str, str]] = []
        for path, ref in zip(images.paths, images.refs, strict=True):
            digest = index.digest(ref)
            if digest and digest in store:
                self._add_stored(path, digest)
            else:
                self.unknown.append((path, ref))
        known = len(images) - len(self.unknown)
        self.bar = progress_bar(len(images), "image", "features", options.progress, known)

    def _add_stored(self, path: str, digest: str) -> None:
        """Note an image whose feature is stored; its size is checked as if it were decoded now."""
        try:
            check_size(self.store.pixel_count(digest), self._max_pixels)
            self.digests[path] = digest
        except ImageError as error:
            self.failed.append(Failure(path, str(error)))

    def new(self, decoded: Iterator[Decoded]) -> Iterator[Decoded]:
        """Note each image as it comes; pass on those whose feature has to be computed, one of several duplicates."""
        scheduled: set[str] = set()
        for image in decoded:
            if image.error:
                self.failed.append(Failure(image.path, image.error))
            elif image.pixels is None:
                self._add_stored(image.path, image.digest)
            else:
                self.digests[image.path] = image.digest
            if image.version:
                self._read.append((image.ref, image.version, image.digest))
            # Another process may have stored it since.
            if image.pixels is not None and image.digest not in scheduled and image.digest not in self.store:
                scheduled.add(image.digest)
                yield image
            else:
                self.bar.update()

    def save(self, batch: Sequence[Decoded], features: np.ndarray) -> None:
        """Store a batch's features."""
        thumbnails = np.stack([thumbnail(image.pixels) for image in batch if image.pixels is not None])
        counts = [image.pixel_count for image in batch]
        self.store.append([image.digest for image in batch], features, thumbnails, counts)
        self.computed += len(batch)
        self.bar.update(len(batch))

    def announce(self, dim: int, seconds_per_image: float) -> None:
        """Say how long it will take and how much disk, if it will take long."""
        left = self.bar.total - self.bar.n
        if left * seconds_per_image > LONG:
            log.info(
                "%d images to go: about %s, and %s of disk in %s.",
                left,
                _duration(left * seconds_per_image),
                _size(left * (4 * dim + THUMBNAIL**2)),
                self.store.path.parent,
            )

    def record(self) -> None:
        """Record the images that were read, so that the next run does not read them."""
        self.index.record(self._read)
        self._read.clear()


def _compute(new: Iterator[Decoded], extractor: Extractor, options: ExtractionOptions, survey: _Survey) -> str | None:
    """Run the engine on new images; while it computes a batch, a thread stores the one before.

    Returns:
        The engine's name, or None where no image was new.
    """
    first = next(new, None)
    if first is None:
        return None
    engine = make_engine(options.engine, [extractor], options.batch_size, options.cache)
    new = itertools.chain([first], new)
    with ThreadPoolExecutor(1, "store") as writer:
        saving: Future[None] | None = None
        for number, batch in enumerate(iter(lambda: list(itertools.islice(new, engine.batch_size)), [])):
            features = _run(engine, batch)
            if saving:
                saving.result()
            saving = writer.submit(survey.save, batch, features)
            if number == 0:
                start = time.monotonic()
            elif number == 1:  # the first batch may have waited for a compiler
                survey.announce(extractor.dim, (time.monotonic() - start) / len(batch))
        if saving:
            saving.result()
    return engine.name


def _run(engine: Engine, batch: Sequence[Decoded]) -> np.ndarray:
    """Compute the features of up to a batch of images, padded with black ones; shape (len(batch), dim)."""
    pixels = np.zeros((engine.batch_size, SIDE, SIDE, 3), np.uint8)
    pixels[: len(batch)] = np.stack([image.pixels for image in batch if image.pixels is not None])
    features = engine(pixels)[0][: len(batch)]
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        raise PipelineError(
            f"The {engine.name} engine gave NaN or infinite values for {batch[int(bad.argmax())].path}; "
            "nothing of this batch was stored. Check the weights, or use precision float32."
        )
    return features


def _duration(seconds: float) -> str:
    """A duration in words, rounded as an estimate is."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} seconds"
    return f"{minutes} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def _size(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
