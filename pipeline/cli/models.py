"""`models`: the runs in a folder."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.command import command
from pipeline.cli.terminal import cell, new_table, print_result, print_rich, printable
from pipeline.commands.options import ModelsOptions

if TYPE_CHECKING:
    from pipeline.commands.models import RunList

NAME = 24  # characters of a run's name that fit on one line


@command
def models(options: ModelsOptions, as_json: bool) -> None:
    """List the runs in FOLDER (models, unless you name another) with their held-out scores."""
    from pipeline.commands.models import list_runs

    print_result(list_runs(options.folder), as_json, print_runs)


def print_runs(result: "RunList") -> None:
    """Print the result of `models`: a row for each run."""
    title = f"Runs in {printable(result.folder)}"
    table = new_table(title, "", "images", "trained on", "held out", "cosine", "baseline")
    table.columns[0].no_wrap = all(len(run.name) <= NAME for run in result.runs)
    table.columns[1].overflow = "fold"
    for column in table.columns[2:]:
        column.no_wrap = True
    for run in result.runs:
        baseline = max(run.baselines, key=lambda name: run.baselines[name], default=None)
        table.add_row(
            cell(run.name),
            cell(Path(run.images).name) if run.images else "",
            "" if run.trained_on is None else f"{run.trained_on:,}",
            "" if run.held_out is None else f"{run.held_out:,}",
            f"{max(run.models.values()):.4f}" if run.models else run.status,
            f"{baseline} {run.baselines[baseline]:.4f}" if baseline else "",
        )
    print_rich(table)
    for run in result.runs:
        if run.error:
            print_rich(cell(run.error))
