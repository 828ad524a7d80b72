"""Progress on stderr: a bar on a terminal, otherwise a log line every few seconds."""

import logging
import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)

INTERVAL = 10.0  # seconds


class LoggedProgress:
    """Progress as log lines, with the interface of tqdm's bar.

    Args:
        total: The number of units.
        unit: The name of a unit, in the singular.
        description: The name of the task.
        initial: The number of units that are already done.
    """

    def __init__(self, total: int, unit: str, description: str, initial: int = 0) -> None:
        self.total, self.n = total, initial
        self._unit, self._description, self._values = unit, description, ""
        self._logged = time.monotonic()
        self._first: tuple[int, float] | None = None

    def update(self, count: int = 1) -> None:
        """Count finished units."""
        self.n += count
        now = time.monotonic()
        if self._first is None:  # the time before the first unit is preparation and does not count towards the rate
            self._first = self.n, now
        if now - self._logged >= INTERVAL:
            self._logged = now
            log.info("%s%s", self._line(now), self._values)

    def set_postfix_str(self, values: str, refresh: bool = True) -> None:
        """Set the end of the next line."""
        self._values = f"; {values}"

    def _line(self, now: float) -> str:
        line = f"{self._description}: {self.n:,} of {self.total:,} {self._unit}s"
        done, start = self._first or (self.n, now)
        if self.n == done:
            return line
        rate = (self.n - done) / (now - start)
        return f"{line}, {rate:.3g} a second, {tqdm.format_interval((self.total - self.n) / rate)} left"

    def __enter__(self) -> "LoggedProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def progress_bar(total: int, unit: str, description: str, shown: bool = True, initial: int = 0) -> Any:
    """Show the progress of a long loop.

    Args:
        total: The number of units.
        unit: The name of a unit, in the singular, such as "image".
        description: The name of the task, in a word or two.
        shown: Whether to show anything.
        initial: The number of units that are already done.

    Returns:
        A `tqdm` bar, or a `LoggedProgress` if stderr is not a terminal: context managers with `n` and `update`.
    """
    if not shown or sys.stderr is None or sys.stderr.isatty():
        return tqdm(total=total, unit=unit, desc=description, initial=initial, disable=not shown)
    return LoggedProgress(total, unit, description, initial)
