"""The machine's resources for this process: cores, processor instructions, freed memory."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# Dot products of 8-bit integers: VNNI on x86, asimddp on Arm.
INT8_FLAGS = {"avx512_vnni", "avx_vnni", "asimddp"}
BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}  # the last on Arm
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST_INT = 2**31 - 1


def usable_cores() -> int:
    """Number of cores by affinity and cgroup limits (joblib's count), or OMP_NUM_THREADS if that is lower.

    Returns:
        At least 1.
    """
    import joblib

    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    cores = joblib.cpu_count()
    return min(cores, int(limit)) if limit.isdigit() and int(limit) else cores


def has_int8_instructions() -> bool | None:
    """Whether the processor has fast int8 instructions; None if the system does not report it."""
    return _has_any(INT8_FLAGS)


def has_amx_int8() -> bool:
    """Whether the processor is known to multiply int8 matrices in tiles (Intel AMX)."""
    return bool(_has_any({"amx_int8"}))


def has_amx_bfloat16() -> bool:
    """Whether the processor is known to multiply bfloat16 matrices in tiles (Intel AMX)."""
    return bool(_has_any({"amx_bf16"}))


def has_bfloat16_instructions() -> bool | None:
    """Whether the processor computes in bfloat16; None if the system does not report it."""
    return _has_any(BFLOAT16_FLAGS)


def _has_any(flags: set[str]) -> bool | None:
    """Whether the processor has at least one of these features; None if the system does not report them."""
    try:
        lines = CPUINFO.read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    entries = (line.partition(":") for line in lines)
    reported = next((value for name, _, value in entries if name.strip() in ("flags", "Features")), None)
    return None if reported is None else bool(flags & set(reported.split()))


def keep_freed_memory(up_to: int) -> None:
    """Make glibc keep the memory that this process frees; do nothing with other C libraries.

    Page faults of new memory take 20 % of the time of decoding, 20 % of the time around the engine, and most of a
    conversion's time.

    Args:
        up_to: The size of the largest block to keep, in bytes.
    """
    with suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, up_to)
        mallopt(M_TRIM_THRESHOLD, min(2 * up_to, LARGEST_INT))
