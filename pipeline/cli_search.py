"""The command line of `search`."""

from pathlib import Path
from typing import Any

import click

from pipeline import requested
from pipeline.options import (
    COUNT,
    EXISTING_FILE,
    OUTPUT,
    data_option,
    extraction_options,
    extractor_options,
    output_options,
    overwrite_option,
)


@click.command()
@click.argument("images")
@click.option("--query", required=True, metavar="IMAGE|WORD|FILE.npy", help="What to look for.")
@click.option("-k", type=COUNT, default=10, show_default=True, metavar="K", help="How many images to find.")
@click.option(
    "--space",
    type=click.Choice(["features", "embeddings"]),
    help="Whose cosines count.  [embeddings with --model, else features]",
)
@click.option(
    "--model", type=click.Path(path_type=Path), metavar="RUN|MODEL", help="The decoder that predicts the embeddings."
)
@click.option(
    "--vocabulary", type=EXISTING_FILE, help="Word vectors that have the word.  [the labels of the run's targets]"
)
@click.option(
    "--index",
    is_flag=True,
    help="Above a million images, search features by an index, which is built once and may miss some.",
)
@click.option("--report", type=OUTPUT, metavar="FILE.html", help="Also write a page of thumbnails.")
@overwrite_option
@data_option
@extractor_options
@extraction_options
@output_options
def search(images: str, data_dir: Path | None, **options: Any) -> None:
    """Find the images of IMAGES that are nearest to an image, a word or a vector."""
    from pipeline import terminal
    from pipeline.commands.search import SearchOptions, search
    from pipeline.data.sources import find_images

    terminal.show_messages(options["quiet"])
    settings = {name: options[name] for name in ("query", "k", "space", "model", "vocabulary", "report", "index")}
    search_options = SearchOptions(
        find_images(images, data_dir, root=options["root"]),
        extractor=requested.extractor_options(options),
        data_dir=data_dir,
        **settings,
    )
    result = search(search_options, requested.extraction_options(options))
    terminal.print_result(result, options["as_json"], terminal.print_search)
