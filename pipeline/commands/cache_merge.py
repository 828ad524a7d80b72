"""`cache merge`: copies the features of other caches into one.

Only missing features are copied, in blocks that are stored atomically. So rerunning a killed merge completes it, and
rerunning a completed one copies nothing.
"""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.commands.cache import CacheContents, CachedStore, list_cache
from pipeline.core.errors import Parameter, PipelineError, RequestError, interrupted_with
from pipeline.core.locations import Location
from pipeline.core.progress import progress_bar
from pipeline.core.wording import counted
from pipeline.data.decoding import THUMBNAIL
from pipeline.features import store_bucket
from pipeline.features.cache import cache_location, local_folder
from pipeline.features.extractor import Extractor, described_network, described_settings, extractors_for
from pipeline.features.file_index import FileIndex
from pipeline.features.lance_errors import may_be_damage
from pipeline.features.merging import MERGED_ROWS
from pipeline.features.store import FeatureStore
from pipeline.features.vgg import NETWORKS, Arrays
from pipeline.features.weights import Weights

log = logging.getLogger(__name__)

BLOCK_BYTES = 2**27  # of vectors and thumbnails read at a time, unless one row is larger


@dataclass(frozen=True)
class MergedStore:
    """A feature store that was merged into another.

    Attributes:
        source: The store that was read.
        store: The store of the same extractor that was written to.
        copied: The number of features copied.
        known: The number that were there already.
        damaged: The number left out because they have changed on disk or cannot be read.
    """

    source: str
    store: str
    copied: int
    known: int
    damaged: int


