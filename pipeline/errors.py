"""What can go wrong, in two kinds: the request was wrong (exit code 2), or the work failed (exit code 1)."""


class PipelineError(Exception):
    """The work failed. The message says what, where, and what to do; the command line exits with 1."""

    exit_code = 1


class RequestError(PipelineError):
    """The request was wrong: an option, a path, a table. The command line exits with 2."""

    exit_code = 2


class ImageError(PipelineError):
    """One image could not be read. The feature stage skips the image and reports the cause."""
