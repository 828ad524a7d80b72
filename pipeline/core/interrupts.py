"""Handling of Ctrl-C and SIGTERM: during imports, while a command runs, and after its end.

It imports little, because an interrupt before `end_at_interrupts` ends in a traceback.
"""

import _thread
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

RETRY_DELAY = 0.05  # seconds


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; it stops the work like Ctrl-C."""


_arrived: list[KeyboardInterrupt] = []


def end_at_interrupts() -> None:
    """Make Ctrl-C and SIGTERM end the process at once, for use before the work begins and after it is done."""
    _handle(_end)
    sys.unraisablehook = _interrupt_again


def raise_interrupts() -> None:
    """Make Ctrl-C raise KeyboardInterrupt, and SIGTERM raise Terminated."""
    _arrived.clear()
    _handle(_raise)


def arrived_interrupt() -> KeyboardInterrupt | None:
    """The interrupt that arrived since `raise_interrupts`, even if a library turned it into another error; or None."""
    return _arrived[-1] if _arrived else None


def _handle(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and shells for background jobs, ignore signals
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"\nInterrupted.\n")
    os._exit(128 + number)


def _raise(number: int, frame: FrameType | None) -> None:
    _arrived.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
    raise _arrived[-1]


def _interrupt_again(ignored: "sys.UnraisableHookArgs") -> None:
    """Repeat an interrupt that was raised where Python ignores errors, such as in callbacks during an import."""
    if not isinstance(ignored.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(ignored)
        return
    number = signal.SIGTERM if isinstance(ignored.exc_value, Terminated) else signal.SIGINT
    timer = threading.Timer(RETRY_DELAY, _send, (number,))
    timer.daemon = True
    timer.start()


def _send(number: signal.Signals) -> None:
    """Send a signal to the main thread, whatever it is waiting for."""
    if sys.platform == "win32":
        _thread.interrupt_main(number)
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, number)
