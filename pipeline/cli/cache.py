"""`cache`: lists, prunes and merges caches."""

import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.command import command, command_group
from pipeline.cli.terminal import cell, new_table, print_result, print_rich, printable
from pipeline.commands.options import CacheOptions, MergeOptions, PruneOptions
from pipeline.core.errors import RequestError
from pipeline.core.locations import Location
from pipeline.core.wording import counted
from pipeline.features.options import ExtractorOptions

if TYPE_CHECKING:
    from pipeline.commands.cache import CacheContents, PruneResult, Pruning
    from pipeline.commands.cache_merge import MergeResult


@command_group
@click.pass_context
def cache(context: click.Context, options: CacheOptions, as_json: bool) -> None:
    """List what the cache folder holds: feature stores and converted networks, and what made them."""
    from pipeline.commands.cache import list_cache

    context.obj = options.cache, as_json  # for subcommands without their own
    if context.invoked_subcommand is None:
        print_result(list_cache(options.folder), as_json, print_cache)


@command
@click.option("--yes", is_flag=True, help="Remove without asking.")
@click.pass_obj
def prune(group: tuple[Location | Path | str | None, bool], options: PruneOptions, yes: bool, as_json: bool) -> None:
    """Remove leftovers of killed processes from the cache folder, and what the options select.

    Lists what will be removed, and asks. Features are removed only if an option selects them.

    In a bucket, only features of other images (--not-in) are removed, and their space is freed by the next prune, a day
    later.
    """
    from pipeline.commands.cache import Pruning, plan_pruning, prune

    options = dataclasses.replace(options, cache=options.cache or group[0])
    images = options.sources.find(options.images) if options.images else None
    pruning = plan_pruning(options.folder, options.older_than, images, options.set_aside)
    print_pruning(pruning)
    if pruning and not yes:
        if not sys.stdin.isatty():
            raise RequestError("This removes files; without a terminal to ask on, say --yes.")
        if not click.confirm("Remove them?", err=True):
            pruning = Pruning(options.folder, [])
    print_result(prune(pruning), as_json or group[1], print_pruned)


@command
@click.pass_obj
def merge(group: tuple[Location | Path | str | None, bool], options: MergeOptions, as_json: bool) -> None:
    """Copy features and the file index of other caches into the cache folder; what it has already is skipped.

    After an interruption, run the same command again.
    """
    from pipeline.commands.cache_merge import merge_caches

    options = dataclasses.replace(options, cache=options.cache or group[0])
    print_result(merge_caches(options.sources, options.folder), as_json or group[1], print_merged)


cache.add_command(prune)
cache.add_command(merge)


def print_cache(contents: "CacheContents") -> None:
    """Print the contents of a cache folder."""
    table = new_table(f"Cache {printable(contents.folder)}", "", "images", "size", "last used")
    settings = {field.name for field in dataclasses.fields(ExtractorOptions)}
    for store in contents.stores:
        extractor = " ".join(text for key, text in store.extractor.items() if key in settings)
        count = "unreadable" if store.images is None else f"{store.images:,}"
        table.add_row(cell(extractor), count, _megabytes(store.bytes), _day(store.last_used))
    for file in (*contents.networks, *contents.leftovers, *contents.set_aside):
        name = cell(Path(file.path).name)
        table.add_row(name, "", _megabytes(file.bytes), _day(file.last_used))
    print_rich(table)
    print(f"{_megabytes(contents.bytes)} in all; {contents.indexed:,} files are known to the file index")


def print_pruning(pruning: "Pruning") -> None:
    """Print to stderr what will be removed."""
    for item in pruning.removed:
        print(printable(f"to remove: {item.path}, {_megabytes(item.bytes)}"), file=sys.stderr)
    for store, count in pruning.rows.items():
        print(printable(f"to remove: {count:,} features of {store}"), file=sys.stderr)


def print_pruned(result: "PruneResult") -> None:
    """Print the result of `cache prune`."""
    if not result.removed and not result.rows:
        print("Nothing was removed.")
        return
    features = sum(result.rows.values())
    print(f"Removed {counted(len(result.removed), 'item')} and {counted(features, 'feature')} of others: ", end="")
    print(f"{_megabytes(result.bytes)} less.")


def print_merged(result: "MergeResult") -> None:
    """Print the result of `cache merge`."""
    copied, known, damaged = (
        sum(getattr(store, name) for store in result.stores) for name in ("copied", "known", "damaged")
    )
    print(
        f"{counted(len(result.stores), 'store')}: {copied:,} features copied, {known:,} known, {damaged:,} damaged; "
        f"the file index learned of {counted(result.indexed, 'file')}"
    )
    print(printable(f"cache: {result.folder}"))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))
