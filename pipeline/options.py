"""The options that commands share, and the types of their values."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

EXISTING_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
SMALLEST_MEMORY = 64 * 2**20
EXTRACTOR = ("layer", "precision", "pool", "project", "resize")  # options that are fields of `Extractor`
EXTRACTION = ("engine", "batch_size", "workers", "max_pixels", "verify", "cache")  # and of `ExtractionOptions`

Decorator = Callable[[Callable], Callable]


class Folder(click.Path):
    """A folder; an empty name, as from an unset shell variable, does not mean the working folder."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def convert(
        self, value: str | os.PathLike[str], parameter: click.Parameter | None, context: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Check that the name is not empty."""
        if not str(value).strip():
            self.fail("the name of the folder is empty.", parameter, context)
        return super().convert(value, parameter, context)


FOLDER = Folder()


class OutputFile(click.Path):
    """An output file; an existing one is replaced only with --overwrite."""

    def convert(
        self, value: str | os.PathLike[str], parameter: click.Parameter | None, context: click.Context | None
    ) -> Path:
        """Check that the file is new, or may be replaced."""
        file = Path(value)
        if file.is_file() and not (context and context.meta.get(OVERWRITE)):
            self.fail(f"{file} exists; name another file, or replace it with --overwrite.", parameter, context)
        return file


OUTPUT = OutputFile(path_type=Path)
OVERWRITE = "pipeline.overwrite"  # key in the meta of a context


def _allow_overwriting(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.meta[OVERWRITE] = value


overwrite_option = click.option(
    "--overwrite",
    is_flag=True,
    is_eager=True,  # before the check of the output file
    expose_value=False,
    callback=_allow_overwriting,
    help="Replace the output file if it exists.",
)


class WholeNumber(click.IntRange):
    """A range of integers, called "whole number" in messages."""

    name = "whole number"


COUNT = WholeNumber(1)


class CacheLocation(Folder):
    """The location of a cache: a folder, or the URL of a bucket."""

    name = "directory or URL"

    def convert(
        self, value: str | os.PathLike[str], parameter: click.Parameter | None, context: click.Context | None
    ) -> Any:
        """Check that it is a folder or the URL of a bucket."""
        from pipeline.core.errors import RequestError
        from pipeline.features.cache import cache_location

        try:
            location = cache_location(str(value))
        except RequestError as error:
            self.fail(str(error), parameter, context)
        if not location.is_bucket:
            super().convert(value, parameter, context)
        return location


CACHE = CacheLocation()


class PresetName(click.Choice):
    """The name of a preset, or `seed`, the name of `original` in earlier versions."""

    def convert(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> str:
        """Translate the name of earlier versions."""
        return super().convert("original" if value == "seed" else value, parameter, context)


def options(*decorators: Decorator) -> Decorator:
    """Combine several option decorators into one."""

    def decorate(function: Callable) -> Callable:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


extractor_options = options(
    click.option(
        "--weights",
        metavar="imagenet|random[:SEED]|FILE",
        help="Weights of VGG16.  [$IMAGE_VECTORS_WEIGHTS, else imagenet]",
    ),
    click.option(
        "--layer",
        metavar="NAME[:pre],...",
        help="The layer whose activation is the feature, by its Keras name; :pre is before the ReLU. Several in one "
        "pass, separated by commas.  [fc2]",
    ),
    click.option(
        "--pool",
        metavar="mean|max|grid:N|flat",
        help="What is left of a convolutional layer's positions: their mean or maximum, N x N means, or all.  [mean]",
    ),
    click.option(
        "--project", metavar="DIM[:SEED]", help="Project each layer to DIM numbers, by a sparse random projection."
    ),
    click.option(
        "--resize",
        type=click.Choice(["squash", "crop", "keras"]),
        help="Squash the whole image, crop its centre, or squash by the nearest pixel as Keras's load_img.  [squash]",
    ),
    click.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16", "float16", "int8"]),
        help="Precision of VGG16's arithmetic; int8 runs on ONNX Runtime (extra int8).  [float32]",
    ),
)
extraction_options = options(
    click.option(
        "--engine",
        type=click.Choice(["auto", "keras", "mnn"]),
        default="auto",
        show_default=True,
        help="What runs VGG16: mnn is fast on CPUs, keras runs on GPUs; auto chooses.",
    ),
    click.option("--batch-size", type=COUNT, metavar="N", help="Images in a batch of VGG16.  [the engine's choice]"),
    click.option("--workers", type=COUNT, metavar="N", help="Processes that read images.  [one per core]"),
    click.option("--max-pixels", type=COUNT, metavar="N", help="Skip images with more than N pixels.  [178956970]"),
    click.option(
        "--cache",
        type=CACHE,
        metavar="DIR|URL",
        help="Folder of the feature stores, or its URL in a bucket: s3://, gs:// or az://.  [the user's cache folder]",
    ),
)
ray_options = options(
    click.option(
        "--ray",
        metavar="auto|local",
        help="Compute on Ray: on the cluster that this machine belongs to, or on one that is started here (extra ray).",
    ),
    click.option("--actors", type=COUNT, metavar="N", help="Actors that compute on Ray.  [one per node, or per GPU]"),
    click.option("--gpus-each", type=click.FloatRange(0), metavar="X", help="GPUs of an actor on Ray.  [0]"),
)
output_options = options(
    click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document."),
    click.option("--quiet", is_flag=True, help="Show warnings and errors only."),
)
seed_option = click.option(
    "--seed", type=WholeNumber(0, 2**31 - 1), default=0, show_default=True, metavar="N", help="Random seed."
)
targets_option = options(
    click.option(
        "--targets", type=EXISTING_FILE, help="Target embeddings: a table, an array, or a file of word vectors."
    ),
    click.option(
        "--target-columns",
        metavar="NAMES",
        help="Columns of the table that are the embedding, such as x,y or 'd*'; the table of --noise-ceiling has the "
        "same.  [its lists, else all numbers]",
    ),
)
missing_option = click.option(
    "--on-missing",
    type=click.Choice(["error", "skip"]),
    default="error",
    show_default=True,
    help="What to do with images that have no target.",
)
split_option = click.option(
    "--split",
    default="random",
    show_default=True,
    metavar="RULE",
    help="Which images to hold out: random, group or classes, with :SHARE (0.2 by default); or column.",
)
cluster_option = click.option(
    "--cluster",
    type=click.Choice(["group", "label", "image"]),
    help="What intervals generalize over.  [groups, else labels with a common target, else images]",
)
noise_option = click.option(
    "--noise-ceiling",
    type=EXISTING_FILE,
    help="A table with repeated targets, from which the noise ceiling is estimated.",
)
data_option = options(
    click.option("--data-dir", type=FOLDER, help="Folder of TensorFlow data sets.  [tensorflow-datasets' own]"),
    click.option("--root", type=FOLDER, help="Folder that the relative paths of a list start from.  [the list's own]"),
)
label_option = click.option(
    "--label-pattern",
    metavar="REGEX",
    help="Take labels from paths: a regular expression with a group named label, such as 'n\\d+_(?P<label>.+)'; "
    "a label at the end leaves off the file's suffix.",
)


def memory_size(context: click.Context, parameter: click.Parameter, text: str | int | None) -> int | None:
    """Parse an amount of memory such as 512MB or 4GB; returns bytes."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", str(text).strip(), re.IGNORECASE)
    size = int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " ")) if match else 0
    if size < SMALLEST_MEMORY:
        raise click.BadParameter(f"{text!r} is not a size of at least 64MB, such as 512MB or 4GB.")
    return size


