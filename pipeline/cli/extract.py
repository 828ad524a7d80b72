"""`extract`: features of images."""

import sys
from typing import TYPE_CHECKING

import click

from pipeline.cli.command import command
from pipeline.cli.terminal import print_result, printable
from pipeline.commands.options import ExtractOptions
from pipeline.core.wording import counted

if TYPE_CHECKING:
    from pipeline.commands.extract import ExtractResult


@command
@click.option("--strict", is_flag=True, help="Exit with status 1 if an image was not read.")
def extract(options: ExtractOptions, strict: bool, as_json: bool) -> None:
    """Compute the features of IMAGES and store them; those already stored are not computed again."""
    from pipeline.commands.extract import extract

    result = extract(options)
    print_result(result, as_json, print_extraction)
    if strict and not result.complete:
        sys.exit(1)


def print_extraction(result: "ExtractResult") -> None:
    """Print the result of `extract`."""
    dims = " + ".join(str(layer["dim"]) for layer in result.layers)
    print(
        f"{counted(result.images, 'image')}: {result.computed} computed, {result.cached} cached, "
        f"{len(result.failed)} failed; {dims}-d, {result.seconds:.1f} s"
    )
    if result.engine:
        print(f"computed by {result.engine} on {result.device}, {result.extractor['precision']}")
    for layer in result.layers:
        name = f" of {layer['layer']}" if len(result.layers) > 1 else ""
        print(printable(f"store{name}: {layer['store']}"))
    if result.out:
        print(printable(f"vectors: {result.out}"))
