"""What can go wrong, in two kinds: the request was wrong (exit code 2), or the work failed (exit code 1)."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """A parameter in a message: on_missing='skip' in Python, --on-missing skip on the command line.

    Attributes:
        name: Its name in Python.
        value: Its value, or a word in capitals that stands for one, such as FILE.
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
        """How the command line writes it; a flag, verify=True, is --verify."""
        name = f"--{self.name.replace('_', '-')}"
        return name if self.value is True else f"{name} {self.value}" if self.value != "" else f"{name} ''"


class PipelineError(Exception):
    """The work failed. The message says what, where, and what to do; the command line exits with 1.

    Args:
        parts: The message, or its parts where it names parameters: texts, each `Parameter`, and other errors.
    """

    exit_code = 1

    def __init__(self, *parts: object) -> None:
        super().__init__(*parts)

    def __str__(self) -> str:
        return self.text(str)

    def text(self, written: Callable[[object], str]) -> str:
        """The message, with its parts written by a function."""
        return "".join(map(written, self.args))


class RequestError(PipelineError, ValueError):
    """The request was wrong: a parameter, a path, a table. The command line exits with 2."""

    exit_code = 2


class ImageError(PipelineError):
    """One image could not be read. The feature stage skips it and reports the cause."""


class Interrupted(PipelineError):
    """The work was interrupted. The message says how to resume; the exit code is 130, or 143 after SIGTERM."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def cause(error: BaseException) -> str:
    """What the operating system says went wrong, without error number and path; else the first line of the message."""
    return getattr(error, "strerror", None) or first_line(error)
