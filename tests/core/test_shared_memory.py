"""Memory shared between processes."""

import multiprocessing
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import PROGRAMS, ROOT, make_images

from pipeline.core.errors import PipelineError
from pipeline.core.shared_memory import SharedMemory

# Processes with a private /dev/shm and temporary folder, with room for only a few small files.
FULL = """
mount -t tmpfs -o size=64k tmpfs /dev/shm && mount -t tmpfs -o size=64k tmpfs "$TMPDIR" || exit 77
head -c 64k /dev/zero > /dev/shm/ballast; head -c 48k /dev/zero > "$TMPDIR/ballast"
exec "$@"
"""


def add_one(memory: SharedMemory) -> None:
    memory.array(np.int64)[:] += 1


def test_processes_see_each_others_writes() -> None:
    memory = SharedMemory(24)
    memory.array(np.int64)[:] = [1, 2, 3]
    process = multiprocessing.get_context("spawn").Process(target=add_one, args=(memory,))
    process.start()
    process.join()
    assert memory.array(np.int64).tolist() == [2, 3, 4]
    assert memory.array(np.int64, 1).tolist() == [2]
    assert SharedMemory(0).array(np.int64, 0).tolist() == []


def test_too_little_memory_is_an_error_on_allocation() -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(PipelineError, match="The system has no 2 MB of memory for processes to share"):
            SharedMemory(2_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_more_memory_than_the_system_has_is_refused_at_once() -> None:
    with pytest.raises(PipelineError, match="The system has no 1000000000 MB of memory"):
        SharedMemory(10**15)


def test_unshared_memory_uses_no_descriptor() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        SharedMemory(8)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_full_memory_file_systems_do_not_matter(tmp_path: Path) -> None:
    images, temporary = make_images(tmp_path / "images", range(20)), tmp_path / "temporary"
    temporary.mkdir()
    program = (sys.executable, PROGRAMS / "decode_without_room.py", images)
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-c", FULL, "sh", *program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
    )
    if ended.returncode == 77 or "unshare" in ended.stderr:
        pytest.skip(f"no file system may be mounted here ({ended.stderr.strip()})")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "20 decoded\n", "")
