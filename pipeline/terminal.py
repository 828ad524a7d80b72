"""Output for the user: messages on stderr, tables on stdout."""

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import rich.box
import rich.markup
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from pipeline.core.errors import Parameter, PipelineError
from pipeline.core.standard_streams import silence_libraries
from pipeline.core.wording import counted

if TYPE_CHECKING:
    from pipeline.commands.cache import CacheContents, PruneResult, Pruning
    from pipeline.commands.cache_merge import MergeResult
    from pipeline.commands.compare import CompareResult
    from pipeline.commands.export import ExportResult
    from pipeline.commands.export_tables import TableResult
    from pipeline.commands.extract import ExtractResult
    from pipeline.commands.models import RunList
    from pipeline.commands.predict import PredictResult
    from pipeline.commands.search import SearchResult
    from pipeline.commands.training_run import FoldResult, TrainResult
    from pipeline.evaluation.results import EvaluationResult

log = logging.getLogger(__name__)

WIDTH = 80
LEAST_SHARE = 0.005  # of a candidate that is named as part of a blend
NAME = 24  # characters of a run's name that fit on one line
SHOWN = ("weights", "layer", "precision", "pool", "project")  # of an extractor's description


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
    """Print a command's result to stdout, as JSON or by a function of this module."""
    if as_json:
        print(json.dumps(_finite(result.to_json()), indent=2, allow_nan=False))
    else:
        as_text(result)


def _finite(value: Any) -> Any:
    """A JSON value with null for NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_paths(**paths: object) -> None:
    """Print the paths of files, one per line."""
    for name, path in paths.items():
        print(f"{name}: {printable(str(path))}")


def _print(table: Table | str) -> None:
    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(box=rich.box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    table.min_width = min(len(title), WIDTH)  # keeps the title on one line if it fits
    for column in columns[:1]:
        table.add_column(column, overflow="fold")  # a truncated name cannot be copied
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def print_error(error: PipelineError | str) -> None:
    """Print an error to stderr, with its parameters as options."""
    print(f"error: {printable(as_option(error))}", file=sys.stderr)


def print_interruption(message: str) -> None:
    """Print to stderr that a command was interrupted, and how to resume."""
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
    """Print the result of `predict`: the nearest names of the first images, and the path of the embeddings."""
    if result.nearest:
        table = _table(f"Nearest of {result.candidates} names, and their cosines", "image", "nearest")
        for neighbours in result.nearest:
            names = zip(neighbours.names, neighbours.cosines, strict=True)
            names_and_cosines = ", ".join(f"{printable(name)} {cosine:.3f}" for name, cosine in names)
            table.add_row(rich.markup.escape(printable(neighbours.path)), rich.markup.escape(names_and_cosines))
        _print(table)
    embedded = result.images - len(result.failed)
    if more := max(0, embedded - len(result.nearest)) if result.nearest else 0:
        print(f"{more} more image{'s' * (more != 1)}: see the file\n")
    print(
        f"{result.images} image{'s' * (result.images != 1)}: {result.computed} computed, {result.cached} cached, "
        f"{len(result.failed)} failed; embeddings of dimension {result.dim}"
    )
    _print_paths(model=result.model, embeddings=result.out)


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
    if result.report:
        print(printable(f"report: {result.report}"))


def print_export(result: "ExportResult") -> None:
    """Print the result of `export`: its path, and how close its answers are to the stored predictions."""
    spread = result.difference_of_spread
    print(
        f"Checked on {counted(result.images, 'image')}: from pixels, the largest difference to the stored predictions "
        f"is {result.difference:.1e} of their length"
        + (", and they are all alike." if spread is None else f", {spread:.1e} of their spread.")
    )
    if check := result.bytes:
        print(
            f"From the bytes of {check.images} JPEGs or PNGs: pixels differ by {check.levels:.2f} grey levels on "
            f"average and {check.most_levels} at most; the lowest cosine to a stored prediction is {check.cosine:.6f}."
        )
    _print_paths(**{"model": result.model, result.format: result.out})


def print_table(result: "TableResult") -> None:
    """Print the result of `export` to a table: its rows and its path."""
    columns = ", ".join(f"{name} ({dim:,} numbers)" for name, dim in result.columns.items())
    print(f"{counted(result.rows, 'row')}, with {printable(columns)}")
    print(f"{result.computed} computed, {result.cached} cached, {len(result.failed)} failed")
    _print_paths(**{"from": result.source, result.format: result.out})


def print_training(result: "TrainResult") -> None:
    """Print the result of `train`: the held-out cosines of the models, the baselines and the output ceiling."""
    title = f"Cosine to the target, {counted(result.train, 'training image')}, {result.validation} held out"
    if result.folds:
        title = f"Cosine to the target, {counted(result.images, 'image')}, each held out once"
    table = _table(title, "", "held out", "training", "epochs", "seconds")
    titles = result.titles
    for name, title in titles.items():
        model = result.models[name]
        table.add_row(
            title,
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
    if result.folds:
        _print(_fold_table(result.folds, titles))
    for sentence in _training_sentences(result):
        _print(sentence)
    document = result.to_json()
    print()
    _print_paths(run=document["run"], report=document["report"])


def _part(candidate: str) -> str:
    """The name of a blend's candidate, with parentheses instead of the comma: network (weight decay 3)."""
    name, comma, detail = candidate.partition(", ")
    return f"{name} ({detail})" if comma else name


