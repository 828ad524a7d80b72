"""Standard streams of a command: stdout is for results alone, whatever libraries print.

MNN, TensorFlow and image decoders write to the descriptors 1 and 2 themselves, partly from buffers of C's library that
are written when the process ends.
"""

import io
import os
import sys
from typing import Any, TextIO

from pipeline.core.errors import PipelineError, cause

_is_apart = False


def keep_results_apart() -> None:
    """Let `sys.stdout` write to a descriptor of its own, and the descriptor 1 lead to stderr, here and in children."""
    global _is_apart
    open_closed_streams()
    sys.stdout = _results()
    os.dup2(2, 1)
    _is_apart = True


def silence_libraries() -> None:
    """Let what libraries print lead nowhere, here and in children; `sys.stdout` and `sys.stderr` stay as they are.

    Only after `keep_results_apart`: in another program's process, the descriptors are that program's.
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
    """Let standard streams that are closed lead nowhere, so that no other file gets their numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


class _Results(io.FileIO):
    """stdout as a file; its first error is that of the command, and what is written later is dropped."""

    _has_failed = False

    def write(self, data: Any) -> int:
        if self._has_failed:
            return len(data)
        try:
            return super().write(data) or 0
        except OSError as error:
            self._has_failed = True
            raise PipelineError(f"The result cannot be written to stdout ({cause(error)}).") from error


def _results() -> TextIO:
    """A stream on a descriptor of its own for stdout, which child processes do not inherit."""
    if sys.stdout is None:  # closed; what is written fails, for the descriptor is for reading
        return io.TextIOWrapper(io.BufferedWriter(_Results(os.open(os.devnull, os.O_RDONLY), "w")))
    if sys.stdout.isatty():
        return _copy(sys.stdout, 1)
    file = io.BufferedWriter(_Results(os.dup(1), "w"))
    return io.TextIOWrapper(file, sys.stdout.encoding, sys.stdout.errors)


def _copy(stream: TextIO, descriptor: int) -> TextIO:
    return open(os.dup(descriptor), "w", encoding=stream.encoding, errors=stream.errors, buffering=1)
