"""Memory that a process shares with those it starts."""

import errno
import math
import mmap
import os
import weakref
from multiprocessing import get_context
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import Parameter, PipelineError, cause


class SharedMemory:
    """Bytes that all processes see that it is passed to when they are started.

    They belong to no file, so a process that is killed leaves nothing behind. On Linux they are allocated at once and
    need no room in `/dev/shm` or the folder for temporary files: in a file system that is full, the first write to
    them would end the process by SIGBUS.

    Args:
        size: The number of bytes.

    Raises:
        PipelineError: The system has too little memory.
    """

    def __init__(self, size: int) -> None:
        self._size = max(1, size)
        try:
            if hasattr(os, "memfd_create"):
                self._map(_allocated(self._size))
            else:
                self._bytes: Any = get_context("spawn").RawArray("B", self._size)
        except (OSError, MemoryError) as error:
            raise PipelineError(
                f"The system has no {self._size / 1e6:.0f} MB of memory for processes to share ({cause(error)}). Use "
                "fewer ",
                Parameter("workers", "N"),
                ", or a smaller ",
                Parameter("batch_size", "N"),
                ".",
            ) from error

    def _map(self, descriptor: int) -> None:
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self._bytes = mmap.mmap(descriptor, self._size)

    def array(self, dtype: np.typing.DTypeLike, count: int = -1) -> np.ndarray:
        """The bytes as an array, shape (count,); all of them where `count` is -1."""
        return np.frombuffer(self._bytes, dtype, count)

    def __getstate__(self) -> tuple[int, Any]:
        shared = DupFd(self._descriptor) if isinstance(self._bytes, mmap.mmap) else self._bytes
        return self._size, shared

    def __setstate__(self, state: tuple[int, Any]) -> None:
        self._size, shared = state
        if hasattr(shared, "detach"):
            self._map(shared.detach())
        else:
            self._bytes = shared


def _allocated(size: int) -> int:
    """The descriptor of a file without a name, in memory, whose bytes are allocated."""
    if size > _available():  # Linux would end other programs to make room
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    descriptor = os.memfd_create("image-vectors")
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _available() -> float:
    """How many bytes of memory programs can take without swapping; infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return math.inf
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), math.inf)
