"""What the user sees: messages on stderr, tables on stdout."""

import json
import logging
import math
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import rich.box
import rich.markup
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from pipeline.core.standard_streams import silence_libraries
from pipeline.core.wording import counted

if TYPE_CHECKING:
    from pipeline.commands.cache import CacheContents, PruneResult, Pruning
    from pipeline.commands.cache_merge import MergeResult
    from pipeline.commands.compare import CompareResult
    from pipeline.commands.export import ExportResult
    from pipeline.commands.export_tables import TableResult
    from pipeline.commands.extract import ExtractResult
    from pipeline.commands.predict import PredictResult
    from pipeline.commands.search import SearchResult
    from pipeline.commands.training_run import TrainResult
    from pipeline.evaluation.results import EvaluationResult

log = logging.getLogger(__name__)

WIDTH = 80
SHOWN = ("weights", "layer", "precision", "pool", "project")  # of an extractor's description


def printable(text: str) -> str:
    """Text that stays one line and cannot control a terminal: control characters and lone surrogates appear escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def as_options(message: str) -> str:
    """Rewrite the parameters that library messages name as options: on_missing='skip' as --on-missing skip.

    A flag, verify=True, becomes --verify. What stands in a path, such as year=2020/1.jpg, is left as it is.
    """
    message = re.sub(r"(?<![\w/\\'.-])([a-z]+(?:_[a-z]+)*)=True\b", lambda found: _option(found[1]), message)
    return re.sub(
        r"(?<![\w/\\'.-])([a-z]+(?:_[a-z]+)*)=(?:'([^']*)'|([A-Z]+|\d+))(?![\w/\\-]|\.\w)",
        lambda found: " ".join((_option(found[1]), found[2] or found[3] or "''")),
        message,
    )


def _option(parameter: str) -> str:
    return f"--{parameter.replace('_', '-')}"


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = printable(as_options(record.getMessage()))
        return f"{record.levelname.lower()}: {message}" if record.levelno >= logging.WARNING else message


class _Handler(logging.Handler):
    """Writes to stderr, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def show_messages(quiet: bool) -> None:
    """Send the messages of `pipeline` to stderr.

    Args:
        quiet: Whether to show warnings and errors only, and nothing that libraries print themselves.
    """
    if quiet:
        silence_libraries()
    handler = _Handler()
    handler.setFormatter(_Formatter())
    logger = logging.getLogger("pipeline")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    # It warns of every decoder after the fourth that is compiled, as each must be.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


class Result(Protocol):
    """A command's result."""

    def to_json(self) -> dict[str, Any]:
        """The document that `--json` prints."""


def print_result(result: Result, as_json: bool, as_text: Callable[[Any], None]) -> None:
    """Print a command's result to stdout, as JSON or by a function of this module."""
    if as_json:
        print(json.dumps(_finite(result.to_json()), indent=2, allow_nan=False))
    else:
        as_text(result)


