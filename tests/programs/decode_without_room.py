"""Decode a folder while no more files or processes are allowed: FOLDER [LIMIT]."""

import contextlib
import multiprocessing.popen_spawn_posix
import multiprocessing.resource_tracker  # noqa: F401
import os
import resource
import sys
from pathlib import Path

import numpy as np

from pipeline.core.errors import PipelineError
from pipeline.data.decoding import MAX_PIXELS
from pipeline.data.images import DIGEST, file_ref
from pipeline.features.backends.slots import Slots
from pipeline.features.backends.worker_pool import WorkerPool
from pipeline.features.backends.worker_process import shared_digests


def limit_room(name: str) -> None:
    room = {"RLIMIT_NOFILE": len(os.listdir("/proc/self/fd")) + 6, "RLIMIT_NPROC": 1}[name]
    if name == "RLIMIT_NPROC" and os.geteuid() == 0:
        os.setuid(65534)  # the limit does not apply to root
    resource.setrlimit(getattr(resource, name), (room, room))


if __name__ == "__main__":
    refs = [file_ref(file) for file in sorted(Path(sys.argv[1]).iterdir())]
    stored, slots = shared_digests(np.zeros(0, DIGEST)), Slots(32)
    if sys.argv[2:]:
        limit_room(sys.argv[2])
    try:
        with contextlib.closing(WorkerPool(3, stored, slots, MAX_PIXELS, "squash")) as pool:
            print(sum(image.is_new for image in pool.decode(refs, range(len(refs)))), "decoded")
    except PipelineError as error:
        print(error)
