"""Worker processes that read and decode images ahead of the engine.

Pixels and thumbnails go into slots of shared memory; what travels through the pipes is a few words for each image. A
worker that dies is replaced, and the images it had are read again one at a time, so that the one it died of is known.

Files are read when it is their turn. Objects in buckets, which take long to come however small they are, are read ahead
in threads of the worker: all that it was given at once.
"""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import numpy as np

from pipeline.core.child_processes import end_with_parent, start_spawned
from pipeline.core.errors import ImageError, PipelineError
from pipeline.core.freed_memory import keep_freed_memory
from pipeline.data.decoding import decode_with_thumbnail
from pipeline.data.images import DIGEST, ImageRef, content_digest
from pipeline.features.slots import SharedMemory, Slots, slot_arrays

KEPT_MEMORY = 2**25  # bytes; more than any part of an image of usual size
CHUNK = 8  # images that a worker is given at a time
CHUNKS_AHEAD = 3  # chunks that a worker has at most, in work or waiting

Read = Callable[[], tuple[bytes, str | None]]  # what `ImageRef.read` is
SharedDigests = tuple[Any, int]  # multiprocessing's raw array, and how many digests it holds


class Decoded(NamedTuple):
    """One image from a worker: its digest and, where the store lacks it, pixels and thumbnail in its slot.

    Attributes:
        number: The image's number in the set.
        slot: Its slot, which is to be given back.
        digest: Its content digest; empty where it could not be read.
        version: Its version from before it was read.
        is_new: Whether it was decoded; otherwise its digest is among those stored, or there is an error.
        pixel_count: Its size, in pixels, if it was decoded.
        error: Why it could not be read.
        crashed: Whether that was because it killed the process that decoded it.
    """

    number: int
    slot: int
    digest: bytes = b""
    version: str | None = None
    is_new: bool = False
    pixel_count: int = 0
    error: str = ""
    crashed: bool = False


class _Task(NamedTuple):
    number: int
    slot: int
    ref: ImageRef


@dataclass
class _Chunk:
    """Images that come back together; `found` fills up in their order."""

    tasks: Sequence[_Task]
    found: list[Decoded] = field(default_factory=list)
    one_by_one: bool = False


def decode_ahead(
    refs: Sequence[ImageRef],
    numbers: Sequence[int],
    stored: np.ndarray,
    slots: Slots,
    workers: int,
    max_pixels: int,
    resize: str = "squash",
) -> Generator[Decoded, None, None]:
    """Read and decode images in worker processes, as far ahead as there are slots.

    Args:
        refs: Where the images of the set are.
        numbers: Those to read, by their number in the set.
        stored: Digests of images that need no decoding, sorted, shape (n,), DIGEST.
        slots: Where the pixels go; a batch and a chunk have to fit.
        workers: The most processes to use.
        max_pixels: The size of the largest image to decode, in pixels.
        resize: How to resize, a key of `pipeline.data.decoding.RESIZES`.

    Yields:
        The images, in the order of `numbers`.

    Raises:
        PipelineError: The worker processes do not start, or the bucket that holds the images cannot be read.
    """
    if not numbers:
        return
    count = min(workers, -(-len(numbers) // CHUNK))
    with closing(WorkerPool(count, shared_digests(stored), slots, max_pixels, resize)) as pool:
        yield from pool.decode(refs, numbers)


class _Worker:
    """A process, and what it was given and has not answered yet, in order."""

    def __init__(self, settings: tuple[Any, ...]) -> None:
        # Spawned, not forked: neither TensorFlow nor Lance survives a fork.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, *settings), daemon=True)
        start_spawned(self.process)
        theirs.close()
        self.is_ready = False
        self.given: deque[tuple[_Chunk, Sequence[_Task]]] = deque()

    def give(self, chunk: _Chunk, tasks: Sequence[_Task]) -> None:
        self.given.append((chunk, tasks))
        with suppress(OSError):  # it has died, which is noticed when its answer is read
            self.connection.send(tasks)

    def stop(self) -> None:
        self.process.terminate()  # first: one that finds the connection closed would say so
        self.process.join()
        self.connection.close()


class WorkerPool:
    """The workers; one that dies is replaced.

    Args:
        count: How many there are.
        stored: Digests of images that need no decoding, by `shared_digests`.
        slots: Where the pixels go.
        max_pixels: See `decode_ahead`.
        resize: See there.
    """

    def __init__(self, count: int, stored: SharedDigests, slots: Slots, max_pixels: int, resize: str) -> None:
        self._slots = slots
        self._settings = (slots.memory, stored, max_pixels, resize)
        self._workers = [_Worker(self._settings) for _ in range(count)]

    def decode(
        self, refs: Sequence[ImageRef] | Mapping[int, ImageRef], numbers: Sequence[int]
    ) -> Generator[Decoded, None, None]:
        """Read and decode images as `decode_ahead` does; once that is over, others may follow."""
        waiting = deque(numbers[at : at + CHUNK] for at in range(0, len(numbers), CHUNK))
        ahead: deque[_Chunk] = deque()
        while waiting or ahead:
            while waiting and self._has_room and (places := self._slots.take(len(waiting[0]))):
                pairs = zip(waiting.popleft(), places, strict=True)
                ahead.append(_Chunk([_Task(number, slot, refs[number]) for number, slot in pairs]))
                self._give(ahead[-1])
            if ahead and len(ahead[0].found) == len(ahead[0].tasks):
                yield from ahead.popleft().found
            elif self._is_busy:
                self._receive()
            else:
                self._slots.wait()

    @property
    def _has_room(self) -> bool:
        """Whether a worker can be given a chunk."""
        return any(len(worker.given) < CHUNKS_AHEAD for worker in self._workers)

    @property
    def _is_busy(self) -> bool:
        """Whether an answer is to come."""
        return any(worker.given for worker in self._workers)

    def _give(self, chunk: _Chunk) -> None:
        """Give a chunk to the worker that has the least to do."""
        min(self._workers, key=lambda worker: len(worker.given)).give(chunk, chunk.tasks)

    def _receive(self) -> None:
        """Wait for answers; replace workers that died.

        Raises:
            PipelineError: No worker starts, or one met what no other image would be spared.
        """
        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection)):
            worker = by_connection[connection]  # type: ignore[index]
            try:
                answer = worker.connection.recv()
            except (EOFError, OSError):
                self._replace(worker)
                continue
            if isinstance(answer, PipelineError):
                raise answer
            if worker.is_ready:
                chunk, _ = worker.given.popleft()
                chunk.found += answer
            worker.is_ready = True

    def _replace(self, died: _Worker) -> None:
        """Start a worker in the place of one that died, and give it what that one had."""
        died.process.join()
        if not died.is_ready:
            raise PipelineError(
                f"The processes that read images cannot be started ({_cause_of_death(died.process.exitcode)}). "
                "The features computed so far are stored. They import the script that started them: in a script, "
                'features are asked for below `if __name__ == "__main__":`.'
            )
        new = self._workers[self._workers.index(died)] = _Worker(self._settings)
        if died.given:
            chunk, tasks = died.given.popleft()
            if chunk.one_by_one:
                [task] = tasks
                error = f"decoding it ended the process ({_cause_of_death(died.process.exitcode)})"
                chunk.found.append(
                    Decoded(task.number, task.slot, version=task.ref.version(), error=error, crashed=True)
                )
            else:
                chunk.one_by_one = True
                for task in tasks:
                    new.give(chunk, [task])
        for chunk, tasks in died.given:
            new.give(chunk, tasks)

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.stop()


