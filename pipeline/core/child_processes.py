"""Child processes that do not outlive their parent."""

import multiprocessing
import os
import signal
import threading
from multiprocessing.process import BaseProcess


def end_with_parent() -> None:
    """End this child process when its parent ends, even by a kill; called in the child, when it starts."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def start_without_ctrl_c(process: BaseProcess) -> None:
    """Start a process that Ctrl-C, which goes to all processes of a terminal, does not reach, not even at its start.

    Args:
        process: Not yet started, of the start method "spawn".
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        process.start()
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by the process
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
