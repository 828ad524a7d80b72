"""The command line: reads options, calls a command, prints its result. Commands are imported only when they run."""

import dataclasses
import difflib
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from pipeline import requested
from pipeline.cli_cache import cache
from pipeline.cli_export import export
from pipeline.cli_models import models
from pipeline.cli_search import search
from pipeline.core.errors import Interrupted, PipelineError, RequestError
from pipeline.core.interrupts import Terminated, arrived_interrupt, raise_interrupts
from pipeline.options import (
    COUNT,
    EXISTING_FILE,
    FOLDER,
    OUTPUT,
    WholeNumber,
    cluster_option,
    data_option,
    extraction_options,
    extractor_options,
    label_option,
    memory_size,
    missing_option,
    noise_option,
    output_options,
    overwrite_option,
    ray_options,
    seed_option,
    split_option,
    targets_option,
    training_options,
)

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
NEAR = 0.8  # similarity, of 1, at which an option is suggested for a misspelled one
# Options that may change when a run is resumed; all others stay as they were when it began.
FREE_WHEN_RESUMED = ("resume", "cache", "workers", "as_json", "quiet", "data_dir")
RESUME = "Interrupted. The features computed so far are stored; the same command resumes."


@click.group(context_settings=SETTINGS, no_args_is_help=False)
@click.version_option(package_name="image-vectors")
def cli() -> None:
    """From a folder of images to VGG16 vectors, from the vectors to your own embeddings, and an honest score.

    IMAGES is a folder (searched recursively), one image, a list (.txt with one path per line, .csv or .parquet with a
    column `path`), tfds:NAME[/CONFIG]:SPLIT, or a bucket: s3://BUCKET/PREFIX, gs://..., az://...
    """


@cli.command()
@click.argument("images")
@click.option("--out", type=OUTPUT, help="Also write the vectors to a .npz, .npy, .parquet or .csv file.")
@overwrite_option
@click.option("--shard", metavar="N/COUNT", help="Compute a stable share of IMAGES only: 3/16 is the third of sixteen.")
@data_option
@click.option("--strict", is_flag=True, help="Exit with status 1 if an image was not read.")
@click.option("--verify", is_flag=True, help="Check all stored vectors, and compute damaged ones again.")
@ray_options
@extractor_options
@extraction_options
@output_options
def extract(
    images: str, out: Path | None, shard: str | None, data_dir: Path | None, strict: bool, **options: Any
) -> None:
    """Compute the VGG16 features of IMAGES and store them; those already stored are not computed again."""
    from pipeline import terminal
    from pipeline.commands.extract import extract
    from pipeline.data.shards import Shard
    from pipeline.data.sources import find_images

    terminal.show_messages(options["quiet"])
    share = None if shard is None else Shard.parse(shard)
    extractors, extraction = requested.extractors(options), requested.extraction_options(options)
    image_set = find_images(images, data_dir, root=options["root"])
    result = extract(image_set, extractors, extraction, out, share)
    terminal.print_result(result, options["as_json"], terminal.print_extraction)
    if strict and (result.failed or result.passed_over or image_set.unread):
        sys.exit(1)


def _use_config(context: click.Context, parameter: click.Parameter, file: Path | None) -> Path | None:
    """Use the options of a run as defaults."""
    if file:
        from pipeline.core.runs import read_run

        folder = file.parent if file.name == "run.json" else file
        run = read_run(folder, allow_edits=parameter.name == "config")
        context.default_map = requested.repeated(run.options, context.command)
    return file