def _cause_of_death(exitcode: int | None) -> str:
    if exitcode == -signal.SIGKILL:
        return "it was killed, possibly out of memory"
    return signal.Signals(-exitcode).name if exitcode and exitcode < 0 else f"exit code {exitcode}"


def shared_digests(digests: np.ndarray) -> SharedDigests:
    """A copy of an array of digests in shared memory, which pools can share."""
    memory = multiprocessing.get_context("spawn").RawArray("B", max(1, digests.nbytes))
    memory[: digests.nbytes] = digests.tobytes()
    return memory, len(digests)


def _work(connection: Connection, memory: SharedMemory, stored: SharedDigests, max_pixels: int, resize: str) -> None:
    """Read and decode what comes through a connection, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    end_with_parent()
    keep_freed_memory(KEPT_MEMORY)
    known = np.frombuffer(stored[0], DIGEST, stored[1])
    arrays = slot_arrays(memory)
    inbox = _Inbox(connection)
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
    """What a worker was given; the reads of objects in buckets begin when it is looked through."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._chunks: deque[list[tuple[_Task, Read]]] = deque()
        self._readers = ThreadPoolExecutor(CHUNK * CHUNKS_AHEAD, "reader")  # has no thread before it is used

    def next_chunk(self) -> Generator[tuple[_Task, Read], None, None]:
        """The images of the next chunk, each with how to read it."""
        if not self._chunks:
            self._receive()
        chunk = self._chunks.popleft()
        for task, read in chunk:
            while _is_read_ahead(task.ref, len(chunk)) and self._connection.poll():
                self._receive()
            yield task, read

    def _receive(self) -> None:
        tasks = self._connection.recv()
        self._chunks.append([(task, self._reading(task.ref, len(tasks))) for task in tasks])

    def _reading(self, ref: ImageRef, count: int) -> Read:
        return self._readers.submit(ref.read).result if _is_read_ahead(ref, count) else ref.read


def _is_read_ahead(ref: ImageRef, count: int) -> bool:
    """Whether to read an image ahead; not one that comes alone, for a process may have died of it."""
    return count > 1 and ref.is_remote


def _decode(
    task: _Task, read: Read, stored: np.ndarray, slots: tuple[np.ndarray, np.ndarray], max_pixels: int, resize: str
) -> Decoded:
    """Decode one image into its slot, unless its feature is stored."""
    number, slot, _ = task
    try:
        data, version = read()
        digest = content_digest(data)
        place = np.searchsorted(stored, np.void(digest))
        if place < len(stored) and stored[place].tobytes() == digest:
            return Decoded(number, slot, digest, version)
        pixels, thumbnails = slots
        pixels[slot], thumbnails[slot], pixel_count = decode_with_thumbnail(data, max_pixels, resize)
        return Decoded(number, slot, digest, version, True, pixel_count)
    except ImageError as error:
        return Decoded(number, slot, error=str(error))
