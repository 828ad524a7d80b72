"""The command line of `cache`."""

import sys
from pathlib import Path
from typing import Any

import click

from pipeline.core.errors import RequestError
from pipeline.options import CACHE, data_option

DAYS = click.FloatRange(min=0)


FOLDER_OPTION = click.option(
    "--cache",
    "folder",
    type=CACHE,
    metavar="DIR|URL",
    help="The cache folder, or its URL in a bucket.  [the user's cache folder]",
)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")


@click.group(invoke_without_command=True)
@FOLDER_OPTION
@JSON_OPTION
@click.pass_context
def cache(context: click.Context, folder: Path | str | None, as_json: bool) -> None:
    """List what the cache folder holds: feature stores and converted networks, and what made them."""
    from pipeline import terminal
    from pipeline.commands.cache import list_cache
    from pipeline.features.cache import usual_folder

    terminal.show_messages(quiet=False)
    context.obj = folder, as_json
    if context.invoked_subcommand is None:
        terminal.print_result(list_cache(folder or usual_folder()), as_json, terminal.print_cache)


@cache.command("prune")
@click.option("--older-than", type=DAYS, metavar="DAYS", help="Remove stores and networks not used for so long.")
@click.option("--not-in", "images", metavar="IMAGES", help="Remove the features of all images but these.")
@data_option
@click.option("--set-aside", is_flag=True, help="Remove damaged stores that were set aside, with all that they hold.")
@click.option("--yes", is_flag=True, help="Remove without asking.")
@FOLDER_OPTION
@JSON_OPTION
@click.pass_obj
def prune(group: tuple[Path | str | None, bool], /, images: str | None, yes: bool, **options: Any) -> None:
    """Remove what no longer serves from the cache folder, and what killed processes left there.

    Nothing that holds features is removed unless an option names it.

    In a bucket, only features of other images (--not-in) are removed, and their space is free a day later, at the next
    prune. Says what it will remove, and asks.
    """
    from pipeline import terminal
    from pipeline.commands.cache import Pruning, plan_pruning, prune
    from pipeline.data.sources import find_images
    from pipeline.features.cache import usual_folder

    folder, as_json = options["folder"] or group[0] or usual_folder(), options["as_json"] or group[1]
    images_to_keep = find_images(images, options["data_dir"], root=options["root"]) if images else None
    pruning = plan_pruning(folder, options["older_than"], images_to_keep, options["set_aside"])
    terminal.print_pruning(pruning)
    if pruning and not yes:
        if not sys.stdin.isatty():
            raise RequestError("This removes files; without a terminal to ask on, say --yes.")
        if not click.confirm("Remove them?", err=True):
            pruning = Pruning(folder, [])
    terminal.print_result(prune(pruning), as_json, terminal.print_pruned)


@cache.command("merge")
@click.argument("sources", nargs=-1, required=True, type=CACHE, metavar="CACHE...")
@FOLDER_OPTION
@JSON_OPTION
@click.pass_obj
def merge(
    group: tuple[Path | str | None, bool], /, sources: tuple[Path | str, ...], folder: Path | str | None, as_json: bool
) -> None:
    """Copy into the cache folder what it lacks of others: features, and which files have which content.

    Run it again after an interruption: what is there is not copied again.
    """
    from pipeline import terminal
    from pipeline.commands.cache_merge import merge_caches
    from pipeline.features.cache import usual_folder

    result = merge_caches(sources, folder or group[0] or usual_folder())
    terminal.print_result(result, as_json or group[1], terminal.print_merged)
