"""The commands: read arguments, call a stage, print its result. Stages are imported when a command runs."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import click
from click.core import ParameterSource

from pipeline.errors import PipelineError, RequestError

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
SMALLEST_MEMORY = 64 * 2**20
CONFIG = "pipeline.config"  # where a command notes which run's options it uses
COMPUTING = ("engine", "batch_size", "workers", "max_pixels", "cache")  # fields of Computing
# What may differ when a run is gone on with; all else is as it began.
FREE_WHEN_RESUMED = ("resume", "cache", "workers", "as_json", "quiet")


def options(*decorators: Callable) -> Callable:
    """Join several option decorators into one."""

    def decorate(function: Callable) -> Callable:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


extractor_options = options(
    click.option(
        "--weights", metavar="imagenet|random[:SEED]|FILE", help="Where VGG16's weights come from.  [imagenet]"
    ),
    click.option("--layer", metavar="fc2|fc1|block5_pool", help="The layer whose activation is the feature.  [fc2]"),
    click.option("--precision", metavar="float32|bfloat16|float16", help="Of VGG16's arithmetic.  [float32]"),
)
computing_options = options(
    click.option("--engine", default="auto", metavar="auto|keras|mnn", show_default=True, help="What runs VGG16."),
    click.option("--batch-size", type=click.IntRange(1), help="Images that VGG16 takes at a time."),
    click.option("--workers", type=click.IntRange(1), help="Processes that read images.  [one for each core]"),
    click.option("--max-pixels", type=click.IntRange(1), help="Skip images that unpack to more.  [178956970]"),
    click.option("--cache", type=FOLDER, help="Where feature stores are kept.  [the user's cache folder]"),
)
output_options = options(
    click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document."),
    click.option("--quiet", is_flag=True, help="Show warnings and errors only."),
)
seed_option = click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True,
                           help="Seeds all that is random.")  # fmt: skip
targets_option = click.option("--targets", type=FILE, help="A table of target embeddings, or a file of word vectors.")
missing_option = click.option("--on-missing", type=click.Choice(["error", "skip"]), default="error", show_default=True,
                              help="What to do with an image that has no target.")  # fmt: skip


split_option = click.option("--split", default="random", show_default=True, metavar="RULE",
                            help="What to hold out: random, group or classes, with :SHARE; or column.")  # fmt: skip
data_option = click.option("--data-dir", type=FOLDER, help="Where TensorFlow data sets are kept.  [TFDS's own]")


@click.group(context_settings=SETTINGS)
@click.version_option(package_name="image-vectors")
def cli() -> None:
    """From a folder of images to VGG16 vectors, from them to your own embeddings, and what the cosine is worth.

    IMAGES is a folder (searched recursively), a list (.txt with a path a line, .csv or .parquet with a column `path`)
    or tfds:NAME[/CONFIG]:SPLIT.
    """


@cli.command()
@click.argument("images")
@click.option("--out", type=FILE, help="Write the vectors to a .npz, .npy or .parquet file.")
@data_option
@click.option("--strict", is_flag=True, help="Exit with 1 if an image could not be read.")
@extractor_options
@computing_options
@output_options
def extract(images, out, data_dir, strict, weights, layer, precision, as_json, quiet, **asked) -> None:
    """Compute the features of IMAGES that the store lacks."""
    from pipeline import stages, terminal
    from pipeline.sources import find_images

    terminal.show_messages(quiet)
    result = stages.extract_features(
        find_images(images, data_dir), _extractor(weights or "imagenet", layer, precision),
        _computing(quiet, asked), out
    )  # fmt: skip
    _print(result, as_json, terminal.print_extraction)
    if strict and result["failed"]:
        sys.exit(1)


def _use_config(context: click.Context, parameter: click.Parameter, file: Path | None) -> None:
    """Let a run's options stand in for those that are not given."""
    if file:
        from pipeline.runs import read_run

        context.meta[CONFIG] = file if context.meta.setdefault(CONFIG, file) == file else "several"
        context.default_map = read_run(
            file.parent if file.name == "run.json" else file, may_be_edited=parameter.name == "config"
        )["options"]


def _use_interrupted(context: click.Context, parameter: click.Parameter, folder: Path | None) -> Path | None:
    """Take all options from the run that is to be gone on with."""
    if folder:
        _use_config(context, parameter, folder)
    return folder


def _bytes(context: click.Context, parameter: click.Parameter, text: str | int | None) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", str(text).strip(), re.IGNORECASE)
    size = int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " ")) if found else 0
    if size < SMALLEST_MEMORY:
        raise click.BadParameter(f"{text!r} is no amount of memory such as 512MB or 4GB (at least 64MB).")
    return size


def _sizes(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(size) for size in text.split(",") if size.strip())
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of whole numbers such as 256,256.") from error


