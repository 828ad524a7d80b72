"""A worker process: it reads and decodes images into slots of shared memory.

Files are read one after another. Objects in buckets have a high latency even if they are small, so a worker's threads
read all its pending objects ahead, in parallel.
"""

import signal
from collections import deque
from collections.abc import Callable, Generator
from concurrent import futures
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

from pipeline.core.child_processes import end_with_parent
from pipeline.core.errors import ImageError, PipelineError
from pipeline.core.machine import keep_freed_memory
from pipeline.core.shared_memory import SharedMemory
from pipeline.data.decoding import decode_with_thumbnail
from pipeline.data.images import DIGEST, ImageRef, content_digest
from pipeline.features.backends.slots import SlotMemory, slot_arrays

KEPT_MEMORY = 2**25  # bytes; more than any buffer for an image of usual size
CHUNK = 8  # images assigned to a worker at a time
CHUNKS_AHEAD = 3  # largest number of chunks per worker, in progress or waiting
PULSE = 0.5  # seconds between checks of the workers' pulses

Read = Callable[[], tuple[bytes, str | None]]  # the type of `ImageRef.read`
SharedDigests = tuple[SharedMemory, int]  # and the number of digests in it


class Decoded(NamedTuple):
    """An image from a worker: its digest and, if the store lacks it, pixels and thumbnail in its slot.

    Attributes:
        number: The image's number in the set.
        slot: Its slot, to be freed by the receiver.
        digest: Its content digest; empty if it could not be read.
        version: Its version before it was read.
        is_new: Whether it was decoded; otherwise its digest is already stored, or there is an error.
        pixel_count: Its size, in pixels, if it was decoded.
        error: Why it could not be read.
        crashed: Whether `error` is that it crashed the decoding process or took too long.
    """

    number: int
    slot: int
    digest: bytes = b""
    version: str | None = None
    is_new: bool = False
    pixel_count: int = 0
    error: str = ""
    crashed: bool = False


class Task(NamedTuple):
    """An image to read, and the slot for its pixels."""

    number: int
    slot: int
    ref: ImageRef


class Pulse:
    """A worker's progress, in shared memory, so that it can be read even if the worker hangs."""

    def __init__(self, memory: SharedMemory) -> None:
        self._values = memory.array(np.int64)

    @property
    def beats(self) -> int:
        """The number of beats so far."""
        return int(self._values[0])

    @property
    def number(self) -> int:
        """The number of the image in progress."""
        return int(self._values[1])

    def begin(self, number: int) -> None:
        """Start on an image."""
        self._values[1] = number
        self.beat()

    def beat(self) -> None:
        """Advance."""
        self._values[0] += 1


def shared_digests(digests: np.ndarray) -> SharedDigests:
    """Copy an array of digests into shared memory, so that pools can share it."""
    memory = SharedMemory(digests.nbytes)
    memory.array(DIGEST, len(digests))[:] = digests
    return memory, len(digests)


def work(
    connection: Connection,
    pulse_memory: SharedMemory,
    memory: SlotMemory,
    stored: SharedDigests,
    max_pixels: int,
    resize: str,
) -> None:
    """The main function of a worker process: read and decode the tasks that arrive through a connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    end_with_parent()
    keep_freed_memory(KEPT_MEMORY)
    known = stored[0].array(DIGEST, stored[1])
    arrays = slot_arrays(memory)
    pulse = Pulse(pulse_memory)
    inbox = _Inbox(connection, pulse)
    connection.send("ready")
    with suppress(EOFError, ConnectionError):  # the parent is done
        try:
            while True:
                connection.send(
                    [_decode(task, read, known, arrays, max_pixels, resize) for task, read in inbox.next_chunk()]
                )
        except PipelineError as error:
            connection.send(error)


class _Inbox:
    """The chunks that a worker received; reads of objects in buckets start on receipt."""

    def __init__(self, connection: Connection, pulse: Pulse) -> None:
        self._connection = connection
        self._pulse = pulse
        self._chunks: deque[list[tuple[Task, Read]]] = deque()
        # Starts no thread until it is used.
        self._readers = futures.ThreadPoolExecutor(CHUNK * CHUNKS_AHEAD, "reader")

    def next_chunk(self) -> Generator[tuple[Task, Read], None, None]:
        """The images of the next chunk, each with a function that reads it."""
        if not self._chunks:
            self._receive()
        chunk = self._chunks.popleft()
        for task, read in chunk:
            while _is_read_ahead(task.ref, len(chunk)) and self._connection.poll():
                self._receive()
            self._pulse.begin(task.number)
            yield task, read

    def _receive(self) -> None:
        tasks = self._connection.recv()
        self._chunks.append([(task, self._reading(task.ref, len(tasks))) for task in tasks])

    def _reading(self, ref: ImageRef, count: int) -> Read:
        if ref.is_local:
            return ref.read
        if _is_read_ahead(ref, count):
            reading = self._readers.submit(ref.read)
            return lambda: self._outcome(reading)
        return lambda: self._outcome(self._readers.submit(ref.read))

    def _outcome(self, reading: futures.Future[tuple[bytes, str | None]]) -> tuple[bytes, str | None]:
        """The result of a read; the pulse advances while waiting for it."""
        while futures.wait([reading], PULSE).not_done:
            self._pulse.beat()
        return reading.result()


def _is_read_ahead(ref: ImageRef, count: int) -> bool:
    """Whether to read an image ahead; not if it is alone in its chunk, as it may have crashed a process."""
    return count > 1 and ref.is_remote


def _decode(
    task: Task, read: Read, stored: np.ndarray, slots: tuple[np.ndarray, np.ndarray], max_pixels: int, resize: str
) -> Decoded:
    """Decode an image into its slot, unless its feature is stored."""
    number, slot, _ = task
    try:
        data, version = read()
        digest = content_digest(data)
        position = np.searchsorted(stored, np.void(digest))
        if position < len(stored) and stored[position].tobytes() == digest:
            return Decoded(number, slot, digest, version)
        pixels, thumbnails = slots
        pixels[slot], thumbnails[slot], pixel_count = decode_with_thumbnail(data, max_pixels, resize)
        return Decoded(number, slot, digest, version, True, pixel_count)
    except ImageError as error:
        return Decoded(number, slot, error=str(error))
    except MemoryError:
        return Decoded(number, slot, error="there was too little memory for it")
