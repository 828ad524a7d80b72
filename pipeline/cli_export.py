"""The command line of `export`."""

import json
from pathlib import Path
from typing import Any

import click

from pipeline import requested
from pipeline.options import (
    data_option,
    extraction_options,
    output_options,
)

MODEL = click.Path(path_type=Path)


@click.command()
@click.argument("model", type=MODEL, metavar="RUN|MODEL")
@click.option(
    "--format",
    type=click.Choice(["savedmodel", "keras", "onnx", "litert"]),
    required=True,
    help="savedmodel: a folder for TensorFlow and TensorFlow Serving; keras: a file for plain Keras; "
    "onnx: an .onnx file for ONNX Runtime; litert: a .tflite file for LiteRT (TensorFlow Lite).",
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
    result = export(wanted, requested.extraction_options(asked))
    if asked["as_json"]:
        print(json.dumps(result.to_json(), indent=2))
    else:
        terminal.print_export(result)