def _sizes(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(size) for size in text.split(",") if size.strip())
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of whole numbers such as 256,256.") from error


training_options = options(
    click.option(
        "--preset",
        type=PresetName(["default", "network", "original"]),
        default="default",
        show_default=True,
        help="The decoder: a blend that chooses its own strength, a single network, or that of the original question.",
    ),
    click.option("--hidden", callback=_sizes, metavar="SIZES", help="Units of the hidden layers, such as 256,256."),
    click.option("--activation", metavar="NAME", help="Keras activation of the hidden layers."),
    click.option("--output-activation", metavar="NAME", help="Keras activation of the output.  [linear]"),
    click.option("--optimizer", metavar="NAME", help="Keras optimizer, such as adam or sgd."),
    click.option("--learning-rate", type=float, metavar="X", help="Learning rate."),
    click.option("--schedule", type=click.Choice(["constant", "cosine"]), help="Learning-rate schedule."),
    click.option("--loss", metavar="NAME", help="Keras loss, such as mse, cosine or huber."),
    click.option("--weight-decay", type=float, metavar="X", help="Weight decay of the optimizer."),
    click.option("--epochs", type=COUNT, metavar="N", help="Passes over the training images."),
    click.option("--minibatch", type=COUNT, metavar="N", help="Images in a training step.  [32]"),
    click.option(
        "--keep",
        type=click.Choice(["last", "best"]),
        help="The epoch to keep: the last, or the one with the highest validation cosine.",
    ),
    click.option(
        "--patience",
        type=COUNT,
        metavar="N",
        help="Stop after N epochs without a higher validation cosine, and keep the best epoch.",
    ),
)
