"""The cached feature stage: images -> features, computing only what the feature store lacks.

    images ─ survey: unchanged? ─ workers: read, decode ─ slots ─ engine ─ saver ─ feature store

`survey.py` tracks the content of each image, `workers.py` decodes into the shared memory of `slots.py`, and
`engine_loop.py` runs the engine and stores its features. Batches are filled in path order, regardless of the order in
which workers finish, so vectors match their paths, and a killed run resumes with the batches of an uninterrupted one.
"""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.cores import usable_cores
from pipeline.core.errors import Parameter, PipelineError, RequestError, cause
from pipeline.core.freed_memory import keep_freed_memory
from pipeline.core.progress import progress_bar
from pipeline.core.vectors import moments
from pipeline.core.wording import counted
from pipeline.data import lists
from pipeline.data.image_files import MAX_PIXELS
from pipeline.data.images import ImageSet
from pipeline.features.cache import cache_location, local_folder, usual_folder
from pipeline.features.concatenation import ConcatenatedFeatures
from pipeline.features.engine_loop import STORE_BYTES, Computed, Saver, compute
from pipeline.features.engines import ENGINES, check_precision, ensure_weights, make_engine
from pipeline.features.extractor import Extractor, check_one_pass, total_dim
from pipeline.features.file_index import FileIndex
from pipeline.features.ray_actor import ActorOptions, block_size
from pipeline.features.ray_cluster import Fleet, RayOptions
from pipeline.features.ray_extraction import compute_on_ray
from pipeline.features.slots import Slots
from pipeline.features.store import FeatureStore
from pipeline.features.store_group import StoreGroup
from pipeline.features.store_location import has_store
from pipeline.features.survey import Failure, Survey
from pipeline.features.workers import CHUNK, CHUNKS_AHEAD, decode_ahead

log = logging.getLogger(__name__)

NAMED = 5  # skipped images in messages
LIST_HINT = (" Relative paths of a list start from its own folder, or from ", Parameter("root", "DIR"), ".")

USUAL_BATCH = 32  # sets the number of slots without a batch size; no engine has a larger default


