"""What can go wrong, in two kinds: the request was wrong (exit code 2), or the work failed (exit code 1)."""


class PipelineError(Exception):
    """The work failed. The message says what, where, and what to do; the command line exits with 1."""

    exit_code = 1


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
