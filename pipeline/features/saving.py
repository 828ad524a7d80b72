"""Storing features while the next ones are computed."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from pipeline.core.machine import keep_freed_memory
from pipeline.data.images import DIGEST
from pipeline.features.backends import Result
from pipeline.features.backends.worker_process import Decoded
from pipeline.features.store_group import StoreGroup

# Features are stored after this time or this many bytes, whichever comes first: committing each batch would take longer
# than a GPU needs to compute it. In a bucket, the time is multiplied by `commit_cost`.
STORE_SECONDS = 1.0
STORE_BYTES = 2**25

_Row = tuple[Decoded, Sequence[np.ndarray], np.ndarray]  # an image, its features and its thumbnail


class Saver:
    """Stores features in groups, in a thread; at most one group is stored while the next one is gathered.

    Another thread merges the small data files that commits leave.

    Args:
        stores: The feature stores.

    Attributes:
        not_finite: The digests of images whose features have NaN or infinite values and are not stored; complete after
            `close`.
    """

    def __init__(self, stores: StoreGroup) -> None:
        keep_freed_memory(2 * STORE_BYTES)  # reused by the next group
        self.not_finite: set[bytes] = set()
        self._stores = stores
        self._thread, self._merger = ThreadPoolExecutor(1, "saver"), ThreadPoolExecutor(1, "merger")
        self._storing: Future[None] | None = None
        self._merging: Future[None] | None = None
        self._group: dict[bytes, _Row] = {}  # by digest
        self._bytes, self._began = 0, 0.0

    def add(self, results: Sequence[Result]) -> None:
        """Store the features in results, now or together with later ones; repeated contents are stored once.

        Raises:
            PipelineError: The store cannot be written.
        """
        for image, features, thumbnail in results:
            if features is not None and thumbnail is not None:
                self._group[image.digest] = image, features, thumbnail
                self._bytes += sum(vector.nbytes for vector in features)
        if not self._group:
            return
        is_full = self._bytes >= STORE_BYTES
        if is_full or time.monotonic() - self._began >= STORE_SECONDS * self._stores.commit_cost:
            self._store(must_wait=is_full)

    def _store(self, must_wait: bool) -> None:
        """Start to store the group; if the previous group is not stored yet, wait for it or return."""
        if self._storing:
            if not must_wait and not self._storing.done():
                return
            self._storing.result()
        group, self._group, self._bytes = list(self._group.values()), {}, 0
        self._began = time.monotonic()
        self._storing = self._thread.submit(self._write, group)

    def _write(self, group: Sequence[_Row]) -> None:
        images, features, thumbnails = zip(*group, strict=True)
        vectors = [np.stack(rows) for rows in zip(*features, strict=True)]
        is_finite = np.logical_and.reduce([np.isfinite(array).all(axis=1) for array in vectors])
        digests = np.frombuffer(b"".join(image.digest for image in images), DIGEST)
        self.not_finite.update(digests[~is_finite].tolist())
        if is_finite.any():
            rows = slice(None) if is_finite.all() else is_finite  # a slice does not copy
            self._stores.append(
                digests[rows],
                [array[rows] for array in vectors],
                np.stack(thumbnails)[rows],
                np.array([image.pixel_count for image in images])[rows],
            )
            self._merge()

    def _merge(self) -> None:
        """Start a merge, unless one is running."""
        if self._merging:
            if not self._merging.done():
                return
            self._merging.result()
        self._merging = self._merger.submit(self._stores.merge)

    def close(self) -> None:
        """Store the features gathered so far, and wait for the running merge.

        Raises:
            PipelineError: The store cannot be written.
        """
        try:
            if self._group:
                self._store(must_wait=True)
            if self._storing:
                self._storing.result()
            if self._merging:
                self._merging.result()
        finally:
            self._thread.shutdown()
            self._merger.shutdown()