@cli.command()
@click.argument("images", required=False)
@targets_option
@click.option("--config", type=click.Path(path_type=Path, exists=True), is_eager=True, expose_value=False,
              callback=_use_config, help="Repeat the run of a run.json; other options change it.")  # fmt: skip
@click.option("--resume", type=click.Path(path_type=Path, exists=True, file_okay=False), is_eager=True,
              metavar="models/RUN", callback=_use_interrupted, help="Go on with an interrupted run.")  # fmt: skip
@click.option("--api", type=click.Choice(["both", "functional", "sequential"]), default="both", show_default=True,
              help="The Keras API style to build the decoder in.")  # fmt: skip
@click.option("--preset", type=click.Choice(["default", "seed"]), default="default", show_default=True,
              help="The decoder to begin with: ours, or the network of the question.")  # fmt: skip
@click.option("--hidden", callback=_sizes, metavar="SIZES", help="Units of the hidden layers, such as 256,256.")
@click.option("--activation", help="Keras activation of the hidden layers.")
@click.option("--output-activation", help="Keras activation of the output.  [linear, which can reach every target]")
@click.option("--optimizer", help="A Keras optimizer.")
@click.option("--learning-rate", type=float, help="Its learning rate.")
@click.option("--schedule", type=click.Choice(["constant", "cosine"]), help="Of the learning rate.")
@click.option("--loss", help="A Keras loss, such as mse, cosine or huber.")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the training images.")
@click.option("--minibatch", type=click.IntRange(1), help="Images in a training step.  [32]")
@click.option("--keep", type=click.Choice(["last", "best"]),
              help="The epoch to keep: the last, or the one with the least held-out loss.")  # fmt: skip
@click.option("--patience", type=click.IntRange(1),
              help="Stop after so many epochs without a better held-out loss, and keep the best.")  # fmt: skip
@click.option("--memory", callback=_bytes, metavar="SIZE",
              help="Features to hold in memory; more are streamed from the store.  [4GB]")  # fmt: skip
@click.option("--tensorboard", is_flag=True, help="Write curves for TensorBoard into the run's folder logs.")
@split_option
@click.option("--models", type=FOLDER, default="models", show_default=True, help="Where runs are kept.")
@missing_option
@data_option
@seed_option
@extractor_options
@computing_options
@output_options
@click.pass_context
def train(context, models, resume, as_json, quiet, **asked) -> None:
    """Train a decoder from the features of IMAGES to targets; without IMAGES, on the sample."""
    from pipeline import stages, terminal
    from pipeline.decoders import API_STYLES
    from pipeline.sources import find_images
    from pipeline.splits import SplitRule

    terminal.show_messages(quiet)
    given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if resume and (context.meta.get(CONFIG) != resume or set(given) - set(FREE_WHEN_RESUMED)):
        raise RequestError(f"{resume} goes on with the options it began with; give --resume alone.")
    if asked["images"] is None:
        if not stages.SAMPLE.is_dir():
            raise RequestError(f"The sample is not at {stages.SAMPLE}; name IMAGES and --targets FILE of your own.")
        asked["images"] = str(stages.SAMPLE)
        asked["targets"] = asked["targets"] or stages.SAMPLE_TARGETS
        if not asked["weights"]:
            asked["weights"] = stages.SAMPLE_WEIGHTS
            stages.log.info("The sample runs on untrained weights (--weights %s), so it needs no download.",
                            asked["weights"])  # fmt: skip
    images = find_images(asked["images"], asked["data_dir"])
    if asked["targets"] is None and images.targets is None:
        raise RequestError("To train on images of your own, name their target embeddings with --targets FILE.")
    asked["weights"] = asked["weights"] or "imagenet"
    training = stages.Training(
        images=images,
        targets=str(asked["targets"]) if asked["targets"] else None,
        recipe=_recipe(asked),
        styles=API_STYLES if asked["api"] == "both" else (asked["api"],),
        rule=SplitRule.parse(asked["split"]),
        seed=asked["seed"],
        on_missing=asked["on_missing"],
        models=models,
        tensorboard=asked["tensorboard"],
        options=_repeatable(asked),
        **({"memory": asked["memory"]} if asked["memory"] else {}),
    )
    extractor = _extractor(asked["weights"], asked["layer"], asked["precision"])
    computing = _computing(quiet, asked)
    _print(stages.train(training, extractor, computing, resume), as_json, terminal.print_training)


def _repeatable(asked: dict) -> dict:
    """A training's options as `run.json` keeps them: plain values, paths absolute, nothing of where features are."""
    kept = {name: value for name, value in asked.items() if value is not None and name not in ("cache", "workers")}
    places = [name for name in ("images", "targets", "data_dir") if name in kept]
    kept |= {name: str(Path(kept[name]).absolute()) for name in places if not str(kept[name]).startswith("tfds:")}
    if Path(kept["weights"]).is_file():
        kept["weights"] = str(Path(kept["weights"]).absolute())
    if "hidden" in kept:
        kept["hidden"] = ",".join(map(str, kept["hidden"]))
    return kept


