"""The survey of an extraction: the content of each image, and the contents to compute."""

import time
from collections.abc import Container
from dataclasses import dataclass

import numpy as np

from pipeline.data.image_files import too_large
from pipeline.data.images import DIGEST, ImageRef, ImageSet
from pipeline.features.backends.worker_process import Decoded
from pipeline.features.file_index import CRASHED, FileIndex
from pipeline.features.store import FeatureStore
from pipeline.features.store_group import StoreGroup

RECORDED_AT_ONCE, RECORD_SECONDS = 1024, 1.0  # images are recorded in at least such groups, at most this often
NOT_FINITE = "its vector has NaN or infinite values; check the weights, or use precision float32"


@dataclass(frozen=True)
class Failure:
    """An image that was skipped, and why."""

    path: str
    error: str


class Survey:
    """The digest and state of each image in a set, if known; `note` fills in the others.

    Args:
        images: The images.
        stores: The feature stores.
        index: The file index.
        max_pixels: The size of the largest image to use, in pixels.
        verify: Whether to read all files and objects again, ignoring the file index.

    Attributes:
        digests: The content digest of each image, if known, shape (N,), DIGEST.
        has_feature: Whether all features of an image are stored, or will be at the end, shape (N,), bool.
        unknown: The indices of the images to read, excluding `suspects`.
        suspects: The indices of images that crashed a process before, or took too long, perhaps for another reason.
        failed: Image index -> why the image cannot be used.
    """

    def __init__(
        self, images: ImageSet, stores: StoreGroup, index: FileIndex, max_pixels: int, verify: bool = False
    ) -> None:
        self._images, self._stores, self._index, self._max_pixels = images, stores, index, max_pixels
        self.digests = np.zeros(len(images), DIGEST)
        self.has_feature = np.zeros(len(images), bool)
        self.failed: dict[int, str] = {}
        self._read: list[tuple[ImageRef, str, bytes]] = []
        self._recorded_at = 0.0
        self._changed: set[int] = set()
        self.suspects: list[int] = []
        is_known = np.zeros(len(images), bool)
        known = (ref.digest for ref in images.refs) if verify else index.digests(images.refs)
        for number, digest in enumerate(known):
            if digest == CRASHED:
                self.suspects.append(number)
            elif digest:
                self.digests[number] = digest
                is_known[number] = True
        self._has_digest = is_known.copy()
        is_known[is_known] = stores.contains(self.digests[is_known])
        self._add_stored(np.flatnonzero(is_known))
        is_known[[*self.failed, *self.suspects]] = True
        self.unknown: list[int] = np.flatnonzero(~is_known).tolist()

    def _add_stored(self, numbers: np.ndarray) -> None:
        """Register images whose features are stored; the size limit applies as if they were decoded now."""
        counts = self._stores.pixel_counts(self.digests[numbers])
        self._stores.check(self.digests[numbers[counts > self._max_pixels]])  # a flipped bit skips no image
        self.has_feature[numbers] = counts <= self._max_pixels
        for number, count in zip(numbers[counts > self._max_pixels], counts[counts > self._max_pixels], strict=True):
            self.failed[int(number)] = too_large(int(count), self._max_pixels)

    def may_lack(self, store: FeatureStore) -> bool:
        """Whether a store lacks an image to read, or may lack one because its content is still unknown."""
        if self.suspects:
            return True
        known = self._has_digest[self.unknown]
        return not (known.all() and store.contains(self.digests[self.unknown]).all())

    def drop_incomplete(self, not_finite: Container[bytes] = ()) -> None:
        """Mark images as failed if a store turns out to lack them.

        Args:
            not_finite: The digests of images whose features cannot be stored. For other images, the file changed or the
                feature was removed since the survey.
        """
        numbers = np.flatnonzero(self.has_feature)
        for number in numbers[~self._stores.contains(self.digests[numbers])]:
            self.has_feature[number] = False
            if self.digests[number].tobytes() in not_finite:
                self.failed[int(number)] = NOT_FINITE
                continue
            cause = "it changed" if number in self._changed else "its features were removed from the cache"
            self.failed[int(number)] = f"{cause} while this command ran; run it again"

    def note(self, image: Decoded) -> None:
        """Register an image that was read."""
        number = image.number
        if image.error:
            self.failed[number] = image.error
        else:
            if self._has_digest[number] and self.digests[number].tobytes() != image.digest:
                self._changed.add(number)
            self.digests[number] = image.digest
            if image.is_new:
                self.has_feature[number] = True
            else:
                self._add_stored(np.array([number]))
        if image.version:
            self._read.append((self._images.refs[number], image.version, CRASHED if image.crashed else image.digest))
            if len(self._read) >= RECORDED_AT_ONCE and time.monotonic() - self._recorded_at >= RECORD_SECONDS:
                self.record()

    def record(self) -> None:
        """Record the images that were read in the file index, so that the next run does not read them."""
        self._index.record(self._read)
        self._read.clear()
        self._recorded_at = time.monotonic()

    def failures(self) -> list[Failure]:
        """The images that cannot be used, in path order."""
        return [Failure(self._images.paths[number], self.failed[number]) for number in sorted(self.failed)]
