"""Child processes that do not outlive their parent."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from multiprocessing.process import BaseProcess

END_LIMIT = 5.0  # seconds; a killed process ends within this time, unless it is blocked in the kernel

_starting = threading.Lock()  # for `start_spawned`, which changes this process for a moment


def end_with_parent() -> None:
    """End this child process when its parent ends, even if the parent is killed. Call it in the child, at its start.

    A thread waits for the parent, but cannot run while a library holds the GIL, as MNN's converter does for 20 s. So on
    systems other than Windows, the kernel also sends SIGIO when the pipe to the parent closes, which ends the process
    at once.
    """
    parent = multiprocessing.parent_process()
    assert parent
    threading.Thread(target=_wait_for, args=(parent,), daemon=True).start()
    if sys.platform != "win32":
        import fcntl

        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, fcntl.fcntl(parent.sentinel, fcntl.F_GETFL) | os.O_ASYNC)  # SIGIO


def start_spawned(process: BaseProcess) -> None:
    """Start a spawned process that does not import the main module of this one.

    So scripts, notebooks and `python -` can start processes without `if __name__ == "__main__":`.

    Args:
        process: A process with start method "spawn", not yet started. Its function and the classes of its arguments
            must be in modules that it can import.
    """
    with _starting, _hidden_main_module(), _known_start_method():
        process.start()


@contextmanager
def _hidden_main_module() -> Iterator[None]:
    """Hide the main module: spawned processes import it by the name in its `__spec__`, unless that is `__main__`."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    main.__spec__ = ModuleSpec("__main__", None)
    try:
        yield
    finally:
        main.__spec__ = spec


@contextmanager
def _known_start_method() -> Iterator[None]:
    """Set a known default start method: spawned processes inherit it, but do not know that of joblib's loky."""
    default = multiprocessing.get_start_method(allow_none=True)
    if default != "loky":
        yield
        return
    multiprocessing.set_start_method("spawn", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(default, force=True)


def end(processes: Sequence[BaseProcess]) -> None:
    """Kill processes and wait for them to end, for a limited time: a read may block one in the kernel.

    SIGTERM would not be enough: a stopped process does not receive it.
    """
    for process in processes:
        process.kill()
    by = time.monotonic() + END_LIMIT
    for process in processes:
        process.join(max(0.0, by - time.monotonic()))


@contextmanager
def blocked(number: signal.Signals) -> Iterator[None]:
    """Block a signal, so that processes started in this context do not receive it.

    Child processes inherit the signal mask of the thread that starts them. A signal that arrives in this process is
    delivered at the end of the context.

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
