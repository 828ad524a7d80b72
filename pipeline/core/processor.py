"""The processor's name and instructions, as reported by the system."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# Dot products of 8-bit integers: VNNI on x86, asimddp on Arm.
INT8_FLAGS = {"avx512_vnni", "avx_vnni", "asimddp"}


def has_int8_instructions() -> bool | None:
    """Whether the processor has fast int8 instructions; None if the system does not report it."""
    flags = _entry("flags", "Features")
    return None if flags is None else bool(INT8_FLAGS & set(flags.split()))


def processor_name() -> str:
    """The processor's name, or "unknown processor"."""
    return _entry("model name") or "unknown processor"


def _entry(*names: str) -> str | None:
    """The first value in `/proc/cpuinfo` with one of these names."""
    try:
        lines = CPUINFO.read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    entries = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in entries if name.strip() in names), None)
