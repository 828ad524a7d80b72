"""The command line of `search` and `export`: what a saved decoder is used for."""

import json
from pathlib import Path
from typing import Any

import click

from pipeline import requested
from pipeline.options import (
    COUNT,
    EXISTING_FILE,
    EXTRACTOR,
    data_option,
    extraction_options,
    extractor_options,
    output_options,
)

MODEL = click.Path(path_type=Path)


@click.command()
@click.argument("images")
@click.option("--query", required=True, metavar="IMAGE|WORD|FILE.npy", help="What to look for.")
@click.option("--count", "-k", type=COUNT, default=10, show_default=True, metavar="K", help="How many images to find.")
@click.option(
    "--space",
    type=click.Choice(["features", "embeddings"]),
    help="Compare VGG16 features, or what the model predicts.  [embeddings where there is a model]",
)
@click.option("--model", type=MODEL, metavar="RUN|MODEL", help="The decoder that predicts the embeddings.")
@click.option(
    "--vocabulary", type=EXISTING_FILE, help="Word vectors that have the word.  [the labels of the run's targets]"
)
@data_option
@extractor_options
@extraction_options
@output_options
def search(images: str, data_dir: Path | None, **asked: Any) -> None:
    """Find the images of IMAGES that are nearest to an image, a word or a vector, by cosine."""
    from pipeline import terminal
    from pipeline.commands.search import SearchOptions, search
    from pipeline.data.sources import find_images

    terminal.show_messages(asked["quiet"])
    names = ("query", "count", "space", "model", "vocabulary")
    wanted = SearchOptions(find_images(images, data_dir), **{name: asked[name] for name in names})
    own = asked["model"] and not any(asked[name] for name in ("weights", *EXTRACTOR))
    extractor = None if own else requested.extractor(asked)
    _print(search(wanted, extractor, requested.extraction_options(asked)), asked["as_json"], terminal.print_search)


@click.command()
@click.argument("model", type=MODEL, metavar="RUN|MODEL")
@click.option(
    "--format",
    type=click.Choice(["savedmodel", "keras"]),
    required=True,
    help="savedmodel: a folder for TensorFlow and TensorFlow Serving; keras: a file for plain Keras.",
)
@click.option("--out", type=MODEL, required=True, metavar="PATH", help="Where to write it.")
@click.option(
    "--api",
    type=click.Choice(["functional", "sequential", "ridge"]),
    help="Which decoder of the run: an API style, or its ridge regression.  [functional, else sequential]",
)
@click.option("--images", metavar="IMAGES", help="Images to check the exported model on.  [those of the run]")
@data_option
@extraction_options
@output_options
def export(model: Path, images: str | None, data_dir: Path | None, **asked: Any) -> None:
    """Export a decoder as one model from pixels to embeddings: preprocessing, VGG16 and decoder."""
    from pipeline import terminal
    from pipeline.commands.export import ExportOptions, export
    from pipeline.data.sources import find_images

    terminal.show_messages(asked["quiet"])
    found = find_images(images, data_dir) if images else None
    wanted = ExportOptions(model, asked["format"], asked["out"], asked["api"], found)
    _print(export(wanted, requested.extraction_options(asked)), asked["as_json"], terminal.print_export)


def _print(result: Any, as_json: bool, as_text: Any) -> None:
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
    else:
        as_text(result)
