"""Child processes that do not outlive their parent."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """End this child process when its parent ends, even by a kill; called in the child, when it starts."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
