"""Output for the user: messages on stderr, tables on stdout."""

import json
import logging
import math
import sys
from collections.abc import Callable
from typing import Any, Protocol

import rich.box
import rich.markup
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from pipeline.core.errors import Parameter, PipelineError
from pipeline.core.standard_streams import silence_libraries

WIDTH = 80


def printable(text: str) -> str:
    """Escape control characters and lone surrogates, so that text stays on one line and cannot control a terminal."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def as_option(part: object) -> str:
    """A part of a message for the command line: the parameter on_missing='skip' becomes --on-missing skip."""
    if isinstance(part, Parameter):
        return part.option
    return part.text(as_option) if isinstance(part, PipelineError) else str(part)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        arguments = record.args if isinstance(record.args, tuple) else ()
        values = tuple(
            as_option(argument) if isinstance(argument, Parameter | PipelineError) else argument
            for argument in arguments
        )
        message = printable(str(record.msg) % values if values else record.getMessage())
        return f"{record.levelname.lower()}: {message}" if record.levelno >= logging.WARNING else message


class _Handler(logging.Handler):
    """Writes to stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def show_messages(quiet: bool) -> None:
    """Send the messages of `pipeline` to stderr.

    Args:
        quiet: Whether to show only warnings and errors, without the output of libraries.
    """
    if quiet:
        silence_libraries()
    handler = _Handler()
    handler.setFormatter(_Formatter())
    logger = logging.getLogger("pipeline")
    logger.handlers[:] = [handler]
    logger.propagate = False  # libraries add a handler to the root logger, which would print them again
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    # TensorFlow warns about every decoder compiled after the fourth, but each one must be compiled.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


class Result(Protocol):
    """A command's result."""

    def to_json(self) -> dict[str, Any]:
        """The document that `--json` prints."""


def print_result(result: Result, as_json: bool, as_text: Callable[[Any], None]) -> None:
    """Print a command's result to stdout, as JSON or as text by a function."""
    if as_json:
        print(json.dumps(_finite(result.to_json()), indent=2, allow_nan=False))
    else:
        as_text(result)


def _finite(value: Any) -> Any:
    """A JSON value with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_paths(**paths: object) -> None:
    """Print the paths of files, one per line."""
    for name, path in paths.items():
        print(f"{name}: {printable(str(path))}")


def print_rich(table: Table | str) -> None:
    """Print a table, or text with rich markup."""
    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(table)


def new_table(title: str, *columns: str) -> Table:
    """A table: names in the first column, numbers in the others."""
    table = Table(box=rich.box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    table.min_width = min(len(title), WIDTH)  # keeps the title on one line if it fits
    for column in columns[:1]:
        table.add_column(column, overflow="fold")  # a truncated name cannot be copied
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def cell(text: str) -> str:
    """Text for a table, with rich markup and control characters escaped."""
    return rich.markup.escape(printable(text))


def print_error(error: PipelineError | str) -> None:
    """Print an error to stderr, with its parameters as options."""
    print(f"error: {printable(as_option(error))}", file=sys.stderr)


def print_interruption(message: str) -> None:
    """Print to stderr that a command was interrupted, and how to resume."""
    print(f"\n{printable(message)}", file=sys.stderr)


def interval(bounds: tuple[float, float] | None, sign: str = "") -> str:
    """The bounds of an interval, or a dash."""
    return f"{bounds[0]:{sign}.3f} to {bounds[1]:{sign}.3f}" if bounds else "-"
