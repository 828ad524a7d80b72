"""Memory shared between a process and its child processes."""

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
    """A block of memory that is shared with child processes to which it is passed at their start.

    It has no file name, so a killed process leaves nothing behind. On Linux the memory is allocated at once and takes
    no space in `/dev/shm` or the temporary folder: if that file system were full, the first write would end the process
    by SIGBUS.

    Args:
        size: The number of bytes.

    Raises:
        PipelineError: The system has too little memory.
    """

    def __init__(self, size: int) -> None:
        self._size = max(1, size)
        try:
            if hasattr(os, "memfd_create"):
                self._map(_allocate(self._size))
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
        """The bytes as an array, shape (count,); all of them if `count` is -1."""
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


def _allocate(size: int) -> int:
    """The descriptor of an anonymous file in memory, with its bytes allocated."""
    if size > available_memory():  # Linux would kill other programs to free memory
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    descriptor = os.memfd_create("image-vectors")
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def available_memory() -> float:
    """Bytes of memory available without swapping; infinite if the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return math.inf
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), math.inf)