def _finite(value: Any) -> Any:
    """A JSON value with null for numbers that are not finite, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_places(**places: object) -> None:
    """Print where files are, a line each."""
    for name, place in places.items():
        print(f"{name}: {printable(str(place))}")


def _print(table: Table | str) -> None:
    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(*columns[:1], box=rich.box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def print_error(message: str) -> None:
    """Print an error to stderr."""
    print(f"error: {printable(as_options(message))}", file=sys.stderr)


def print_interruption(message: str) -> None:
    """Say on stderr that a command was interrupted, and how to resume."""
    print(f"\n{printable(message)}", file=sys.stderr)


def print_extraction(result: "ExtractResult") -> None:
    """Print the result of `extract`."""
    dims = " + ".join(str(layer["dim"]) for layer in result.layers)
    print(
        f"{counted(result.images, 'image')}: {result.computed} computed, {result.cached} cached, "
        f"{len(result.failed)} failed; {dims}-d, {result.seconds:.1f} s"
    )
    for layer in result.layers:
        name = f" of {layer['layer']}" if len(result.layers) > 1 else ""
        print(printable(f"store{name}: {layer['store']}"))
    if result.out:
        print(printable(f"vectors: {result.out}"))


def print_prediction(result: "PredictResult") -> None:
    """Print the result of `predict`: the nearest names of the first images, and where the embeddings are."""
    if result.nearest:
        table = _table(f"Nearest of {result.candidates} names, and their cosines", "image", "nearest")
        for each in result.nearest:
            names = zip(each.names, each.cosines, strict=True)
            listed = ", ".join(f"{printable(name)} {cosine:.3f}" for name, cosine in names)
            table.add_row(rich.markup.escape(printable(each.path)), rich.markup.escape(listed))
        _print(table)
    embedded = result.images - len(result.failed)
    if more := max(0, embedded - len(result.nearest)) if result.nearest else 0:
        print(f"{more} more image{'s' * (more != 1)}: see the file\n")
    print(
        f"{result.images} image{'s' * (result.images != 1)}: {result.computed} computed, {result.cached} cached, "
        f"{len(result.failed)} failed; embeddings of dimension {result.dim}"
    )
    _print_places(model=result.model, embeddings=result.out)


def print_search(result: "SearchResult") -> None:
    """Print the result of `search`: the nearest images and their cosines."""
    table = _table(printable(f"Nearest to {result.query} by cosine of {result.space}"), "image", "cosine")
    for image in result.found:
        table.add_row(rich.markup.escape(printable(image.path)), f"{image.cosine:.3f}")
    _print(table)
    print(
        f"{result.images} image{'s' * (result.images != 1)}: {result.computed} computed, {result.cached} cached, "
        f"{len(result.failed)} failed"
    )
    if result.index:
        print(f"by an {result.index} index, with a recall of {result.recall:.3f} against the exact search when built")
    if result.html:
        print(printable(f"page: {result.html}"))


def print_export(result: "ExportResult") -> None:
    """Print the result of `export`: where it is, and how near its answers are to the stored predictions."""
    print(
        f"Checked on {counted(result.images, 'image')}: from pixels, the largest difference to the stored predictions "
        f"is {result.difference:.1e} of their length."
    )
    if near := result.bytes:
        print(
            f"From the bytes of {near.images} JPEGs or PNGs: pixels differ by {near.levels:.2f} grey levels on "
            f"average and {near.most_levels} at most; the lowest cosine to a stored prediction is {near.cosine:.6f}."
        )
    _print_places(**{"model": result.model, result.format: result.out})


def print_table(result: "TableResult") -> None:
    """Print the result of `export` to a table: its rows, and where it is."""
    columns = ", ".join(f"{name} ({dim:,} numbers)" for name, dim in result.columns.items())
    print(f"{counted(result.rows, 'row')}, with {printable(columns)}")
    print(f"{result.computed} computed, {result.cached} cached, {len(result.failed)} failed")
    _print_places(**{"from": result.source, result.format: result.out})


def print_training(result: "TrainResult") -> None:
    """Print the result of `train`: the held-out cosine of each model beside the baselines and the output ceiling."""
    title = f"Cosine to the target, {counted(result.train, 'training image')}, {result.validation} held out"
    table = _table(title, "", "held out", "training", "epochs", "seconds")
    for name, model in result.models.items():
        table.add_row(
            name,
            f"{model.validation_cosine:.4f}",
            f"{model.train_cosine:.4f}",
            str(model.epochs),
            f"{model.seconds:.1f}",
        )
    table.add_section()
    for name, cosine in result.baselines.items():
        table.add_row(f"{name} baseline", f"{cosine:.4f}")
    table.add_row("output ceiling", f"{result.ceiling:.4f}")
    _print(table)
    for sentence in _training_sentences(result):
        _print(sentence)
    document = result.to_json()
    print()
    _print_places(run=document["run"], report=document["report"])


def _part(candidate: str) -> str:
    """The name of a candidate of a blend, its comma as parentheses: network (weight decay 3)."""
    name, comma, detail = candidate.partition(", ")
    return f"{name} ({detail})" if comma else name


def _training_sentences(result: "TrainResult") -> list[str]:
    """The verdict, what a blend consists of, and the scores over folds."""
    sentences = [f"Mean held-out cosine {result.headline}."]
    if used := {name: share for name, share in result.shares.items() if share > 0}:
        parts = (f"{share:.2f} {_part(name)}" for name, share in used.items())
        sentences.append(f"The decoder is a blend: {' + '.join(parts)}.")
    if result.folds:
        for name, score in result.folds.validation_cosine.items():
            interval = f", 95 % interval {score.ci95[0]:.3f} to {score.ci95[1]:.3f}" if score.ci95 else ""
            folds = f"{result.folds.folds} folds" + f" x {result.folds.repeats}" * (result.folds.repeats > 1)
            sentences.append(f"{name} over {folds}: {score.mean:.4f}{interval} (corrected for overlapping folds).")
    return sentences


def print_evaluation(result: "EvaluationResult") -> None:
    """Print the result of `evaluate`: a table, what it means, and where the report is."""
    title = f"Cosine to the target, {counted(result.images, 'image')}; rank of the target among {result.candidates}"
    table = _table(title, "", "mean", "95 % interval", "centred", "progress", "top-1", "top-5")
    for rows in ({name: model.scores for name, model in result.models.items()}, result.baselines):
        for name, scores in rows.items():
            interval = scores.cosine.ci95
            table.add_row(
                rich.markup.escape(printable(name)),
                f"{scores.cosine.mean:.4f}",
                f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else "-",
                f"{scores.centred_cosine.mean:.3f}",
                "-" if scores.progress is None else f"{scores.progress:.0%}",
                f"{scores.retrieval.top1:.0%}",
                f"{scores.retrieval.top5:.0%}",
            )
        table.add_section()
    table.add_row("output ceiling", f"{result.ceiling:.4f}")
    _print(table)
    for sentence in result.conclusions:
        _print(rich.markup.escape(printable(sentence)))
    if result.report:
        print()
        _print_places(report=result.report)


def print_comparison(result: "CompareResult") -> None:
    """Print the result of `compare`: a row for each scenario and seed, then what they mean."""
    columns = {"functional": "functional", "sequential": "sequential"}
    if "functional_held_out" in result.scenarios[0].runs[0]:
        columns |= {"functional_held_out": "held out", "sequential_held_out": "held out"}
    table = _table(f"Cosine to the target, output ceiling {result.ceiling:.4f}", "", "seed", *columns.values())
    for scenario in result.scenarios:
        for number, run in enumerate(scenario.runs):
            name = "" if number else scenario.name
            table.add_row(name, str(run["seed"]), *(f"{run[key]:.4f}" for key in columns))
        table.add_section()
    _print(table)
    for scenario in result.scenarios:
        _print(f"[bold]{scenario.name}[/bold]: {scenario.verdict}\n")


def print_cache(contents: "CacheContents") -> None:
    """Print what a cache folder holds."""
    table = _table(f"Cache {printable(contents.folder)}", "", "images", "size", "last used")
    for store in contents.stores:
        made_by = " ".join(text for key, text in store.extractor.items() if key in SHOWN)
        count = "damaged" if store.images is None else f"{store.images:,}"
        table.add_row(rich.markup.escape(printable(made_by)), count, _megabytes(store.bytes), _day(store.last_used))
    for file in (*contents.networks, *contents.leftovers):
        name = rich.markup.escape(printable(Path(file.path).name))
        table.add_row(name, "", _megabytes(file.bytes), _day(file.last_used))
    _print(table)
    print(f"{_megabytes(contents.bytes)} in all; {contents.indexed:,} files are known to the file index")


def print_pruning(pruning: "Pruning") -> None:
    """Say on stderr what will be removed."""
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
    print(f"Removed {len(result.removed)} stores and files, and {features:,} features of others: ", end="")
    print(f"{_megabytes(result.bytes)} less.")


def print_merged(result: "MergeResult") -> None:
    """Print the result of `cache merge`."""
    copied, known, damaged = (
        sum(getattr(each, name) for each in result.stores) for name in ("copied", "known", "damaged")
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
