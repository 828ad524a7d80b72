"""`train`: a decoder from images and targets."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.table import Table

from pipeline.cli.command import command
from pipeline.cli.terminal import interval, new_table, print_paths, print_result, print_rich
from pipeline.commands.training_options import TrainOptions
from pipeline.core.errors import RequestError
from pipeline.core.options import settings
from pipeline.core.wording import counted

if TYPE_CHECKING:
    from pipeline.commands.training_run import FoldResult, TrainResult

log = logging.getLogger(__name__)

LEAST_SHARE = 0.005  # smallest share of a candidate that is listed as part of a blend
KEPT = {setting.name: setting for setting in settings(TrainOptions, "train") if setting.option.kept}
PLACES = {"models", "name"}  # options for where a run is saved, which is known for a resumed run


def repeated(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options in a `run.json` as they are typed on the command line.

    A run may come from another machine, so options that say where files are written are left out.

    Raises:
        RequestError: A flag is not true or false, or another option is.
    """
    known = {name: value for name, value in options.items() if name in KEPT and value is not None}
    for name, value in known.items():
        if isinstance(value, bool) != KEPT[name].is_flag:
            raise RequestError(f"The run has no proper value of the option {name}: {value!r}.")
    if known.get("preset") == "seed":  # its name in earlier versions
        known["preset"] = "original"
    return {name: value if KEPT[name].is_flag else str(value) for name, value in known.items()}


def _use_run(context: click.Context, parameter: click.Parameter, file: Path | None) -> Path | None:
    """Use the options of a run as defaults."""
    if file:
        from pipeline.core.runs import read_run

        folder = file.parent if file.name == "run.json" else file
        context.default_map = repeated(read_run(folder, allow_edits=parameter.name == "config").options)
    return file


@command
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True),
    is_eager=True,
    callback=_use_run,
    metavar="models/RUN",
    help="Repeat a run with its options, except those that are given.",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    is_eager=True,
    callback=_use_run,
    metavar="models/RUN",
    help="Resume an interrupted run.",
)
@click.pass_context
def train(
    context: click.Context, options: TrainOptions, config: Path | None, resume: Path | None, as_json: bool
) -> None:
    """Train a decoder from the features of IMAGES to their targets.

    Without IMAGES, the sample is used, with untrained weights.
    """
    from pipeline.commands.train import train

    named = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if resume and (config or named & (KEPT.keys() | PLACES)):
        raise RequestError(f"{resume} resumes with the options it began with; give --resume alone.")
    if options.decoder.preset == "default" and (changes := options.decoder.changes):
        names = ", ".join(f"--{name}".replace("_", "-") for name in changes)
        log.info("%s: a single network (--preset network); the default decoder chooses these itself.", names)
    print_result(train(options, resume), as_json, print_training)


def print_training(result: "TrainResult") -> None:
    """Print the result of `train`: the held-out cosines of the models, the baselines and the output ceiling."""
    title = f"Cosine to the target, {counted(result.train, 'training image')}, {result.validation} held out"
    if result.folds:
        title = f"Cosine to the target, {counted(result.images, 'image')}, each held out once"
    table = new_table(title, "", "held out", "training", "epochs", "seconds")
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
    print_rich(table)
    if result.folds:
        print_rich(_fold_table(result.folds, titles))
    if result.bands:
        table = new_table("R² of the held-out images by layer, mean over the dimensions", "", "part of R²")
        for row in result.bands.rows():
            table.add_row(*row)
        print_rich(table)
    parts = (result.layers, result.permutations, result.refits, result.learning_curve)
    sections = [part.section() for part in parts if part]
    for numbers in (table for section in sections for table in section.tables):
        table = new_table(numbers.caption, *numbers.header)
        for cells in numbers.rows:
            table.add_row(*cells)
        print_rich(table)
    for sentence in _training_sentences(result):
        print_rich(sentence)
    document = result.to_json()
    print()
    print_paths(**{name: document[name] for name in ("run", "report", "scores") if document[name]})


def _training_sentences(result: "TrainResult") -> list[str]:
    """The verdict, and the parts of a blend."""
    sentences = [
        f"{result.headline}.",
        *(part.sentence() for part in (result.permutations, result.learning_curve) if part),
    ]
    if used := {name: share for name, share in result.shares.items() if share >= LEAST_SHARE}:
        parts = (f"{share:.2f} {_part(name)}" for name, share in used.items())
        sentences.append(f"The decoder is a blend: {' + '.join(parts)}.")
    elif result.shares:
        sentences.append(
            "The decoder is the mean target: no part of the blend predicts better, so it ignores the image."
        )
    return sentences


def _part(candidate: str) -> str:
    """The name of a blend's candidate, with parentheses instead of the comma: network (weight decay 3)."""
    name, comma, detail = candidate.partition(", ")
    return f"{name} ({detail})" if comma else name


def _fold_table(folds: "FoldResult", titles: Mapping[str, str]) -> Table:
    """The scores over folds; they differ from those over images if folds differ in size or are repeated."""
    times = f"{folds.folds} folds" + f" x {folds.repeats}" * (folds.repeats > 1)
    title = f"Mean of {times}, 95 % interval corrected for their common training images"
    table = new_table(title, "", "cosine", "95 % interval")
    models = {title: folds.validation_cosine[name] for name, title in titles.items()}
    for names in (models, {f"{name} baseline": score for name, score in folds.baselines.items()}):
        for name, score in names.items():
            table.add_row(name, f"{score.mean:.4f}", interval(score.ci95))
        table.add_section()
    for difference in folds.differences:
        if difference.of in titles:
            pair = f"{difference.of} - {difference.minus}"
            table.add_row(pair, f"{difference.mean:+.4f}", interval(difference.ci95, "+"))
    return table
