"""What the processor can do, as far as the system says."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# Instructions that multiply integers of 8 bits and add up the products: VNNI on x86, dot products on Arm.
INT8_FLAGS = {"avx512_vnni", "avx_vnni", "asimddp"}


def has_int8_instructions() -> bool | None:
    """Whether the processor has fast instructions for int8; None where the system does not say."""
    flags = _entry("flags", "Features")
    return None if flags is None else bool(INT8_FLAGS & set(flags.split()))


def processor_name() -> str:
    """The processor's name, or "unknown processor"."""
    return _entry("model name") or "unknown processor"


def _entry(*names: str) -> str | None:
    """The first value of `/proc/cpuinfo` under one of these names."""
    try:
        lines = CPUINFO.read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    entries = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in entries if name.strip() in names), None)
