"""Errors of two kinds: the request was wrong (exit code 2), or the work failed (exit code 1)."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.core.interrupts import arrived_interrupt


@dataclass(frozen=True)
class Parameter:
    """A parameter in a message: on_missing='skip' in Python, --on-missing skip on the command line.

    Attributes:
        name: Its name in Python.
        value: Its value, or a placeholder in capitals, such as FILE.
    """

    name: str
    value: object

    def __str__(self) -> str:
        return f"{self.name}={self.value if self._is_placeholder else repr(self.value)}"

    @property
    def _is_placeholder(self) -> bool:
        return isinstance(self.value, str) and self.value.isalpha() and self.value.isupper()

    @property
    def option(self) -> str:
        """The option on the command line; the flag verify=True is --verify."""
        name = f"--{self.name.replace('_', '-')}"
        return name if self.value is True else f"{name} {self.value}" if self.value != "" else f"{name} ''"


class PipelineError(Exception):
    """The work failed. The message says what failed, where, and what to do; the command line exits with 1.

    Args:
        parts: The message, or its parts if it names parameters: strings, `Parameter`s, and other errors.
    """

    exit_code = 1

    def __init__(self, *parts: object) -> None:
        super().__init__(*parts)

    def __str__(self) -> str:
        return self.text(str)

    def text(self, render: Callable[[object], str]) -> str:
        """The message, with each part rendered by a function."""
        return "".join(map(render, self.args))


class RequestError(PipelineError, ValueError):
    """The request was wrong: a parameter, a path, a table. The command line exits with 2."""

    exit_code = 2


class ImageError(PipelineError):
    """One image could not be read. The feature stage skips it and reports the cause."""


class Interrupted(PipelineError):
    """The work was interrupted. The message says how to resume; the exit code is 130, or 143 after SIGTERM."""

    exit_code = 130


@contextlib.contextmanager
def interrupted_with(message: str) -> Iterator[None]:
    """Raise Interrupted with this message if an interrupt ends the block, even as another error of a library.

    Raises:
        Interrupted: Ctrl-C or SIGTERM arrived.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if arrived_interrupt() or isinstance(error, KeyboardInterrupt):
            raise Interrupted(message) from error
        raise


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def cause(error: BaseException) -> str:
    """The operating system's description of an error, without number and path, or the first line of the message."""
    return getattr(error, "strerror", None) or first_line(error)
