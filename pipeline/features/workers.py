"""Worker processes that read and decode images ahead of the engine.

Pixels and thumbnails go into slots of shared memory; what travels through the pipes is a few words for each image. A
worker that dies is replaced, and the images it had are read again one at a time, so that the one it died of is known.
So is one that stays silent: each has a pulse in shared memory, which it advances with every image.

Files are read when it is their turn. Objects in buckets, which take long to come however small they are, are read ahead
in threads of the worker: all that it was given at once.
"""

import logging
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent import futures
from contextlib import closing, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import numpy as np

from pipeline.core.child_processes import end, end_with_parent, start_spawned
from pipeline.core.errors import ImageError, Parameter, PipelineError, cause
from pipeline.core.freed_memory import keep_freed_memory
from pipeline.core.shared_memory import SharedMemory
from pipeline.data.decoding import decode_with_thumbnail
from pipeline.data.images import DIGEST, ImageRef, content_digest
from pipeline.features.slots import SlotMemory, Slots, slot_arrays

log = logging.getLogger(__name__)

KEPT_MEMORY = 2**25  # bytes; more than any part of an image of usual size
CHUNK = 8  # images that a worker is given at a time
CHUNKS_AHEAD = 3  # chunks that a worker has at most, in work or waiting
# The largest image that is decoded takes seconds. Not counted is the wait for an object in a bucket, whose server has
# a limit of its own, and for an example of a TensorFlow data set, before which all others are read.
TIME_LIMIT = 60.0  # seconds to read and decode an image
START_LIMIT = 120.0  # seconds for a worker to start
PULSE = 0.5  # seconds between two looks at the workers' pulses

Read = Callable[[], tuple[bytes, str | None]]  # what `ImageRef.read` is
SharedDigests = tuple[SharedMemory, int]  # and how many digests it holds


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
        crashed: Whether that was because it ended the process that decoded it, or took too long.
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
    suspects: Sequence[int] = (),
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
        suspects: Further images to read, which ended a process before: after all others, one at a time.

    Yields:
        The images, in the order of `numbers` and `suspects`.

    Raises:
        PipelineError: The worker processes do not start, or the bucket that holds the images cannot be read.
    """
    if not numbers and not suspects:
        return
    count = min(workers, max(1, -(-len(numbers) // CHUNK)))
    with closing(WorkerPool(count, shared_digests(stored), slots, max_pixels, resize)) as pool:
        yield from pool.decode(refs, numbers, suspects)


class _Worker:
    """A process, and what it was given and has not answered yet, in order.

    Raises:
        PipelineError: The system has no room for another process.
    """

    def __init__(self, settings: tuple[Any, ...]) -> None:
        # Spawned, not forked: neither TensorFlow nor Lance survives a fork.
        context = multiprocessing.get_context("spawn")
        pulse = SharedMemory(16)
        self._pulse = _Pulse(pulse)
        try:
            self.connection, theirs = context.Pipe()
            self.process = context.Process(target=_work, args=(theirs, pulse, *settings), daemon=True)
            start_spawned(self.process)
        except OSError as error:
            raise PipelineError(
                f"The system starts no process that reads images ({cause(error)}). Use fewer ",
                Parameter("workers", "N"),
                ", or raise the limits of processes and open files (ulimit -u, ulimit -n). The features computed "
                "so far are stored.",
            ) from error
        theirs.close()
        self.is_ready = False
        self.given: deque[tuple[_Chunk, Sequence[_Task]]] = deque()
        self._looked_at, self._last_beat, self._silent = time.monotonic(), 0, 0.0  # seconds

    def give(self, chunk: _Chunk, tasks: Sequence[_Task]) -> None:
        self.given.append((chunk, tasks))
        with suppress(OSError):  # it has died, which is noticed when its answer is read
            self.connection.send(tasks)

    def note_answer(self) -> None:
        """Note that it has answered."""
        self.is_ready, self._silent = True, 0.0

    @property
    def is_silent(self) -> bool:
        """Whether it has something to do, and was seen to do nothing for too long.

        Time in which nobody looks does not count: this process may have been stopped together with it.
        """
        now, beat = time.monotonic(), self._pulse.beats
        passed, self._looked_at = min(now - self._looked_at, 2 * PULSE), now
        is_waiting = self.is_ready and not self.given
        self._silent = 0.0 if is_waiting or beat != self._last_beat else self._silent + passed
        self._last_beat = beat
        return self._silent > (TIME_LIMIT if self.is_ready else START_LIMIT)

    @property
    def number(self) -> int:
        """The number of the image that it has in work."""
        return self._pulse.number

    def cause_of_death(self) -> str:
        """Why it ended; it is about to, as its connection is closed."""
        self.process.join(PULSE)
        end([self.process])
        code = self.process.exitcode
        if code == -signal.SIGKILL:
            how = "it was killed, possibly out of memory"
        else:
            how = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
        return f"decoding it ended the process ({how})" if self.is_ready else how


class _Pulse:
    """What a worker has in work, in shared memory, so that it shows even where the worker has stopped."""

    def __init__(self, memory: SharedMemory) -> None:
        self._values = memory.array(np.int64)

    @property
    def beats(self) -> int:
        return int(self._values[0])

    @property
    def number(self) -> int:
        return int(self._values[1])

    def begin(self, number: int) -> None:
        """An image's turn has come."""
        self._values[1] = number
        self.beat()

    def beat(self) -> None:
        self._values[0] += 1


