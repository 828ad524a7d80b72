"""The command line of `export`."""

from pathlib import Path
from typing import Any

import click

from pipeline import requested
from pipeline.core.errors import RequestError
from pipeline.options import (
    EXTRACTOR,
    OUTPUT,
    data_option,
    extraction_options,
    extractor_options,
    output_options,
    overwrite_option,
)

TABLES = ("parquet", "lance")


@click.command()
@click.argument("source", metavar="RUN|MODEL|IMAGES")
@click.option(
    "--format",
    type=click.Choice(["savedmodel", "keras", "onnx", "litert", *TABLES]),
    required=True,
    help="savedmodel: a folder for TensorFlow and TensorFlow Serving; keras: a file for plain Keras; "
    "onnx: an .onnx file for ONNX Runtime; litert: a .tflite file for LiteRT (TensorFlow Lite); "
    "parquet: a table of the run's images, vectors and predictions; lance: a table of IMAGES and their vectors, for "
    "LanceDB.",
)
@click.option("--out", type=OUTPUT, required=True, metavar="PATH", help="Where to write it.")
@overwrite_option
@click.option(
    "--api",
    type=click.Choice(["functional", "sequential", "ridge"]),
    help="Which decoder of the run: an API style, or its ridge regression.  [functional, else sequential]",
)
@click.option("--images", metavar="IMAGES", help="Images to check the exported model on.  [those of the run]")
@data_option
@extractor_options
@extraction_options
@output_options
def export(source: str, images: str | None, data_dir: Path | None, **options: Any) -> None:
    """Export a decoder as one model from pixels to embeddings, or images and vectors as a table.

    The model is preprocessing, VGG16 and the decoder of a run; --format lance takes IMAGES in place of a run.
    """
    from pipeline import terminal
    from pipeline.commands.export import ExportOptions, export
    from pipeline.data.sources import find_images

    terminal.show_messages(options["quiet"])
    if options["format"] != "lance":
        _refuse(options, ("weights", *EXTRACTOR), "the features are those that the decoder was trained on")
    if options["format"] in TABLES:
        _export_table(source, images, data_dir, options)
        return
    checked_images = find_images(images, data_dir, root=options["root"]) if images else None
    export_options = ExportOptions(
        Path(source), options["format"], options["out"], options["api"], checked_images, data_dir
    )
    result = export(export_options, requested.extraction_options(options))
    terminal.print_result(result, options["as_json"], terminal.print_export)


def _export_table(source: str, images: str | None, data_dir: Path | None, options: dict[str, Any]) -> None:
    from pipeline import terminal
    from pipeline.commands.export_tables import export_images, export_run
    from pipeline.data.sources import find_images

    extraction = requested.extraction_options(options)
    if options["format"] == "parquet":
        _refuse({**options, "images": images}, ("images", "root"), "the images are the run's")
        result = export_run(Path(source), options["out"], options["api"], extraction, data_dir)
    else:
        if requested.is_model(source):
            raise RequestError(
                f"{source} is a run; --format lance takes IMAGES. The table of a run is --format parquet."
            )
        _refuse({**options, "images": images}, ("api", "images"), "it takes IMAGES in place of a run")
        image_set = find_images(source, data_dir, root=options["root"])
        result = export_images(image_set, requested.extractors(options), options["out"], extraction)
    terminal.print_result(result, options["as_json"], terminal.print_table)


def _refuse(options: dict[str, Any], names: tuple[str, ...], why: str) -> None:
    """Refuse options that a format has no use for."""
    flags = [f"--{name}".replace("_", "-") for name in names if options[name] is not None]
    if flags:
        raise RequestError(f"--format {options['format']} does not take {', '.join(flags)}: {why}.")
