"""`search`: images near a query."""

from typing import TYPE_CHECKING

from pipeline.cli.command import command
from pipeline.cli.terminal import cell, new_table, print_result, print_rich, printable
from pipeline.commands.options import SearchOptions

if TYPE_CHECKING:
    from pipeline.commands.search import SearchResult


@command
def search(options: SearchOptions, as_json: bool) -> None:
    """Find the images of IMAGES that are nearest to an image, a word or a vector."""
    from pipeline.commands.search import search

    print_result(search(options), as_json, print_search)


def print_search(result: "SearchResult") -> None:
    """Print the result of `search`: the nearest images and their cosines."""
    table = new_table(printable(f"Nearest to {result.query} by cosine of {result.space}"), "image", "cosine")
    for image in result.found:
        table.add_row(cell(image.path), f"{image.cosine:.3f}")
    print_rich(table)
    print(
        f"{result.images} image{'s' * (result.images != 1)}: {result.computed} computed, {result.cached} cached, "
        f"{len(result.failed)} failed"
    )
    if result.index:
        print(f"by an {result.index} index, with a recall of {result.recall:.3f} against the exact search when built")
    if result.report:
        print(printable(f"report: {result.report}"))
