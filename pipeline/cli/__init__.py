"""The command line: a module for each command, which reads its options, calls it, and prints its result."""

import sys
from typing import Any

import click

from pipeline.cli.cache import cache
from pipeline.cli.compare import compare
from pipeline.cli.evaluate import evaluate
from pipeline.cli.export import export
from pipeline.cli.extract import extract
from pipeline.cli.models import models
from pipeline.cli.predict import predict
from pipeline.cli.rsa import rsa
from pipeline.cli.search import search
from pipeline.cli.terminal import print_error, print_interruption, show_messages
from pipeline.cli.train import train
from pipeline.core.errors import Interrupted, PipelineError
from pipeline.core.interrupts import Terminated, arrived_interrupt, raise_interrupts
from pipeline.core.wording import near_spellings

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
RESUME = "Interrupted. The features computed so far are stored; the same command resumes."


@click.group(context_settings=SETTINGS, no_args_is_help=False)
@click.version_option(package_name="image-vectors")
def cli() -> None:
    """From a folder of images to VGG16 vectors, from the vectors to your own embeddings, and an honest score.

    IMAGES is a folder (searched recursively), one image, a list (.txt with one path per line, .csv or .parquet with a
    column `path`), tar files or Parquet files with images (one, a folder, or 'photos/{000..150}.tar'),
    FILE.h5:DATASET, tfds:NAME[/CONFIG]:SPLIT, hf://datasets/OWNER/NAME[/FILE], or a bucket: s3://BUCKET/PREFIX,
    gs://..., az://...
    """


def _with_near_names(error: click.ClickException) -> str:
    """click's message, with suggestions only for likely misspellings."""
    if isinstance(error, click.UsageError) and error.message.startswith("Got unexpected extra argument"):
        message = error.message.rstrip(".")
        return f"{message}. IMAGES is a single argument; for several folders, name their parent folder, or a list."
    if not isinstance(error, click.NoSuchOption):
        return " ".join(line.strip() for line in error.format_message().splitlines())
    near = near_spellings({error.option_name: [error.option_name]}, error.possibilities or [])[error.option_name]
    return f"{error.message} Did you mean {' or '.join(near)}?" if near else error.message


for command in (extract, train, evaluate, predict, search, rsa, compare, export, models, cache):
    cli.add_command(command)


def main() -> None:
    """Run a command; an error becomes one message on stderr and an exit code."""
    raise_interrupts()
    show_messages(quiet=False)  # for messages while options are read
    try:
        sys.exit(_run())
    except (Exception, KeyboardInterrupt) as error:
        if (code := _report(error)) is None:
            raise
        sys.exit(code)


def _run() -> int:
    """Run a command and flush its output; returns the exit code."""
    code: Any = 0
    try:
        cli(prog_name="python -m pipeline", standalone_mode=False)
    except click.exceptions.Exit as done:
        code = done.exit_code
    except SystemExit as done:
        code = done.code
    if sys.stdout:
        sys.stdout.flush()
    return code


def _report(error: BaseException) -> int | None:
    """Report on stderr why a command ended; returns the exit code, or None if the error is a bug in this program."""
    interrupt = arrived_interrupt()  # libraries may turn it into another error, as in the middle of an import
    if interrupt or isinstance(error, (KeyboardInterrupt, click.Abort, Interrupted)):
        print_interruption(str(error) if isinstance(error, Interrupted) else RESUME)
        return 143 if isinstance(interrupt, Terminated) else 130
    if isinstance(error, click.ClickException):
        hint = f" See {error.ctx.command_path} --help." if isinstance(error, click.UsageError) and error.ctx else ""
        print_error(f"{_with_near_names(error)}{hint}")
        return error.exit_code
    if isinstance(error, PipelineError):
        print_error(error)
        return error.exit_code
    return None
