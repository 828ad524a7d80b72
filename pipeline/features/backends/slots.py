"""Slots in shared memory: workers write pixels into them, and the engine reads batches without copying."""

import threading
from collections.abc import Sequence

import numpy as np

from pipeline.core.shared_memory import SharedMemory
from pipeline.data.decoding import SIDE, THUMBNAIL

SlotMemory = tuple[SharedMemory, SharedMemory]  # for the pixels and for the thumbnails


class Slots:
    """Slots for decoded images, reused once the image's feature is computed. One thread takes slots, any may free them.

    Args:
        count: The number of slots.

    Raises:
        PipelineError: The system has too little memory.
    """

    def __init__(self, count: int) -> None:
        self.memory: SlotMemory = SharedMemory(count * SIDE * SIDE * 3), SharedMemory(count * THUMBNAIL**2)
        self.pixels, self.thumbnails = slot_arrays(self.memory)
        self._is_free = np.ones(count, bool)
        self._next = 0
        self._change = threading.Condition()

    def take(self, count: int) -> list[int]:
        """Take the next free slots, in circular order; none if fewer than `count` are free.

        Images of a batch arrive in the order of their slots, so they are usually adjacent.
        """
        with self._change:
            free = np.flatnonzero(self._is_free)
            if len(free) < count:
                return []
            slots = np.roll(free, -np.searchsorted(free, self._next))[:count]
            self._is_free[slots] = False
        self._next = slots[-1] + 1
        return slots.tolist()

    def give_back(self, slots: Sequence[int]) -> None:
        """Free slots."""
        with self._change:
            self._is_free[slots] = True
            self._change.notify()

    def wait_for(self, count: int) -> None:
        """Wait until `count` slots are free."""
        with self._change:
            self._change.wait_for(lambda: self._is_free.sum() >= count)

    def batch(self, slots: Sequence[int], size: int) -> np.ndarray:
        """The pixels in some slots, shape (size, 224, 224, 3), uint8, padded with black images.

        Adjacent slots are returned as a view; others are copied.
        """
        first = slots[0]
        if list(slots) == list(range(first, first + size)):
            return self.pixels[first : first + size]
        pixels = np.zeros((size, SIDE, SIDE, 3), np.uint8)
        np.take(self.pixels, slots, axis=0, out=pixels[: len(slots)], mode="clip")
        return pixels


def slot_arrays(memory: SlotMemory) -> tuple[np.ndarray, np.ndarray]:
    """The slots of a shared memory as arrays.

    Returns:
        Pixels, shape (slots, 224, 224, 3), and thumbnails, shape (slots, THUMBNAIL, THUMBNAIL), both uint8.
    """
    pixels, thumbnails = (part.array(np.uint8) for part in memory)
    return pixels.reshape(-1, SIDE, SIDE, 3), thumbnails.reshape(-1, THUMBNAIL, THUMBNAIL)
