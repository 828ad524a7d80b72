"""The number of cores and threads that real processes use."""

import os
import sys
from pathlib import Path

import pytest
from helpers import PROGRAMS, ROOT, check_ended, run_program, run_python

from pipeline.features.extraction import ExtractionOptions

needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")


def cores(*only: int, **variables: str) -> int:
    plain = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment = plain | {"PYTHONPATH": str(ROOT)} | variables
    return int(check_ended(run_python(PROGRAMS / "usable_cores.py", *only, env=environment)).out)


def test_omp_num_threads_is_respected_if_it_is_less() -> None:
    assert cores(OMP_NUM_THREADS="1") == 1
    assert cores(OMP_NUM_THREADS="1,4") == 1
    assert cores(OMP_NUM_THREADS="4096") == cores(OMP_NUM_THREADS="nonsense") == cores()


@needs_affinity
def test_affinity_is_respected() -> None:
    allowed = os.sched_getaffinity(0)
    assert cores(min(allowed)) == 1
    assert cores() <= len(allowed)
    assert ExtractionOptions().worker_count <= len(allowed)


@pytest.mark.skipif(sys.platform != "linux", reason="the times of threads are read from Linux")
def test_mnn_uses_no_more_threads_than_allowed(real_cache: Path) -> None:
    assert int(run_program("mnn_threads", real_cache, OMP_NUM_THREADS="1").out) == 1