@cli.command()
@click.argument("images", required=False)
@targets_option
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True),
    is_eager=True,
    callback=_use_config,
    metavar="models/RUN",
    help="Repeat a run with its options, except those that are given.",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    is_eager=True,
    metavar="models/RUN",
    callback=_use_config,
    help="Resume an interrupted run.",
)
@click.option(
    "--api",
    type=click.Choice(["both", "functional", "sequential"]),
    default="both",
    show_default=True,
    help="The Keras API style to build the decoder in.",
)
@training_options
@click.option(
    "--folds",
    type=WholeNumber(2),
    metavar="N",
    help="Cross-validate: hold out every image once, then train on all of them.",
)
@click.option("--repeats", type=COUNT, default=1, show_default=True, metavar="N", help="Repeats of the folds.")
@noise_option
@cluster_option
@click.option(
    "--memory", callback=memory_size, metavar="SIZE", help="Memory for features; more are streamed from disk.  [4GB]"
)
@click.option("--tensorboard", is_flag=True, help="Write learning curves for TensorBoard into models/RUN/logs.")
@split_option
@click.option("--models", type=FOLDER, default="models", show_default=True, help="Folder to save the run in.")
@click.option("--name", metavar="NAME", help="Name of the run.  [the local time]")
@missing_option
@label_option
@data_option
@seed_option
@extractor_options
@extraction_options
@output_options
@click.pass_context
def train(context: click.Context, /, config: Path | None, resume: Path | None, **options: Any) -> None:
    """Train a decoder from the features of IMAGES to their targets.

    Without IMAGES, the sample is used, with untrained weights.
    """
    from pipeline import terminal
    from pipeline.commands.examples import ExampleOptions
    from pipeline.commands.train import train
    from pipeline.commands.training_run import FoldOptions, TrainOptions
    from pipeline.data.sources import find_images
    from pipeline.data.splits import SplitRule
    from pipeline.decoders.network import API_STYLES
    from pipeline.decoders.training import MEMORY

    terminal.show_messages(options["quiet"])
    _refuse_changes(context, config, resume)
    if options["repeats"] > 1 and not options["folds"]:
        raise RequestError("repeats is the number of times that folds are repeated; it needs --folds N.")
    rule, untrained = SplitRule.parse(options["split"]), requested.use_sample(options)
    images = find_images(options["images"], options["data_dir"], options["label_pattern"], options["root"])
    if options["targets"] is None and images.targets is None:
        raise RequestError("To train on your own images, name their target embeddings with --targets FILE.")
    examples = ExampleOptions(
        images=images,
        targets=str(options["targets"]) if options["targets"] else None,
        target_columns=options["target_columns"],
        on_missing=options["on_missing"],
        rule=rule,
        seed=options["seed"],
        noise_ceiling=options["noise_ceiling"],
    )
    train_options = TrainOptions(
        examples=examples,
        config=requested.decoder_config(options),
        folds=FoldOptions(options["folds"], options["repeats"]) if options["folds"] else None,
        cluster=options["cluster"],
        styles=API_STYLES if options["api"] == "both" else (options["api"],),
        models=options["models"],
        name=options["name"],
        memory=options["memory"] or MEMORY,
        tensorboard=options["tensorboard"],
        command=requested.repeatable(options),
    )
    extractors, extraction = requested.extractors(options), requested.extraction_options(options)
    if untrained:
        terminal.log.info("The sample uses untrained weights (--weights %s) and needs no download.", options["weights"])
    result = train(train_options, extractors, extraction, resume)
    terminal.print_result(result, options["as_json"], terminal.print_training)


def _refuse_changes(context: click.Context, config: Path | None, resume: Path | None) -> None:
    """Refuse other options together with --resume."""
    changed = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if resume and (config or changed - set(FREE_WHEN_RESUMED)):
        raise RequestError(f"{resume} resumes with the options it began with; give --resume alone.")


@cli.command()
@click.argument("models", nargs=-1, required=True, metavar="RUN|MODEL...")
@click.option("--images", metavar="IMAGES", help="Images to evaluate on.  [those that the run held out]")
@targets_option
@click.option(
    "--report", type=OUTPUT, metavar="FILE.html", help="Where to write the report.  [models/RUN/evaluation.html]"
)
@overwrite_option
@click.option("--vocabulary", type=EXISTING_FILE, help="Word vectors to look predictions up among, beside the targets.")
@noise_option
@cluster_option
@click.option("--shuffled", is_flag=True, help="Add a baseline: a decoder trained on shuffled targets.")
@missing_option
@label_option
@data_option
@extractor_options
@extraction_options
@output_options
def evaluate(models: tuple[str, ...], images: str | None, data_dir: Path | None, **options: Any) -> None:
    """Score saved decoders by cosine to the targets, on the images that their run held out or on IMAGES."""
    from pipeline import terminal
    from pipeline.commands.evaluate import EvaluateOptions, evaluate
    from pipeline.data.sources import find_images

    terminal.show_messages(options["quiet"])
    if images is None and len(models) > 1 and not requested.is_model(models[-1]):
        *models, images = models  # type: ignore[assignment]  # IMAGES as the last argument, as in earlier versions
    evaluate_options = EvaluateOptions(
        models=models,
        images=find_images(images, data_dir, options["label_pattern"], options["root"]) if images else None,
        data_dir=data_dir,
        targets=str(options["targets"]) if options["targets"] else None,
        target_columns=options["target_columns"],
        extractor=requested.extractor_options(options),
        **{
            name: options[name]
            for name in ("on_missing", "vocabulary", "shuffled", "noise_ceiling", "cluster", "report")
        },
    )
    result = evaluate(evaluate_options, requested.extraction_options(options))
    terminal.print_result(result, options["as_json"], terminal.print_evaluation)


