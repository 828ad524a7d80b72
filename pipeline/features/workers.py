"""Worker processes that read and decode images ahead of the engine."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np

from pipeline.core.child_processes import end_with_parent
from pipeline.core.errors import ImageError, PipelineError
from pipeline.data.decoding import count_pixels, decode
from pipeline.data.images import ImageRef, content_digest

CHUNK = 8  # images that a worker reads and decodes at a time
CHUNKS_AHEAD = 3  # chunks that wait, decoded or in work, for each worker


@dataclass(frozen=True)
class Decoded:
    """One image from a worker: its digest and, where the store lacks it, its pixels and size; or an error."""

    path: str
    ref: ImageRef
    digest: str = ""
    version: str | None = None
    pixels: np.ndarray | None = None
    pixel_count: int = 0
    error: str = ""


def decode_ahead(
    images: Sequence[tuple[str, ImageRef]], stored: frozenset[str], workers: int, max_pixels: int
) -> Generator[Decoded, None, None]:
    """Read and decode images in worker processes, a bounded number ahead.

    Args:
        images: The names of the images and where they are.
        stored: Digests of images that need no decoding.
        workers: The most processes to use.
        max_pixels: The size of the largest image to decode, in pixels.

    Yields:
        The images, in their order.

    Raises:
        PipelineError: A worker process was killed.
    """
    chunks = [images[at : at + CHUNK] for at in range(0, len(images), CHUNK)]
    workers = min(workers, len(chunks))
    if not workers:
        return
    # Spawned, not forked: neither TensorFlow nor Lance survives a fork.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (stored, max_pixels))
    ahead: deque[Future[list[Decoded]]] = deque()
    try:
        for chunk in chunks:
            ahead.append(pool.submit(_decode_chunk, chunk))
            if len(ahead) > workers * CHUNKS_AHEAD:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()
    except BrokenProcessPool as error:
        raise PipelineError(
            "A process that reads images was killed, possibly out of memory. The features computed so far are stored; "
            "run the same command again to resume, with fewer processes (workers=N)."
        ) from error
    finally:
        # Waited for: a pool that still closes its pipes when the interpreter exits raises EBADF there (CPython's
        # concurrent.futures.process._python_exit writes to them without a lock).
        pool.shutdown(wait=True, cancel_futures=True)


_stored: frozenset[str] = frozenset()  # in a worker: the digests that need no decoding
_max_pixels = 0


def _start_worker(stored: frozenset[str], max_pixels: int) -> None:
    """Prepare a worker: Ctrl-C is the parent's business, and a parent that was killed leaves no worker behind."""
    global _stored, _max_pixels
    _stored, _max_pixels = stored, max_pixels
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def _decode_chunk(chunk: Sequence[tuple[str, ImageRef]]) -> list[Decoded]:
    return [_decode_one(path, ref) for path, ref in chunk]


def _decode_one(path: str, ref: ImageRef) -> Decoded:
    try:
        data, version = ref.read()
        digest = content_digest(data)
        if digest in _stored:
            return Decoded(path, ref, digest, version)
        return Decoded(path, ref, digest, version, decode(data, _max_pixels), count_pixels(data))
    except ImageError as error:
        return Decoded(path, ref, error=str(error))
