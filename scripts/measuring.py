"""Functions that the benchmarks share: alternating tasks, medians, memory, Markdown tables."""

import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def timed(task: Callable[[], object]) -> float:
    """Seconds that a task takes."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def in_turn(tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Run tasks in turn for several rounds; returns the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            seconds[name].append(timed(task))
    return {name: statistics.median(each) for name, each in seconds.items()}


def peak_memory() -> int:
    """Peak memory of this process, in bytes; on Linux.

    `getrusage` would report the peak of the parent process if that was higher.
    """
    [kilobytes] = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kilobytes) * 1024


def processor_name() -> str:
    """The processor's name; on Linux."""
    names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    return names[0] if names else "unknown processor"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print(f"\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
