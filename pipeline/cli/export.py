"""`export`: models and tables for other programs."""

from typing import TYPE_CHECKING

from pipeline.cli.command import command
from pipeline.cli.terminal import print_paths, print_result, printable
from pipeline.commands.options import TABLES, ExportOptions
from pipeline.core.wording import counted

if TYPE_CHECKING:
    from pipeline.commands.export import ExportResult
    from pipeline.commands.export_tables import TableResult


@command
def export(options: ExportOptions, as_json: bool) -> None:
    """Export a decoder as one model from pixels to embeddings, or images and vectors as a table.

    The model is preprocessing, the network and the decoder of a run; --format lance takes IMAGES in place of a run.
    """
    if options.format in TABLES:
        from pipeline.commands.export_tables import export_table

        print_result(export_table(options), as_json, print_exported_table)
        return
    from pipeline.commands.export import export

    print_result(export(options), as_json, print_export)


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
    print_paths(**{"model": result.model, result.format: result.out})


def print_exported_table(result: "TableResult") -> None:
    """Print the result of `export` to a table: its rows and its path."""
    columns = ", ".join(f"{name} ({dim:,} numbers)" for name, dim in result.columns.items())
    print(f"{counted(result.rows, 'row')}, with {printable(columns)}")
    print(f"{result.computed} computed, {result.cached} cached, {len(result.failed)} failed")
    print_paths(**{"from": result.source, result.format: result.out})
