"""A pool of worker processes that read and decode images ahead of the engine.

Pixels and thumbnails go into slots of shared memory; pipes carry only a few words per image. A worker that dies is
replaced, and its images are read again one at a time, to identify the one that killed it. A worker that hangs is
replaced, too: each has a pulse in shared memory, which it advances with every image.
"""

import logging
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

from pipeline.core.child_processes import end, start_spawned
from pipeline.core.errors import Parameter, PipelineError, cause
from pipeline.core.shared_memory import SharedMemory
from pipeline.data.images import ImageRef
from pipeline.features.backends.slots import Slots
from pipeline.features.backends.worker_process import (
    CHUNK,
    CHUNKS_AHEAD,
    PULSE,
    Decoded,
    Pulse,
    SharedDigests,
    Task,
    work,
)

log = logging.getLogger(__name__)

# The largest image takes seconds to decode. Waiting for an object in a bucket does not count, as its server has a time
# limit, too; nor does waiting for an example of a TensorFlow data set, as all examples before it are read first.
TIME_LIMIT = 60.0  # seconds to read and decode an image
START_LIMIT = 120.0  # seconds for a worker to start


@dataclass
class _Chunk:
    """Images that are returned together; `decoded` is filled in their order."""

    tasks: Sequence[Task]
    decoded: list[Decoded] = field(default_factory=list)
    one_by_one: bool = False


class _Worker:
    """A process and its pending tasks, in order.

    Raises:
        PipelineError: The system cannot start another process.
    """

    def __init__(self, settings: tuple[Any, ...]) -> None:
        # Spawned, not forked: neither TensorFlow nor Lance survives a fork.
        context = multiprocessing.get_context("spawn")
        pulse = SharedMemory(16)
        self._pulse = Pulse(pulse)
        try:
            self.connection, child_end = context.Pipe()
            self.process = context.Process(target=work, args=(child_end, pulse, *settings), daemon=True)
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
        self.pending: deque[tuple[_Chunk, Sequence[Task]]] = deque()
        self._checked_at, self._last_beat, self._silent = time.monotonic(), 0, 0.0  # seconds

    def assign(self, chunk: _Chunk, tasks: Sequence[Task]) -> None:
        self.pending.append((chunk, tasks))
        with suppress(OSError):  # it died, which `_receive` will notice
            self.connection.send(tasks)

    def note_answer(self) -> None:
        """Record that the worker has answered."""
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
        """Why the worker ended, or is about to end: its connection is closed."""
        self.process.join(PULSE)
        end([self.process])
        code = self.process.exitcode
        ending = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
        if ending == "SIGKILL":  # by name, as Windows has no such signal
            ending = "it was killed, possibly out of memory"
        return f"decoding it ended the process ({ending})" if self.is_ready else ending


class WorkerPool:
    """A pool of workers; one that dies is replaced.

    Args:
        count: The number of workers.
        stored: Digests of images that need no decoding, from `shared_digests`.
        slots: The slots for the pixels.
        max_pixels: The size of the largest image to decode, in pixels.
        resize: How to resize, a key of `pipeline.data.decoding.RESIZES`.

    Raises:
        PipelineError: The system cannot start that many processes.
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
        """Read and decode images, as far ahead as slots allow; call it again only after the previous call has ended.

        Args:
            refs: The references of the images by index.
            numbers: The indices of the images to read.
            suspects: The indices of images that crashed a process before; they are read last, one at a time.

        Yields:
            The images, in the order of `numbers` and `suspects`; the receiver frees their slots.

        Raises:
            PipelineError: The worker processes do not start, or the bucket of the images cannot be read.
        """
        waiting = deque(numbers[at : at + CHUNK] for at in range(0, len(numbers), CHUNK))
        waiting.extend([number] for number in suspects)
        ahead: deque[_Chunk] = deque()
        while waiting or ahead:
            is_suspect = len(waiting) <= len(suspects)
            has_room = not self._is_busy if is_suspect else self._has_room
            if waiting and has_room and (slots := self._slots.take(len(waiting[0]))):
                pairs = zip(waiting.popleft(), slots, strict=True)
                tasks = [Task(number, slot, refs[number]) for number, slot in pairs]
                ahead.append(_Chunk(tasks, one_by_one=is_suspect))
                self._assign(ahead[-1])
                continue
            if ahead and len(ahead[0].decoded) == len(ahead[0].tasks):
                yield from ahead.popleft().decoded
            elif self._is_busy:
                self._receive()
            else:
                self._slots.wait_for(len(waiting[0]))

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
                f"The processes that read images cannot be started ({why}). The features computed so far are stored."
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
