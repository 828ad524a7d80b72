"""`rsa`: representational similarity."""

from typing import TYPE_CHECKING

from pipeline.cli.command import command
from pipeline.cli.terminal import cell, new_table, print_paths, print_result, print_rich
from pipeline.commands.options import RsaOptions

if TYPE_CHECKING:
    from pipeline.evaluation.rsa import RsaResult


@command
def rsa(options: RsaOptions, as_json: bool) -> None:
    """Compare layers by representational similarity: are images that are alike by features alike by targets?"""
    from pipeline.commands.rsa import rsa

    print_result(rsa(options), as_json, print_rsa)


def print_rsa(result: "RsaResult") -> None:
    """Print the result of `rsa`: the similarities, and what they are."""
    for numbers in result.tables():
        table = new_table(numbers.caption, *numbers.header)
        for row in numbers.rows:
            table.add_row(*map(cell, row))
        print_rich(table)
    for paragraph in result.paragraphs():
        print_rich(cell(paragraph))
    if result.report:
        print()
        print_paths(report=result.report)
