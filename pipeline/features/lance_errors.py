"""Lance's errors: their causes, and whether damaged files may explain them."""

import contextlib
import errno
import re
from collections.abc import Iterator

from pipeline.core.errors import first_line

# The errors that Lance and Arrow raise for files that they cannot read, for any reason.
UNREADABLE = (OSError, ValueError, RuntimeError)
# Lance's messages for errors not caused by the content of a file: a system error other than a missing file (2), or a
# feature that this version of Lance does not know.
NOT_DAMAGE = re.compile(
    r"os error (?!2\))|permission denied|timed out|out of memory|upgrade|newer|unsupported|not supported|unknown|"
    r"not implemented|unimplemented",
    re.IGNORECASE,
)


def may_be_damage(error: BaseException) -> bool:
    """Whether the content of a file may have caused an error of Lance, or of the system while reading it."""
    is_system = isinstance(error, OSError) and error.errno not in (None, errno.ENOENT)
    return not is_system and not NOT_DAMAGE.search(str(error))


def is_conflict(error: BaseException) -> bool:
    """Whether Lance failed because another process committed first."""
    return "conflict" in str(error)


def lance_cause(error: BaseException) -> str:
    """The message of an error of Lance, without the location in its source code."""
    return first_line(error).partition(", /")[0]


@contextlib.contextmanager
def panics_as_errors() -> Iterator[None]:
    """Turn a panic of Lance, which Python's `except Exception` does not catch, into a RuntimeError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(lance_cause(error)) from error
