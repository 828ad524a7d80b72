"""Ctrl-C and SIGTERM: what they do while modules are imported, while a command works, and when it has ended."""

import _thread
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

AGAIN = 0.05  # seconds


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; it ends the work as Ctrl-C does."""


_arrived: list[KeyboardInterrupt] = []


def end_at_interrupts() -> None:
    """Let Ctrl-C and SIGTERM end the process at once: nothing has begun, or all is done."""
    _handle(_end)
    sys.unraisablehook = _interrupt_again


def raise_interrupts() -> None:
    """Let Ctrl-C raise KeyboardInterrupt, and SIGTERM Terminated."""
    _arrived.clear()
    _handle(_raise)


def arrived_interrupt() -> KeyboardInterrupt | None:
    """The interrupt that arrived since `raise_interrupts`, even if a library made another error of it."""
    return _arrived[-1] if _arrived else None


def _handle(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and shells set it for what runs in the background
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"\nInterrupted.\n")
    os._exit(128 + number)


def _raise(number: int, frame: FrameType | None) -> None:
    _arrived.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
    raise _arrived[-1]


def _interrupt_again(ignored: "sys.UnraisableHookArgs") -> None:
    """Raise an interrupt anew that came where Python can only ignore errors, as in the callbacks of an import."""
    if not isinstance(ignored.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(ignored)
        return
    number = signal.SIGTERM if isinstance(ignored.exc_value, Terminated) else signal.SIGINT
    again = threading.Timer(AGAIN, _send, (number,))
    again.daemon = True
    again.start()


def _send(number: signal.Signals) -> None:
    """Send a signal to the main thread, whatever it waits for."""
    if sys.platform == "win32":
        _thread.interrupt_main(number)
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, number)
