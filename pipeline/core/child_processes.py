"""Child processes that do not outlive their parent."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

END_LIMIT = 5.0  # seconds in which a process that was killed ends, unless the system holds it


def end_with_parent() -> None:
    """End this child process when its parent ends, even by a kill; called in the child, when it starts.

    A thread waits for that, but cannot run while a library holds the interpreter lock, as MNN's converter does for 20
    s. So where there are signals, the closing of the pipe to the parent sends one that ends the process at once.
    """
    parent = multiprocessing.parent_process()
    assert parent
    threading.Thread(target=_wait_for, args=(parent,), daemon=True).start()
    if sys.platform != "win32":
        import fcntl

        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, fcntl.fcntl(parent.sentinel, fcntl.F_GETFL) | os.O_ASYNC)  # SIGIO


def start_spawned(process: BaseProcess) -> None:
    """Start a process, also inside of one of joblib's loky.

    A spawned process takes over its parent's default start method, and does not know the one that loky sets.

    Args:
        process: Not yet started, of the start method "spawn".
    """
    default = multiprocessing.get_start_method(allow_none=True)
    if default != "loky":
        process.start()
        return
    multiprocessing.set_start_method("spawn", force=True)
    try:
        process.start()
    finally:
        multiprocessing.set_start_method(default, force=True)


def end(processes: Sequence[BaseProcess]) -> None:
    """Kill processes, whatever they do, and wait for their end; not for ever, as the system may hold one in a read.

    SIGTERM would not do: it does not reach a process that was stopped.
    """
    for process in processes:
        process.kill()
    by = time.monotonic() + END_LIMIT
    for process in processes:
        process.join(max(0.0, by - time.monotonic()))


@contextmanager
def blocked(number: signal.Signals) -> Iterator[None]:
    """Let a signal, which may go to many processes at once, not reach those that are started meanwhile.

    They inherit what the thread that starts them has blocked. What arrives here meanwhile is noticed at the end.

    Args:
        number: The signal, such as SIGINT, which Ctrl-C sends to all processes of a terminal.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_for(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
