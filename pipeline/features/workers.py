"""Worker processes that read and decode images ahead of the engine.

Pixels and thumbnails go into slots of shared memory; pipes carry only a few words per image. A worker that dies is
replaced, and its images are read again one at a time, to identify the one that killed it. A worker that hangs is
replaced, too: each has a pulse in shared memory, which it advances with every image.

Files are read in turn. Objects in buckets have a high latency even if they are small, so threads of a worker read all
its pending objects ahead, at once.
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

KEPT_MEMORY = 2**25  # bytes; more than any buffer for an image of usual size
CHUNK = 8  # images assigned to a worker at a time
CHUNKS_AHEAD = 3  # maximum chunks of a worker, in progress or waiting
# The largest image takes seconds to decode. The wait for an object in a bucket does not count, as its server has a time
# limit, too; nor does the wait for an example of a TensorFlow data set, as all examples before it are read first.
TIME_LIMIT = 60.0  # seconds to read and decode an image
START_LIMIT = 120.0  # seconds for a worker to start
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
        crashed: Whether the reason is that it crashed the decoding process, or took too long.
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
    """Images that are returned together; `decoded` is filled in their order."""

    tasks: Sequence[_Task]
    decoded: list[Decoded] = field(default_factory=list)
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
    """Read and decode images in worker processes, as far ahead as slots allow.

    Args:
        refs: The references of all images of the set.
        numbers: The numbers of the images to read.
        stored: Digests of images that need no decoding, sorted, shape (n,), DIGEST.
        slots: The slots for the pixels; at least for a batch and a chunk.
        workers: The maximum number of processes.
        max_pixels: The size of the largest image to decode, in pixels.
        resize: How to resize, a key of `pipeline.data.decoding.RESIZES`.
        suspects: The numbers of images that crashed a process before; they are read last, one at a time.

    Yields:
        The images, in the order of `numbers` and `suspects`.

    Raises:
        PipelineError: The worker processes do not start, or the bucket of the images cannot be read.
    """
    if not numbers and not suspects:
        return
    count = min(workers, max(1, -(-len(numbers) // CHUNK)))
    with closing(WorkerPool(count, shared_digests(stored), slots, max_pixels, resize)) as pool:
        yield from pool.decode(refs, numbers, suspects)


class _Worker:
    """A process and its pending tasks, in order.

    Raises:
        PipelineError: The system cannot start another process.
    """

    def __init__(self, settings: tuple[Any, ...]) -> None:
        # Spawned, not forked: neither TensorFlow nor Lance survives a fork.
        context = multiprocessing.get_context("spawn")
        pulse = SharedMemory(16)
        self._pulse = _Pulse(pulse)
        try:
            self.connection, child_end = context.Pipe()
            self.process = context.Process(target=_work, args=(child_end, pulse, *settings), daemon=True)
            start_spawned(self.process)
        except OSError as error:
            raise PipelineError(
                f"The system starts no process that reads images ({cause(error)}). Use fewer ",
                Parameter("workers", "N"),
                ", or raise the limits of processes and open files (ulimit -u, ulimit -n). The features computed "
                "so far are stored.",
            ) from error
        child_end.close()
        self.is_ready = False
        self.pending: deque[tuple[_Chunk, Sequence[_Task]]] = deque()
        self._checked_at, self._last_beat, self._silent = time.monotonic(), 0, 0.0  # seconds

    def assign(self, chunk: _Chunk, tasks: Sequence[_Task]) -> None:
        self.pending.append((chunk, tasks))
        with suppress(OSError):  # it died, which `_receive` will notice
            self.connection.send(tasks)

    def note_answer(self) -> None:
        """Record that it has answered."""
        self.is_ready, self._silent = True, 0.0

    @property
    def is_silent(self) -> bool:
        """Whether it has work but has made no progress for too long.

        Time without checks does not count: this process may have been stopped together with the worker.
        """
        now, beat = time.monotonic(), self._pulse.beats
        passed, self._checked_at = min(now - self._checked_at, 2 * PULSE), now
        is_waiting = self.is_ready and not self.pending
        self._silent = 0.0 if is_waiting or beat != self._last_beat else self._silent + passed
        self._last_beat = beat
        return self._silent > (TIME_LIMIT if self.is_ready else START_LIMIT)

    @property
    def number(self) -> int:
        """The number of the image in progress."""
        return self._pulse.number

    def cause_of_death(self) -> str:
        """Why it ended, or is about to end, as its connection is closed."""
        self.process.join(PULSE)
        end([self.process])
        code = self.process.exitcode
        ending = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
        if ending == "SIGKILL":  # by name, as Windows has no such signal
            ending = "it was killed, possibly out of memory"
        return f"decoding it ended the process ({ending})" if self.is_ready else ending


class _Pulse:
    """The progress of a worker, in shared memory, so that it can be read even if the worker hangs."""

    def __init__(self, memory: SharedMemory) -> None:
        self._values = memory.array(np.int64)

    @property
    def beats(self) -> int:
        return int(self._values[0])

    @property
    def number(self) -> int:
        return int(self._values[1])

    def begin(self, number: int) -> None:
        """Start on an image."""
        self._values[1] = number
        self.beat()

    def beat(self) -> None:
        self._values[0] += 1


class WorkerPool:
    """A pool of workers; one that dies is replaced.

    Args:
        count: The number of workers.
        stored: Digests of images that need no decoding, from `shared_digests`.
        slots: The slots for the pixels.
        max_pixels: See `decode_ahead`.
        resize: See `decode_ahead`.

    Raises:
        PipelineError: The system cannot start so many processes.
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
        """Read and decode images like `decode_ahead`; after one call ends, another may follow."""
        waiting = deque(numbers[at : at + CHUNK] for at in range(0, len(numbers), CHUNK))
        waiting.extend([number] for number in suspects)
        ahead: deque[_Chunk] = deque()
        while waiting or ahead:
            is_suspect = len(waiting) <= len(suspects)
            has_room = not self._is_busy if is_suspect else self._has_room
            if waiting and has_room and (slots := self._slots.take(len(waiting[0]))):
                pairs = zip(waiting.popleft(), slots, strict=True)
                tasks = [_Task(number, slot, refs[number]) for number, slot in pairs]
                ahead.append(_Chunk(tasks, one_by_one=is_suspect))
                self._assign(ahead[-1])
                continue
            if ahead and len(ahead[0].decoded) == len(ahead[0].tasks):
                yield from ahead.popleft().decoded
            elif self._is_busy:
                self._receive()
            else:
                self._slots.wait()

    @property
    def _has_room(self) -> bool:
        """Whether a worker can take another chunk."""
        return any(len(worker.pending) < CHUNKS_AHEAD for worker in self._workers)

    @property
    def _is_busy(self) -> bool:
        """Whether any worker has pending tasks."""
        return any(worker.pending for worker in self._workers)

    def _assign(self, chunk: _Chunk) -> None:
        """Assign a chunk to the worker with the fewest pending ones."""
        min(self._workers, key=lambda worker: len(worker.pending)).assign(chunk, chunk.tasks)

    def _receive(self) -> None:
        """Wait for answers; replace workers that died or hang.

        Raises:
            PipelineError: No worker starts, or one met an error that affects every image.
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
                chunk, _ = worker.pending.popleft()
                chunk.decoded += answer
            worker.note_answer()
        for worker in [worker for worker in self._workers if worker.is_silent]:
            self._replace_silent(worker)

    def _replace_silent(self, worker: _Worker) -> None:
        """Replace a worker that hangs."""
        end([worker.process])
        if not worker.is_ready:
            self._replace(worker, f"no answer within {START_LIMIT:g} s")
            return
        chunk, tasks = worker.pending[0]
        too_long = f"took longer than {TIME_LIMIT:g} s to read and decode"
        for task in tasks:
            if task.number == worker.number and not chunk.one_by_one:
                log.warning("%s %s; it is tried once more, on its own.", task.ref.uri, too_long)
        self._replace(worker, f"it {too_long}")

    def _replace(self, ended: _Worker, why: str) -> None:
        """Replace a worker that ended, and assign its pending tasks to the new one.

        Args:
            ended: The worker.
            why: The error of the image in progress, if it was read alone.
        """
        ended.connection.close()
        if not ended.is_ready:
            raise PipelineError(
                f"The processes that read images cannot be started ({why}). The features computed so far are stored. "
                "They import the script that started them: in a script, features are asked for below "
                '`if __name__ == "__main__":`.'
            )
        new = self._workers[self._workers.index(ended)] = _Worker(self._settings)
        if ended.pending:
            chunk, tasks = ended.pending.popleft()
            if chunk.one_by_one:
                [task] = tasks
                chunk.decoded.append(
                    Decoded(task.number, task.slot, version=task.ref.version(), error=why, crashed=True)
                )
            else:
                chunk.one_by_one = True
                for task in tasks:
                    new.assign(chunk, [task])
        for chunk, tasks in ended.pending:
            new.assign(chunk, tasks)

    def close(self) -> None:
        """End the workers."""
        end([worker.process for worker in self._workers])
        for worker in self._workers:
            worker.connection.close()


def shared_digests(digests: np.ndarray) -> SharedDigests:
    """Copy an array of digests into shared memory, so that pools can share it."""
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
    """The main function of a worker process: read and decode the tasks that arrive through a connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
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
    """The chunks that a worker received; reads of objects in buckets start on receipt."""

    def __init__(self, connection: Connection, pulse: _Pulse) -> None:
        self._connection = connection
        self._pulse = pulse
        self._chunks: deque[list[tuple[_Task, Read]]] = deque()
        # Starts no thread until it is used.
        self._readers = futures.ThreadPoolExecutor(CHUNK * CHUNKS_AHEAD, "reader")

    def next_chunk(self) -> Generator[tuple[_Task, Read], None, None]:
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
        if ref.is_file and not ref.is_remote:
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
    task: _Task, read: Read, stored: np.ndarray, slots: tuple[np.ndarray, np.ndarray], max_pixels: int, resize: str
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
