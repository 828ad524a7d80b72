"""Workers leave nothing behind."""

import multiprocessing
import threading
from pathlib import Path

import numpy as np
from helpers import decode_ahead

from pipeline.data.images import DIGEST
from pipeline.data.sources import find_images
from pipeline.features.backends.slots import Slots


def test_neither_processes_nor_threads_outlive_the_workers(folder: Path) -> None:
    """A thread that closes the pool's pipes during interpreter exit causes EBADF."""
    images = find_images(folder)
    threads = set(threading.enumerate())
    ahead = decode_ahead(images.refs, range(len(images)), np.zeros(0, DIGEST), Slots(32), 2, 10**6)
    next(ahead)
    assert multiprocessing.active_children()
    ahead.close()
    assert not multiprocessing.active_children()
    assert set(threading.enumerate()) == threads