@dataclass(frozen=True)
class ExtractionOptions:
    """How to run the feature stage; no option changes the features beyond rounding.

    Attributes:
        engine: One of `pipeline.features.engines.ENGINES`.
        batch_size: Images in a batch; None leaves the choice to the engine.
        workers: Processes that read and decode; None means one for each usable core.
        cache: The folder of the feature stores, or its URL in a bucket as a string.
        progress: Whether to show the progress on stderr.
        max_pixels: The size of the largest image to decode, in pixels; larger images are skipped.
        verify: Whether to check every stored vector first, recompute vectors that changed on disk, and read every image
            again, even if it seems unchanged.
        ray: How to run on Ray; None for this process and its workers.
    """

    engine: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    cache: Path | str = field(default_factory=usual_folder)
    progress: bool = True
    max_pixels: int = MAX_PIXELS
    verify: bool = False
    ray: RayOptions | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "cache", cache_location(self.cache))
        if self.engine not in ENGINES:
            raise RequestError(f"engine {self.engine!r} is unknown; choose from {', '.join(ENGINES)}.")
        for name in ("batch_size", "workers", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{name} must be at least 1, not {value}.")

    @property
    def folder(self) -> Path:
        """The folder of converted networks and the file index."""
        return local_folder(self.cache)

    @property
    def worker_count(self) -> int:
        """The number of processes that read and decode."""
        return self.workers or usable_cores()


@dataclass(frozen=True)
class LayerFeatures:
    """The features by one layer: their extractor, their store, and the number computed now."""

    extractor: Extractor
    store: FeatureStore
    computed: int


@dataclass
class Features:
    """The features of a set of images, by one layer or several concatenated ones; the vectors stay on disk.

    Attributes:
        layers: The layers.
        images: The images that have a feature, in path order.
        digests: Their content digests, in the same order, shape (N,), DIGEST.
        failed: The images that could not be read.
        computed: The number of images with a vector computed now.
        cached: The number of images with all vectors already in the stores, or shared with a duplicate.
        seconds: The duration of the stage.
        seconds_starting: The part of it before the engine could begin: starting the workers, converting the network,
            decoding the first batch.
        engine: The engine that ran, or None if there was nothing to compute.
        scales: The divisors of the features by each of several layers; empty for 1.
        fleet: The actors on Ray, or None.
    """

    layers: Sequence[LayerFeatures]
    images: ImageSet
    digests: np.ndarray
    failed: list[Failure] = field(default_factory=list)
    computed: int = 0
    cached: int = 0
    seconds: float = 0.0
    seconds_starting: float = 0.0
    engine: str | None = None
    scales: Sequence[float] = ()
    fleet: Fleet | None = None

    @property
    def store(self) -> FeatureStore:
        """The store of the first layer, which has everything that does not depend on the layer."""
        return self.layers[0].store

    @property
    def dim(self) -> int:
        """F, the dimension of a feature."""
        return total_dim([layer.extractor for layer in self.layers])

    @property
    def paths(self) -> Sequence[str]:
        """The names of the images that have a feature."""
        return self.images.paths

    def subset(self, rows: Sequence[int] | np.ndarray) -> "Features":
        """The features of the images in some rows."""
        return dataclasses.replace(
            self, images=self.images.subset(rows), digests=self.digests[np.asarray(rows, np.intp)]
        )

    def by_layer(self) -> "list[StoredFeatures]":
        """The vectors by each layer, as they are stored."""
        return [
            StoredFeatures(layer.store, layer.store.rows(self.digests), layer.extractor.dim) for layer in self.layers
        ]

    def stored(self) -> "StoredFeatures | ConcatenatedFeatures":
        """The vectors, read from disk on access."""
        parts = self.by_layer()
        return parts[0] if len(parts) == 1 else ConcatenatedFeatures(parts, self.scales or [1.0] * len(parts))

    def scaled_by(self, rows: np.ndarray) -> "Features":
        """These features; with several layers, each layer divided by the root of its mean variance over some rows."""
        if len(self.layers) == 1:
            return self
        variances = [moments(part.subset(rows))[1] for part in self.by_layer()]
        return dataclasses.replace(self, scales=[math.sqrt(variance) or 1.0 for variance in variances])

    def vectors(self) -> np.ndarray:
        """All vectors at once, shape (len(paths), dim), float32."""
        return self.stored()[:]


@dataclass(frozen=True)
class StoredFeatures:
    """Features on disk, read like an array: `stored[rows]`.

    Attributes:
        store: The feature store.
        rows: The row of each feature in the store, shape (N,).
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


def extract_features(
    images: ImageSet,
    extractors: Extractor | Sequence[Extractor],
    options: ExtractionOptions | None = None,
    may_all_fail: bool = False,
) -> Features:
    """Make sure that every image's feature is in the store, or in the stores of all layers.

    Images that cannot be read are skipped with a warning and do not affect other features. Features are stored about
    every second, in a bucket every ten seconds, so an interruption loses only those and the images in flight. Several
    layers are computed in one pass, without those that already have all images in their store.

    Args:
        images: The images.
        extractors: The extractor of the features, or one for each of several layers; see `check_one_pass`.
        options: How to run the feature stage.
        may_all_fail: Whether it is acceptable that no image can be read, as in a shard.

    Returns:
        The images that have a feature, their digests, the counts, and the images that failed.

    Raises:
        RequestError: The engine does not support the precision, the weights cannot be used, or the extractors do not
            run in one pass.
        PipelineError: No image could be read, or the store, the weights or the workers failed.
    """
    options = options or ExtractionOptions()
    start = time.monotonic()
    extractors = [extractors] if isinstance(extractors, Extractor) else list(extractors)
    check_one_pass(extractors)
    check_precision(options.engine, extractors[0].precision)
    _make_folder(options.cache, options.folder)
    new = [extractor for extractor in extractors if not has_store(options.cache, extractor.fingerprint)]
    if new:  # first: without weights, no empty store is created
        ensure_weights(options.engine, new, options.folder)
    stores = [FeatureStore(options.cache, extractor) for extractor in extractors]
    if options.verify:
        for store in stores:
            store.drop_damaged(options.progress)
    with contextlib.closing(FileIndex(options.folder)) as index:
        survey = Survey(images, StoreGroup(stores), index, options.max_pixels, options.verify)
        incomplete = [pair for pair in zip(stores, extractors, strict=True) if survey.may_lack(pair[0])]
        group = StoreGroup([store for store, _ in incomplete])
        lacking = [extractor for _, extractor in incomplete]
        computed = _compute_unknown(survey, images, group, lacking, options) if incomplete else Computed()
    for store in group.stores:
        if group.computed[store.path]:
            store.tidy()
    survey.drop_incomplete(computed.not_finite)
    failed = survey.failures()
    _warn_of(failed, images, may_all_fail)
    count = max(group.computed.values(), default=0)
    return Features(
        layers=[
            LayerFeatures(extractor, store, group.computed[store.path])
            for extractor, store in zip(extractors, stores, strict=True)
        ],
        images=images.subset(np.flatnonzero(survey.has_feature)) if failed else images,
        digests=survey.digests[survey.has_feature],
        failed=failed,
        computed=count,
        cached=len(images) - len(failed) - count,
        seconds=time.monotonic() - start,
        seconds_starting=computed.started_at - start if computed.engine else 0.0,
        engine=computed.engine,
        fleet=computed.fleet,
    )


def _warn_of(failed: Sequence[Failure], images: ImageSet, may_all_fail: bool) -> None:
    """Warn of the first skipped images; raises an error if all were skipped, unless they may all fail."""
    for failure in failed[:NAMED]:
        log.warning("skipped %s: %s", failure.path, failure.error)
    if len(failed) > NAMED:
        log.warning("skipped %s; --json names all.", counted(len(failed) - NAMED, "more image"))
    if failed and len(failed) == len(images) and not may_all_fail:
        raise PipelineError(
            f"None of the {len(images)} images of {images.source} could be read; "
            f"the first is {failed[0].path}: {failed[0].error}.",
            *(LIST_HINT if Path(images.source).suffix.lower() in lists.SUFFIXES else ()),
        )


def _make_folder(cache: Path | str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        setting = "XDG_CACHE_HOME" if isinstance(cache, str) else Parameter("cache", "DIR")
        message = f"The cache folder {folder} cannot be created ({cause(error)}). Name one that is writable with "
        raise PipelineError(message, setting, ".") from error


def _compute_unknown(
    survey: Survey, images: ImageSet, group: StoreGroup, extractors: Sequence[Extractor], options: ExtractionOptions
) -> Computed:
    """Read the images with unknown content, and compute the features that a group of stores lacks."""
    if not all(map(len, group.stores)):  # weights are certainly needed: fail before any worker starts
        ensure_weights(options.engine, extractors, options.folder)
    unknown = len(survey.unknown) + len(survey.suspects)
    for extractor in extractors:
        if extractor.pooling and extractor.pooling.kind == "flat" and not extractor.projection:
            log.warning(
                "All positions of layer %s take %.1f MB an image, %.1f GB for %d; %s or %s keeps less.",
                extractor.layer,
                extractor.dim * 4e-6,
                extractor.dim * 4e-9 * unknown,
                unknown,
                Parameter("pool", "mean"),
                Parameter("project", "4096"),
            )
    known = len(images) - unknown
    with progress_bar(len(images), "image", "features", options.progress, known) as bar:
        saver = Saver(group, total_dim(extractors), bar)
        if options.ray and unknown:
            block = block_size(unknown, options.ray.gpus_each > 0, options.batch_size)
            folder = None if options.folder == usual_folder() else options.folder.absolute()
            actor = ActorOptions(
                extractors, options.engine, options.batch_size, folder, options.max_pixels, block, options.workers
            )
            return compute_on_ray(survey, images, group.digests, saver, options.ray, actor, bar)
        return _compute_locally(survey, images, group.digests, saver, extractors, options, bar)


def _compute_locally(
    survey: Survey,
    images: ImageSet,
    known: np.ndarray,
    saver: Saver,
    extractors: Sequence[Extractor],
    options: ExtractionOptions,
    bar: Any,
) -> Computed:
    """Decode in worker processes, and compute in this process."""
    keep_freed_memory(2 * STORE_BYTES)  # reused by the next group of features
    batch = options.batch_size or USUAL_BATCH
    in_work = options.worker_count * CHUNK * CHUNKS_AHEAD
    slots = Slots(batch * (4 + -(-in_work // batch)))  # whole batches, so that their slots stay adjacent
    workers, max_pixels, resize = options.worker_count, options.max_pixels, extractors[0].resize
    decoding = decode_ahead(images.refs, survey.unknown, known, slots, workers, max_pixels, resize, survey.suspects)
    with contextlib.closing(decoding) as decoded:
        return compute(
            survey.new(decoded, slots, bar),
            slots,
            lambda: make_engine(options.engine, extractors, options.batch_size, options.folder),
            saver,
        )
