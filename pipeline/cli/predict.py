"""`predict`: embeddings of images."""

from typing import TYPE_CHECKING

from pipeline.cli.command import command
from pipeline.cli.terminal import cell, new_table, print_paths, print_result, print_rich, printable
from pipeline.commands.options import PredictOptions

if TYPE_CHECKING:
    from pipeline.commands.predict import PredictResult


@command
def predict(options: PredictOptions, as_json: bool) -> None:
    """Predict the embeddings of IMAGES with a saved decoder."""
    from pipeline.commands.predict import predict

    print_result(predict(options), as_json, print_prediction)


def print_prediction(result: "PredictResult") -> None:
    """Print the result of `predict`: the nearest names of the first images, and the path of the embeddings."""
    if result.nearest:
        table = new_table(f"Nearest of {result.candidates} names, and their cosines", "image", "nearest")
        for neighbours in result.nearest:
            names = zip(neighbours.names, neighbours.cosines, strict=True)
            names_and_cosines = ", ".join(f"{printable(name)} {cosine:.3f}" for name, cosine in names)
            table.add_row(cell(neighbours.path), cell(names_and_cosines))
        print_rich(table)
    embedded = result.images - len(result.failed)
    if more := max(0, embedded - len(result.nearest)) if result.nearest else 0:
        print(f"{more} more image{'s' * (more != 1)}: see the file\n")
    print(
        f"{result.images} image{'s' * (result.images != 1)}: {result.computed} computed, {result.cached} cached, "
        f"{len(result.failed)} failed; embeddings of dimension {result.dim}"
    )
    print_paths(model=result.model, embeddings=result.out)