def _recipe(asked: dict):
    """The preset, with what was asked for in its place."""
    import dataclasses

    from pipeline.decoders import PRESETS

    recipe = PRESETS[asked["preset"]]
    given = {name: value for name, value in asked.items() if value is not None}
    decoder = {name: given[name] for name in ("hidden", "activation", "output_activation") if name in given}
    names = ("optimizer", "learning_rate", "schedule", "loss", "epochs", "keep", "patience")
    training = {name: given[name] for name in names if name in given}
    if "minibatch" in given:
        training["batch_size"] = given["minibatch"]
    if "patience" in given:
        training.setdefault("keep", "best")
    return dataclasses.replace(recipe, decoder=dataclasses.replace(recipe.decoder, **decoder), **training)


@cli.command()
@click.argument("models", nargs=-1, required=True, metavar="RUN|MODEL... [IMAGES]")
@targets_option
@click.option("--report", type=FILE, metavar="FILE.html", help="Where to write the report.  [models/RUN/report.html]")
@click.option("--vocabulary", type=FILE, help="Word vectors to look predictions up among, beside the targets.")
@click.option("--shuffled", is_flag=True, help="Train a decoder on shuffled targets, as one more baseline.")
@missing_option
@data_option
@extractor_options
@computing_options
@output_options
def evaluate(models, data_dir, as_json, quiet, **asked) -> None:
    """Judge saved decoders, on IMAGES or on what their run held out."""
    from pipeline import evaluating, terminal
    from pipeline.sources import find_images

    terminal.show_messages(quiet)
    images = None
    if len(models) > 1 and not (Path(models[-1]).suffix == ".keras" or (Path(models[-1]) / "run.json").exists()):
        *models, images = models
        images = find_images(images, data_dir)
    asked["targets"] = str(asked["targets"]) if asked["targets"] else None
    computing = _computing(quiet, asked)
    result = evaluating.evaluate(evaluating.Evaluating(models, images, **asked), computing)
    _print(result, as_json, terminal.print_evaluation)


@cli.command()
@click.argument("images", required=False)
@targets_option
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="How many seeds to run.")
@click.option("--epochs", type=click.IntRange(1), default=2000, show_default=True, help="Of each training.")
@click.option("--plot", type=FILE, help="Draw the learning curves in a .png, .svg or .pdf file.")
@split_option
@missing_option
@data_option
@extractor_options
@computing_options
@output_options
def compare(images, targets, seeds, epochs, plot, weights, layer, precision, as_json, quiet, **asked) -> None:
    """Show why two identical Keras models differ: the question and its answers, run again.

    Without IMAGES on the question's own sample and target, otherwise on IMAGES and --targets FILE.
    """
    import dataclasses

    from pipeline import stages, terminal
    from pipeline.decoders import PRESETS
    from pipeline.sources import find_images
    from pipeline.splits import SplitRule

    terminal.show_messages(quiet)
    rule, on_missing, data_dir = SplitRule.parse(asked.pop("split")), asked.pop("on_missing"), asked.pop("data_dir")
    recipe = dataclasses.replace(PRESETS["seed"], epochs=epochs)
    training = extractor = None
    if images or targets:
        found = find_images(images, data_dir) if images else None
        if not found or (targets is None and found.targets is None):
            raise RequestError("To compare on data of your own, name both: compare IMAGES --targets FILE.")
        targets = str(targets) if targets else None
        training = stages.Training(found, targets, recipe, rule=rule, on_missing=on_missing)
        extractor = _extractor(weights or "imagenet", layer, precision)
    result = stages.compare(seeds, recipe, training, extractor, _computing(quiet, asked), plot)
    _print(result, as_json, terminal.print_comparison)


def _extractor(weights: str, layer: str | None, precision: str | None):
    from pipeline.vgg16 import Extractor, weights_from

    return Extractor(weights_from(weights), layer or "fc2", precision or "float32")


def _computing(quiet: bool, asked: dict):
    """Take the computing options out of what was asked for."""
    from pipeline.features import Computing

    given = {name: asked.pop(name) for name in COMPUTING}
    return Computing(progress=not quiet, **{name: value for name, value in given.items() if value is not None})


def _print(result: dict, as_json: bool, as_text: Callable[[dict], None]) -> None:
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        as_text(result)


def main() -> None:
    """Run a command; what goes wrong becomes one message on stderr and an exit code."""
    try:
        cli(prog_name="python -m pipeline", standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except PipelineError as error:
        from pipeline.terminal import printable

        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as interrupt:
        said = (
            str(interrupt.__cause__ or "")
            or "Interrupted. What was computed is stored; the same command goes on from there."
        )
        print(f"\n{said}", file=sys.stderr)
        sys.exit(1)
