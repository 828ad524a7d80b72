"""Standard streams of a command: only results go to stdout, whatever libraries print.

MNN, TensorFlow and image decoders write to descriptors 1 and 2 directly, partly from buffers of the C library that are
flushed when the process ends.
"""

import io
import os
import sys
from typing import Any, TextIO

from pipeline.core.errors import PipelineError, cause

_is_apart = False


def keep_results_apart() -> None:
    """Give `sys.stdout` its own descriptor, and redirect descriptor 1 to stderr, also for child processes."""
    global _is_apart
    open_closed_streams()
    sys.stdout = _open_results()
    os.dup2(2, 1)
    _is_apart = True


def silence_libraries() -> None:
    """Discard the output of libraries, also in child processes; `sys.stdout` and `sys.stderr` still work.

    Does nothing without `keep_results_apart`: in the process of another program, the descriptors belong to it.
    """
    if not _is_apart:
        return
    if sys.stderr:
        sys.stderr.flush()
        sys.stderr = _copy(sys.stderr, 2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def open_closed_streams() -> None:
    """Open closed standard streams on the null device, so that no other file gets their descriptors."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


class _Results(io.FileIO):
    """stdout as a file: the first error becomes the command's error; later output is dropped."""

    _has_failed = False

    def write(self, data: Any) -> int:
        if self._has_failed:
            return len(data)
        try:
            return super().write(data) or 0
        except OSError as error:
            self._has_failed = True
            raise PipelineError(f"The result cannot be written to stdout ({cause(error)}).") from error


def _open_results() -> TextIO:
    """A stream to stdout on a separate descriptor, which child processes do not inherit."""
    if sys.stdout is None:  # closed; the descriptor is read-only, so that writing fails
        return io.TextIOWrapper(io.BufferedWriter(_Results(os.open(os.devnull, os.O_RDONLY), "w")))
    if sys.stdout.isatty():
        return _copy(sys.stdout, 1)
    file = io.BufferedWriter(_Results(os.dup(1), "w"))
    return io.TextIOWrapper(file, sys.stdout.encoding, sys.stdout.errors)


def _copy(stream: TextIO, descriptor: int) -> TextIO:
    return open(os.dup(descriptor), "w", encoding=stream.encoding, errors=stream.errors, buffering=1)
