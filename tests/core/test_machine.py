"""The cores, threads and memory that real processes use, and the instructions of processors."""

import os
import platform
import sys
from pathlib import Path

import pytest
from helpers import PROGRAMS, ROOT, check_ended, run_program, run_python

from pipeline.core import machine
from pipeline.features.options import ExtractionOptions

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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512_vnni\n", True),
        ("model name\t: AMD EPYC\nflags\t\t: fpu avx2 avx_vnni\n", True),
        ("model name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512f\n", False),
        ("Features\t: fp asimd asimddp\n", True),
        ("isa\t: rv64\n", None),
        (None, None),
    ],
)
def test_int8_instructions(
    text: str | None, expected: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert machine.has_int8_instructions() is expected
    assert not machine.has_amx_int8()


@pytest.mark.parametrize(("flags", "expected"), [("amx_bf16 amx_tile amx_int8", True), ("amx_bf16 amx_tile", False)])
def test_amx_is_recognized(flags: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    assert machine.has_amx_int8() is expected


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_reused_without_page_faults() -> None:
    kept, given_back = int(run_program("page_faults", "keep").out), int(run_program("page_faults").out)
    assert 10 * kept < given_back
