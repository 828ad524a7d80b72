"""The cached feature stage: images -> features, computing only what the feature store lacks.

    images ─ survey: unchanged? ─ backend: read, decode, compute ─ saver ─ feature store

`survey.py` tracks the content of each image, `backends` turns images into features, on this machine or a Ray cluster,
and `saving.py` stores them.
"""

import contextlib
import logging
import time
from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np

from pipeline.core.errors import Parameter, PipelineError, cause
from pipeline.core.progress import progress_bar
from pipeline.core.wording import counted
from pipeline.data import lists
from pipeline.data.images import ImageSet
from pipeline.features.backends import Backend
from pipeline.features.backends.local import LocalBackend
from pipeline.features.backends.ray.backend import RayBackend
from pipeline.features.cache import cache_location, has_store
from pipeline.features.engines import check_engine, ensure_weights
from pipeline.features.engines.devices import chosen_devices
from pipeline.features.extractor import Extractor, check_one_pass
from pipeline.features.features import Features, LayerFeatures
from pipeline.features.file_index import FileIndex
from pipeline.features.options import ExtractionOptions
from pipeline.features.saving import Saver
from pipeline.features.store import FeatureStore
from pipeline.features.store_group import StoreGroup
from pipeline.features.survey import Failure, Survey

log = logging.getLogger(__name__)

NAMED = 5  # skipped images in messages
LIST_HINT = (" Relative paths of a list start from its own folder, or from ", Parameter("root", "DIR"), ".")


def extract_features(
    images: ImageSet,
    extractors: Extractor | Sequence[Extractor],
    options: ExtractionOptions | None = None,
    may_all_fail: bool = False,
) -> Features:
    """Make sure that every image's feature is in the store, or in the stores of all layers.

    Images that cannot be read are skipped with a warning and do not affect other features. Features are stored about
    every second, in a bucket every ten seconds, so an interruption loses only those and the images in flight. Several
    layers are computed in one pass; layers with all images in their store are left out.

    Args:
        images: The images.
        extractors: The extractor of the features, or one for each of several layers; see `check_one_pass`.
        options: How to run the feature stage.
        may_all_fail: Whether it is acceptable that no image can be read, as in a shard.

    Returns:
        The images that have a feature, their digests, the counts, and the images that failed.

    Raises:
        RequestError: The engine does not support the precision or the device, the weights cannot be used, or the
            extractors do not run in one pass.
        PipelineError: No image could be read, or the store, the weights or the workers failed.
    """
    start = time.monotonic()
    options = options or ExtractionOptions()
    extractors = [extractors] if isinstance(extractors, Extractor) else list(extractors)
    stores = _open_stores(extractors, options)
    with contextlib.closing(FileIndex(options.folder)) as index:
        survey = Survey(images, StoreGroup(stores), index, options.max_pixels, options.verify)
        incomplete = [row for row, store in enumerate(stores) if survey.may_lack(store)]
        group = StoreGroup([stores[row] for row in incomplete])
        lacking = [extractors[row] for row in incomplete]
        backend = RayBackend(lacking, options, options.ray) if options.ray else LocalBackend(lacking, options)
        not_finite: Set[bytes] = frozenset()
        if incomplete:
            _prepare(lacking, group, len(survey.unknown) + len(survey.suspects), options)
            not_finite = _compute(images, survey, backend, group, options.progress)
    for store in group.stores:
        if group.computed[store.path]:
            store.tidy()
    survey.drop_incomplete(not_finite)
    failed = survey.failures()
    warn_of_failures(failed, images, may_all_fail)
    count = max(group.computed.values(), default=0)
    layers = zip(extractors, stores, strict=True)
    return Features(
        layers=[LayerFeatures(extractor, store, group.computed[store.path]) for extractor, store in layers],
        images=images.subset(np.flatnonzero(survey.has_feature)) if failed else images,
        digests=survey.digests[survey.has_feature],
        failed=failed,
        computed=count,
        cached=len(images) - len(failed) - count,
        seconds=time.monotonic() - start,
        seconds_starting=backend.started_at - start if backend.started_at else 0.0,
        engine=backend.engine,
        device=backend.device,
        nodes=backend.nodes,
        actors=backend.actors,
    )


def _open_stores(extractors: Sequence[Extractor], options: ExtractionOptions) -> list[FeatureStore]:
    """Check the extractors, and open or create their stores."""
    check_one_pass(extractors)
    check_engine(options.engine, extractors[0].precision, options.device)
    _make_folder(options)
    new = [extractor for extractor in extractors if not has_store(options.cache, extractor.fingerprint)]
    if new:  # before stores are created, so that missing weights or devices leave no empty ones
        ensure_weights(options.engine, new, options.folder, options.device)
        if options.device and not options.ray:  # Ray's nodes have other devices
            chosen_devices(options.device)
    stores = [FeatureStore(options.cache, extractor) for extractor in extractors]
    if options.verify:
        for store in stores:
            store.drop_damaged(options.progress)
    return stores


def _prepare(extractors: Sequence[Extractor], stores: StoreGroup, images: int, options: ExtractionOptions) -> None:
    """Check that the weights are available before any worker starts, and warn about large features."""
    if not all(map(len, stores.stores)):
        ensure_weights(options.engine, extractors, options.folder, options.device)
    for extractor in extractors:
        if extractor.pooling and extractor.pooling.kind == "flat" and not extractor.projection:
            log.warning(
                "All positions of layer %s take %.1f MB an image, %.1f GB for %d; %s or %s keeps less.",
                extractor.layer,
                extractor.dim * 4e-6,
                extractor.dim * 4e-9 * images,
                images,
                Parameter("pool", "mean"),
                Parameter("project", "4096"),
            )


def _compute(images: ImageSet, survey: Survey, backend: Backend, stores: StoreGroup, progress: bool) -> Set[bytes]:
    """Read the images that a survey does not know, and store the features that stores lack.

    Returns:
        The digests of the images whose features have NaN or infinite values.
    """
    unknown = len(survey.unknown) + len(survey.suspects)
    saver = Saver(stores)
    results = backend.results(images, survey.unknown, survey.suspects, stores)
    with (
        progress_bar(len(images), "image", "features", progress, len(images) - unknown) as bar,
        contextlib.closing(results),
        contextlib.closing(saver),
    ):
        try:
            for batch in results:
                for image, *_ in batch:
                    survey.note(image)
                saver.add(batch)
                bar.update(len(batch))
        finally:
            survey.record()
    return saver.not_finite


def warn_of_failures(failed: Sequence[Failure], images: ImageSet, may_all_fail: bool = False) -> None:
    """Warn about the first skipped images.

    Raises:
        PipelineError: All images were skipped, and `may_all_fail` is False.
    """
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


def _make_folder(options: ExtractionOptions) -> None:
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        setting = "XDG_CACHE_HOME" if cache_location(options.cache).is_bucket else Parameter("cache", "DIR")
        message = f"The cache folder {options.folder} cannot be created ({cause(error)}). Name one that is writable "
        raise PipelineError(message, "with ", setting, ".") from error