@dataclass(frozen=True)
class MergeResult:
    """The result of `cache merge`.

    Attributes:
        folder: The cache folder that was written to.
        stores: The merged stores, in the order of the sources.
        indexed: The number of files added to its file index.
    """

    folder: str
    stores: Sequence[MergedStore]
    indexed: int

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `cache merge`."""
        return asdict(self)


def merge_caches(
    sources: Sequence[Location | Path | str], folder: Location | Path | str, progress: bool = True
) -> MergeResult:
    """Copy the features and the file indexes of caches into another; the sources do not change.

    Args:
        sources: The cache folders to read, or their URLs in a bucket.
        folder: The cache folder to write to, created if it does not exist, or its URL in a bucket.
        progress: Whether to show the progress on stderr.

    Returns:
        What was copied.

    Raises:
        RequestError: A source is not a cache folder, or is the folder to write to.
        PipelineError: A store cannot be opened or was created by another version of this program, or the cache cannot
            be written to. Features that have already been copied stay.
        Interrupted: Ctrl-C or SIGTERM arrived. Features that have already been copied stay.
    """
    into = cache_location(folder)
    contents = {source: _contents(source, into) for source in map(cache_location, sources)}
    planned = [(source, store, _extractor(store)) for source in contents for store in contents[source].stores]
    with interrupted_with("Interrupted. What was copied so far is kept; the same command copies the rest."):
        merged = [_merge_store(source, store, extractor, into, progress) for source, store, extractor in planned]
        indexed = sum(_merge_index(source, into) for source in contents if contents[source].indexed)
    return MergeResult(str(into), merged, indexed)


def _contents(source: Location, into: Location) -> CacheContents:
    """The contents of a source, after a check that it is a cache, and not the one to write to."""
    if source.path is not None and not source.path.is_dir():
        raise RequestError(f"There is no cache folder {source}.")
    if source == into or _is_same_folder(source, into):
        raise RequestError(
            f"{source} is the cache to merge into; name the others, or another one with ",
            Parameter("cache", "DIR"),
            ".",
        )
    contents = list_cache(source)
    if not (contents.used or contents.leftovers or contents.indexed):
        raise RequestError(f"{source} is not a cache folder: it holds neither features nor networks.")
    return contents


def _is_same_folder(source: Location, into: Location) -> bool:
    return bool(source.path and into.path and into.path.exists() and source.path.samefile(into.path))


def _extractor(store: CachedStore) -> Extractor:
    """The extractor of a store."""
    if store.images is None:
        raise PipelineError(
            f"The feature store {store.path} cannot be opened ({store.error}). If it is damaged, extract with its "
            "cache folder repairs what it can; then merge again, or leave this cache out."
        )
    with contextlib.suppress(KeyError, RequestError):
        extractor = _described(store.extractor)
        if extractor.fingerprint == Path(store.path).stem:
            return extractor
    raise PipelineError(
        f"The feature store {store.path} was created by another version of this program, or renamed. Compute its "
        "features again, or leave this cache out."
    )


def _described(description: Mapping[str, str]) -> Extractor:
    """An extractor that can name its weights, but not read them."""

    def unavailable(layer: str) -> Arrays:
        raise RequestError("Only the digest of these weights is known.")

    name, network = description["weights"], described_network(description)
    weights = Weights(name, name, unavailable, preprocess=network["preprocess"], network=NETWORKS[network["network"]])
    [extractor] = extractors_for(weights, **described_settings(description))
    return extractor


def _merge_store(
    cache: Location, listed: CachedStore, extractor: Extractor, into: Location, progress: bool
) -> MergedStore:
    """Copy the features that are missing from the target store, in their order on disk."""
    source, target = FeatureStore(cache, extractor), FeatureStore(into, extractor)
    stored = source.digests
    missing = stored[~target.contains(stored)]
    missing = missing[np.argsort(source.rows(missing))]
    copied = 0
    with progress_bar(len(missing), "vector", "merge", progress and len(missing) > 0) as bar:
        for block in _blocks(missing, extractor.dim):
            digests, features = _intact(source, block, extractor.dim)
            target.append(digests, features, source.thumbnails(digests), source.pixel_counts(digests))
            target.merge()
            copied += len(digests)
            bar.update(len(block))
    if copied:
        target.tidy()
    damaged = len(missing) - copied + _dropped(cache, listed, source)
    if damaged:
        log.warning(
            "%s of the feature store %s cannot be read and were not copied; extract computes them again.",
            counted(damaged, "vector"),
            listed.path,
        )
    return MergedStore(listed.path, str(target.path), copied, len(stored) - len(missing), damaged)


def _dropped(cache: Location, listed: CachedStore, opened: FeatureStore) -> int:
    """The number of rows that were dropped when the store was opened, because their file cannot be read."""
    if len(opened) == listed.images:
        return 0
    [now] = [store for store in list_cache(cache).stores if store.path == listed.path]
    return max(0, (listed.images or 0) - (now.images or 0))


def _blocks(digests: np.ndarray, dim: int) -> list[np.ndarray]:
    """Split digests into blocks of MERGED_ROWS, the size of a data file; fewer if the rows are large."""
    size = max(1, min(MERGED_ROWS, BLOCK_BYTES // (4 * dim + THUMBNAIL**2)))
    return [digests[start : start + size] for start in range(0, len(digests), size)]


def _intact(store: FeatureStore, digests: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Read features; bisection finds damaged ones and leaves them out.

    Returns:
        The digests of the features that were read, and the features.
    """
    try:
        return digests, store.features(digests)
    except PipelineError as error:
        reason = error.__cause__
        # The disk or the bucket is at fault, not these rows.
        if reason and (store_bucket.meaning(reason) or not may_be_damage(reason)):
            raise
        if len(digests) == 1:
            return digests[:0], np.zeros((0, dim), np.float32)
        first, second = (_intact(store, half, dim) for half in np.array_split(digests, 2))
        return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])


def _merge_index(source: Location, into: Location) -> int:
    """Copy a file index into another; returns the number of new entries."""
    folders = local_folder(source), local_folder(into)
    with contextlib.closing(FileIndex(folders[0])) as theirs, contextlib.closing(FileIndex(folders[1])) as ours:
        return ours.learn(theirs)
