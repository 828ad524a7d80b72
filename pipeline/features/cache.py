"""A cache: its location, and the stores in it."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import platformdirs

from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.locations import Location
from pipeline.features import store_bucket
from pipeline.features.lance_errors import UNREADABLE
from pipeline.features.store_bucket import StoreBucket
from pipeline.features.store_folder import StoreFolder

UNUSABLE = "?#%"  # characters with a special meaning in Lance's URLs

LanceStore = StoreFolder | StoreBucket


@contextlib.contextmanager
def named_errors(store: LanceStore, task: str) -> Iterator[None]:
    """Turn errors of Lance into a PipelineError that names the store and the task, see `StoreFolder.error`."""
    try:
        yield
    except UNREADABLE as error:
        raise store.error(task, error) from error


def usual_folder() -> Path:
    """The default cache folder of the user."""
    return platformdirs.user_cache_path("image-vectors")


def cache_location(cache: Location | Path | str) -> Location:
    """The location of a cache: a folder, or a bucket with or without a prefix.

    Raises:
        RequestError: It is neither, or Lance cannot name a store in it.
    """
    try:
        location = Location.parse(cache)
    except RequestError as error:
        raise RequestError(f"The cache {error}") from error
    if not location.is_bucket:
        return location
    if unusable := [mark for mark in UNUSABLE if mark in str(location)]:
        raise RequestError(f"The cache {cache} has a {unusable[0]} in its name; choose another prefix.")
    return Location(None, location.scheme, location.bucket, location.key.rstrip("/"))


def local_folder(cache: Location | Path | str) -> Path:
    """The folder of networks and the file index, which stay on this machine even if the stores are in a bucket.

    The file index does not depend on a store: it maps files to content digests.
    """
    return Location.parse(cache).path or usual_folder()


def lance_store(cache: Location, fingerprint: str) -> LanceStore:
    """An extractor's store in a cache; it may not exist."""
    location = cache / f"features/{fingerprint}.lance"
    return StoreBucket(str(location)) if location.path is None else StoreFolder(location.path)


def stores_in(cache: Location) -> Mapping[str, LanceStore]:
    """The stores of a cache by path, sorted by name.

    Raises:
        PipelineError: The cache cannot be listed.
    """
    try:
        if cache.path is None:
            names = store_bucket.folders_in(str(cache / "features"))
        else:
            names = sorted(path.name for path in cache.path.glob("features/*.lance"))
    except UNREADABLE as error:
        explanation = store_bucket.meaning(error) if cache.is_bucket else None
        raise PipelineError(
            f"The cache {cache} cannot be listed: {explanation or store_bucket.short_cause(error)}."
        ) from error
    stores = [lance_store(cache, name.removesuffix(".lance")) for name in names if name.endswith(".lance")]
    return {str(store.path): store for store in stores}


def has_store(cache: Location | Path | str, fingerprint: str) -> bool:
    """Whether a cache has a store for an extractor.

    Raises:
        PipelineError: The cache cannot be listed.
    """
    location = cache_location(cache)
    return str(lance_store(location, fingerprint).path) in stores_in(location)