def _training_sentences(result: "TrainResult") -> list[str]:
    """The verdict, and the parts of a blend."""
    sentences = [f"{result.headline}."]
    if used := {name: share for name, share in result.shares.items() if share >= LEAST_SHARE}:
        parts = (f"{share:.2f} {_part(name)}" for name, share in used.items())
        sentences.append(f"The decoder is a blend: {' + '.join(parts)}.")
    elif result.shares:
        sentences.append(
            "The decoder is the mean target: no part of the blend predicts better, so it ignores the image."
        )
    return sentences


def _fold_table(folds: "FoldResult", titles: Mapping[str, str]) -> Table:
    """The scores over folds; they differ from those over images if folds differ in size or are repeated."""
    times = f"{folds.folds} folds" + f" x {folds.repeats}" * (folds.repeats > 1)
    title = f"Mean of {times}, 95 % interval corrected for their common training images"
    table = _table(title, "", "cosine", "95 % interval")
    models = {title: folds.validation_cosine[name] for name, title in titles.items()}
    for names in (models, {f"{name} baseline": score for name, score in folds.baselines.items()}):
        for name, score in names.items():
            table.add_row(name, f"{score.mean:.4f}", _interval(score.ci95))
        table.add_section()
    for difference in folds.differences:
        if difference.of in titles:
            pair = f"{difference.of} - {difference.minus}"
            table.add_row(pair, f"{difference.mean:+.4f}", _interval(difference.ci95, "+"))
    return table


def _interval(bounds: tuple[float, float] | None, sign: str = "") -> str:
    return f"{bounds[0]:{sign}.3f} to {bounds[1]:{sign}.3f}" if bounds else "-"


def _percent(share: float) -> str:
    """A share in percent; never -0%."""
    return f"{round(100 * share)}%"


def print_evaluation(result: "EvaluationResult") -> None:
    """Print the result of `evaluate`: a table, the conclusions, and the path of the report."""
    title = f"Cosine to the target, {counted(result.images, 'image')}; rank of the target among {result.candidates}"
    table = _table(title, "", "mean", "95 % interval", "centred", "progress", "top-1", "top-5")
    parts = ({name: result.models[name].scores for name in result.titles}, result.baselines)
    over_clusters = any(scores.cosine.ci95 for rows in parts for scores in rows.values())
    for rows in parts:
        for name, scores in rows.items():
            cosine = scores.cosine
            table.add_row(
                rich.markup.escape(printable(name)),
                f"{cosine.mean:.3f}",
                _interval(cosine.ci95 if over_clusters else cosine.ci95_same_labels),
                f"{scores.centred_cosine.mean:.3f}",
                "-" if scores.progress is None else _percent(scores.progress),
                _percent(scores.retrieval.top1),
                _percent(scores.retrieval.top5),
            )
        table.add_section()
    table.add_row("output ceiling", f"{result.ceiling:.3f}")
    if result.noise_ceiling is not None:
        table.add_row("noise ceiling", f"{result.noise_ceiling:.3f}", _interval(result.noise_ceiling_ci95))
    captions = [f"{title}, bit for bit" for name, title in result.titles.items() if title != name]
    if over_clusters or any(scores.cosine.ci95_same_labels for rows in parts for scores in rows.values()):
        question = result.clusters.question if over_clusters else f"new images of these {result.clusters.kind}s"
        captions.append(f"95 % intervals: for {question}")
    table.caption, table.caption_justify = "\n".join(captions), "left"
    _print(table)
    for sentence in result.conclusions:
        _print(rich.markup.escape(printable(sentence)))
    if result.report:
        print()
        _print_paths(report=result.report)


def print_comparison(result: "CompareResult") -> None:
    """Print the result of `compare`: a row for each scenario and seed, then the verdicts."""
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


def print_runs(result: "RunList") -> None:
    """Print the result of `models`: a row for each run."""
    table = _table(f"Runs in {printable(result.folder)}", "", "images", "trained on", "held out", "cosine", "baseline")
    table.columns[0].no_wrap = all(len(run.name) <= NAME for run in result.runs)
    table.columns[1].overflow = "fold"
    for column in table.columns[2:]:
        column.no_wrap = True
    for run in result.runs:
        baseline = max(run.baselines, key=lambda name: run.baselines[name], default=None)
        table.add_row(
            rich.markup.escape(printable(run.name)),
            rich.markup.escape(printable(Path(run.images).name)) if run.images else "",
            "" if run.trained_on is None else f"{run.trained_on:,}",
            "" if run.held_out is None else f"{run.held_out:,}",
            f"{max(run.models.values()):.4f}" if run.models else run.status,
            f"{baseline} {run.baselines[baseline]:.4f}" if baseline else "",
        )
    _print(table)
    for run in result.runs:
        if run.error:
            _print(rich.markup.escape(printable(run.error)))


def print_cache(contents: "CacheContents") -> None:
    """Print the contents of a cache folder."""
    table = _table(f"Cache {printable(contents.folder)}", "", "images", "size", "last used")
    for store in contents.stores:
        extractor = " ".join(text for key, text in store.extractor.items() if key in SHOWN)
        count = "unreadable" if store.images is None else f"{store.images:,}"
        table.add_row(rich.markup.escape(printable(extractor)), count, _megabytes(store.bytes), _day(store.last_used))
    for file in (*contents.networks, *contents.leftovers, *contents.set_aside):
        name = rich.markup.escape(printable(Path(file.path).name))
        table.add_row(name, "", _megabytes(file.bytes), _day(file.last_used))
    _print(table)
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