@cli.command()
@click.argument("model", type=click.Path(path_type=Path), metavar="RUN|MODEL")
@click.argument("images")
@click.option(
    "--out", type=OUTPUT, required=True, help="Where to write the embeddings: a .npz, .npy, .parquet or .csv file."
)
@overwrite_option
@click.option(
    "--api",
    type=click.Choice(["functional", "sequential", "ridge"]),
    help="Which decoder of the run: an API style, or its ridge regression.  [functional, else sequential]",
)
@click.option("--nearest", type=COUNT, metavar="K", help="Also find the K nearest words or labels of each image.")
@click.option(
    "--vocabulary", type=EXISTING_FILE, help="Word vectors to find them among.  [the labels of the run's targets]"
)
@data_option
@extractor_options
@extraction_options
@output_options
def predict(model: Path, images: str, data_dir: Path | None, **options: Any) -> None:
    """Predict the embeddings of IMAGES with a saved decoder."""
    from pipeline import terminal
    from pipeline.commands.predict import PredictOptions, predict
    from pipeline.data.sources import find_images

    terminal.show_messages(options["quiet"])
    settings = {name: options[name] for name in ("out", "api", "nearest", "vocabulary")}
    image_set = find_images(images, data_dir, root=options["root"])
    predict_options = PredictOptions(
        model, image_set, extractor=requested.extractor_options(options), data_dir=data_dir, **settings
    )
    result = predict(predict_options, requested.extraction_options(options))
    terminal.print_result(result, options["as_json"], terminal.print_prediction)


@cli.command()
@click.argument("images", required=False)
@targets_option
@click.option("--seeds", type=COUNT, default=3, show_default=True, metavar="N", help="Number of random seeds.")
@click.option("--epochs", type=COUNT, default=2000, show_default=True, metavar="N", help="Epochs of each training.")
@click.option("--plot", type=OUTPUT, help="Plot the learning curves to a .png, .svg or .pdf file.")
@overwrite_option
@split_option
@missing_option
@label_option
@data_option
@extractor_options
@extraction_options
@output_options
def compare(
    images: str | None, targets: Path | None, seeds: int, epochs: int, plot: Path | None, **options: Any
) -> None:
    """Show why two identical Keras models can differ, by running the original question and its answers.

    Without IMAGES, on the data of the original question; otherwise on IMAGES and --targets FILE.
    """
    from pipeline import terminal
    from pipeline.commands.compare import compare
    from pipeline.commands.examples import ExampleOptions
    from pipeline.data.sources import find_images
    from pipeline.data.splits import SplitRule
    from pipeline.decoders.network import ORIGINAL

    terminal.show_messages(options["quiet"])
    examples, rule = None, SplitRule.parse(options["split"])
    if images or targets:
        settings = (options["data_dir"], options["label_pattern"], options["root"])
        image_set = find_images(images, *settings) if images else None
        if not image_set or (targets is None and image_set.targets is None):
            raise RequestError("To compare on your own data, name both: IMAGES and --targets FILE.")
        target_file = str(targets) if targets else None
        example_options = ExampleOptions(
            image_set, target_file, options["on_missing"], rule, target_columns=options["target_columns"]
        )
        examples = example_options, requested.extractors(options)
    config = dataclasses.replace(ORIGINAL, epochs=epochs)
    result = compare(seeds, config, requested.extraction_options(options), examples, plot)
    terminal.print_result(result, options["as_json"], terminal.print_comparison)


def _with_near_names(error: click.ClickException) -> str:
    """A message of click, with suggestions only for likely misspellings."""
    if isinstance(error, click.UsageError) and error.message.startswith("Got unexpected extra argument"):
        message = error.message.rstrip(".")
        return f"{message}. IMAGES is one place; for several folders, name the one that holds them, or a list."
    if not isinstance(error, click.NoSuchOption):
        return " ".join(line.strip() for line in error.format_message().splitlines())
    near = difflib.get_close_matches(error.option_name, error.possibilities or [], cutoff=NEAR)
    return f"{error.message} Did you mean {' or '.join(near)}?" if near else error.message


for command in (search, export, models, cache):
    cli.add_command(command)


def main() -> None:
    """Run a command; an error becomes one message on stderr and an exit code."""
    from pipeline.terminal import show_messages

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
    from pipeline.terminal import print_error, print_interruption

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
