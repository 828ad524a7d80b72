"""The survey of an extraction: which image has which content, and which contents have to be computed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.data.image_files import too_large
from pipeline.data.images import DIGEST, ImageRef, ImageSet
from pipeline.features.file_index import CRASHED, FileIndex
from pipeline.features.slots import Slots
from pipeline.features.store import FeatureStore
from pipeline.features.store_group import StoreGroup
from pipeline.features.workers import Decoded

RECORDED_AT_ONCE = 1024  # images


@dataclass(frozen=True)
class Failure:
    """An image that was skipped, and why."""

    path: str
    error: str


class Survey:
    """What is known of each image of a set; `new` completes it.

    Args:
        images: The images.
        stores: The feature stores.
        index: The file index.
        max_pixels: The size of the largest image to use, in pixels.
        retry_crashed: Whether to decode images again that ended a process before.

    Attributes:
        digests: The content digest of each image that is known, shape (N,), DIGEST.
        has_feature: Whether all its features are stored, or will be at the end, shape (N,), bool.
        unknown: The numbers of the images that have to be read.
        failed: The images that cannot be used, by number.
    """

    def __init__(
        self, images: ImageSet, stores: StoreGroup, index: FileIndex, max_pixels: int, retry_crashed: bool = False
    ) -> None:
        self._images, self._stores, self._index, self._max_pixels = images, stores, index, max_pixels
        self.digests = np.zeros(len(images), DIGEST)
        self.has_feature = np.zeros(len(images), bool)
        self.failed: dict[int, str] = {}
        self._read: list[tuple[ImageRef, str, bytes]] = []
        self._scheduled: set[bytes] = set()
        is_known = np.zeros(len(images), bool)
        for number, digest in enumerate(index.digests(images.refs)):
            if digest == CRASHED and not retry_crashed:
                self.failed[number] = "decoding it ended a process before; verify=True tries again"
            elif digest:
                self.digests[number] = digest
                is_known[number] = True
        self._has_digest = is_known.copy()
        is_known[is_known] = stores.contains(self.digests[is_known])
        self._add_stored(np.flatnonzero(is_known))
        is_known[list(self.failed)] = True
        self.unknown: list[int] = np.flatnonzero(~is_known).tolist()

    def _add_stored(self, numbers: np.ndarray) -> None:
        """Note images whose features are stored; their sizes are checked as if they were decoded now."""
        counts = self._stores.pixel_counts(self.digests[numbers])
        self.has_feature[numbers] = counts <= self._max_pixels
        for number, count in zip(numbers[counts > self._max_pixels], counts[counts > self._max_pixels], strict=True):
            self.failed[int(number)] = too_large(int(count), self._max_pixels)

    def may_lack(self, store: FeatureStore) -> bool:
        """Whether a store lacks an image that has to be read, or may do so as the content is not known yet."""
        known = self._has_digest[self.unknown]
        return not (known.all() and store.contains(self.digests[self.unknown]).all())

    def drop_incomplete(self) -> None:
        """Drop images that a store turns out to lack: they changed after the survey had found them in it."""
        numbers = np.flatnonzero(self.has_feature)
        for number in numbers[~self._stores.contains(self.digests[numbers])]:
            self.has_feature[number] = False
            self.failed[int(number)] = "it changed while it was read; run the same command again"

    def new(self, decoded: Iterator[Decoded], slots: Slots, bar: Any) -> Iterator[Decoded]:
        """Note each image as it comes; pass on those whose feature has to be computed, one of several duplicates.

        Args:
            decoded: The images that were unknown.
            slots: Their slots; those that are not passed on are given back.
            bar: The progress bar, which counts what is not passed on.

        Yields:
            The images to compute.
        """
        for image in decoded:
            if self.note(image):
                yield image
            else:
                slots.give_back([image.slot])
                bar.update()
        self.record()

    def note(self, image: Decoded) -> bool:
        """Note an image as it comes.

        Returns:
            Whether its feature has to be stored: it is not yet, and this is the first of several duplicates.
        """
        self._note(image)
        if not image.is_new or image.digest in self._scheduled or self._stores.has_arrived(image.digest):
            return False
        self._scheduled.add(image.digest)
        return True

    def _note(self, image: Decoded) -> None:
        number = image.number
        if image.error:
            self.failed[number] = image.error
        else:
            self.digests[number] = image.digest
            if image.is_new:
                self.has_feature[number] = True
            else:
                self._add_stored(np.array([number]))
        if image.version:
            self._read.append((self._images.refs[number], image.version, CRASHED if image.crashed else image.digest))
            if len(self._read) == RECORDED_AT_ONCE:
                self.record()

    def record(self) -> None:
        """Record the images that were read in the file index, so that the next run does not read them."""
        self._index.record(self._read)
        self._read.clear()

    def failures(self) -> list[Failure]:
        """The images that cannot be used, in path order."""
        return [Failure(self._images.paths[number], self.failed[number]) for number in sorted(self.failed)]