class WorkerPool:
    """The workers; one that dies is replaced.

    Args:
        count: How many there are.
        stored: Digests of images that need no decoding, by `shared_digests`.
        slots: Where the pixels go.
        max_pixels: See `decode_ahead`.
        resize: See there.

    Raises:
        PipelineError: The system has no room for so many processes.
    """

    def __init__(self, count: int, stored: SharedDigests, slots: Slots, max_pixels: int, resize: str) -> None:
        self._slots = slots
        self._settings = (slots.memory, stored, max_pixels, resize)
        self._workers: list[_Worker] = []
        try:
            for _ in range(count):
                self._workers.append(_Worker(self._settings))
        except BaseException:
            self.close()
            raise

    def decode(
        self, refs: Sequence[ImageRef] | Mapping[int, ImageRef], numbers: Sequence[int], suspects: Sequence[int] = ()
    ) -> Generator[Decoded, None, None]:
        """Read and decode images as `decode_ahead` does; once that is over, others may follow."""
        waiting = deque(numbers[at : at + CHUNK] for at in range(0, len(numbers), CHUNK))
        waiting.extend([number] for number in suspects)
        ahead: deque[_Chunk] = deque()
        while waiting or ahead:
            is_suspect = len(waiting) <= len(suspects)
            has_room = not self._is_busy if is_suspect else self._has_room
            if waiting and has_room and (places := self._slots.take(len(waiting[0]))):
                pairs = zip(waiting.popleft(), places, strict=True)
                tasks = [_Task(number, slot, refs[number]) for number, slot in pairs]
                ahead.append(_Chunk(tasks, one_by_one=is_suspect))
                self._give(ahead[-1])
                continue
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
        """Wait for answers; replace workers that died or stay silent.

        Raises:
            PipelineError: No worker starts, or one met what no other image would be spared.
        """
        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), PULSE):
            worker = by_connection[connection]  # type: ignore[index]
            try:
                answer = worker.connection.recv()
            except (EOFError, OSError):
                self._replace(worker, worker.cause_of_death())
                continue
            if isinstance(answer, PipelineError):
                raise answer
            if worker.is_ready:
                chunk, _ = worker.given.popleft()
                chunk.found += answer
            worker.note_answer()
        for worker in [worker for worker in self._workers if worker.is_silent]:
            self._give_up(worker)

    def _give_up(self, worker: _Worker) -> None:
        """Replace a worker that stays silent."""
        end([worker.process])
        if not worker.is_ready:
            self._replace(worker, f"no answer within {START_LIMIT:g} s")
            return
        chunk, tasks = worker.given[0]
        too_long = f"took longer than {TIME_LIMIT:g} s to read and decode"
        for task in tasks:
            if task.number == worker.number and not chunk.one_by_one:
                log.warning("%s %s; it is tried once more, on its own.", task.ref.uri, too_long)
        self._replace(worker, f"it {too_long}")

    def _replace(self, ended: _Worker, why: str) -> None:
        """Start a worker in the place of one that ended, and give it what that one had.

        Args:
            ended: The worker.
            why: What is said of an image that it had alone.
        """
        ended.connection.close()
        if not ended.is_ready:
            raise PipelineError(
                f"The processes that read images cannot be started ({why}). The features computed so far are stored. "
                "They import the script that started them: in a script, features are asked for below "
                '`if __name__ == "__main__":`.'
            )
        new = self._workers[self._workers.index(ended)] = _Worker(self._settings)
        if ended.given:
            chunk, tasks = ended.given.popleft()
            if chunk.one_by_one:
                [task] = tasks
                chunk.found.append(Decoded(task.number, task.slot, version=task.ref.version(), error=why, crashed=True))
            else:
                chunk.one_by_one = True
                for task in tasks:
                    new.give(chunk, [task])
        for chunk, tasks in ended.given:
            new.give(chunk, tasks)

    def close(self) -> None:
        """End the workers."""
        end([worker.process for worker in self._workers])
        for worker in self._workers:
            worker.connection.close()


def shared_digests(digests: np.ndarray) -> SharedDigests:
    """A copy of an array of digests in shared memory, which pools can share."""
    memory = SharedMemory(digests.nbytes)
    memory.array(DIGEST, len(digests))[:] = digests
    return memory, len(digests)


def _work(
    connection: Connection,
    pulse_memory: SharedMemory,
    memory: SlotMemory,
    stored: SharedDigests,
    max_pixels: int,
    resize: str,
) -> None:
    """Read and decode what comes through a connection, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    end_with_parent()
    keep_freed_memory(KEPT_MEMORY)
    known = stored[0].array(DIGEST, stored[1])
    arrays = slot_arrays(memory)
    pulse = _Pulse(pulse_memory)
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
    """What a worker was given; the reads of objects in buckets begin when it is looked through."""

    def __init__(self, connection: Connection, pulse: _Pulse) -> None:
        self._connection = connection
        self._pulse = pulse
        self._chunks: deque[list[tuple[_Task, Read]]] = deque()
        # Has no thread before it is used.
        self._readers = futures.ThreadPoolExecutor(CHUNK * CHUNKS_AHEAD, "reader")

    def next_chunk(self) -> Generator[tuple[_Task, Read], None, None]:
        """The images of the next chunk, each with how to read it."""
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
        if ref.is_file and not ref.is_remote:
            return ref.read
        if _is_read_ahead(ref, count):
            reading = self._readers.submit(ref.read)
            return lambda: self._outcome(reading)
        return lambda: self._outcome(self._readers.submit(ref.read))

    def _outcome(self, reading: futures.Future[tuple[bytes, str | None]]) -> tuple[bytes, str | None]:
        """The outcome of a read; the wait for it does not count as silence."""
        while futures.wait([reading], PULSE).not_done:
            self._pulse.beat()
        return reading.result()


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
    except MemoryError:
        return Decoded(number, slot, error="there was too little memory for it")
