"""`compare`: the study of why two identical models differ."""

from typing import TYPE_CHECKING

from pipeline.cli.command import command
from pipeline.cli.terminal import new_table, print_result, print_rich
from pipeline.commands.options import CompareOptions

if TYPE_CHECKING:
    from pipeline.commands.compare import CompareResult


@command
def compare(options: CompareOptions, as_json: bool) -> None:
    """Show why two identical Keras models can differ, by running the original question and its answers.

    Without IMAGES, on the data of the original question; otherwise on IMAGES and --targets FILE.
    """
    from pipeline.commands.compare import compare

    print_result(compare(options), as_json, print_comparison)


def print_comparison(result: "CompareResult") -> None:
    """Print the result of `compare`: a row for each scenario and seed, then the verdicts."""
    columns = {"functional": "functional", "sequential": "sequential"}
    if "functional_held_out" in result.scenarios[0].runs[0]:
        columns |= {"functional_held_out": "held out", "sequential_held_out": "held out"}
    table = new_table(f"Cosine to the target, output ceiling {result.ceiling:.4f}", "", "seed", *columns.values())
    for scenario in result.scenarios:
        for number, run in enumerate(scenario.runs):
            name = "" if number else scenario.name
            table.add_row(name, str(run["seed"]), *(f"{run[key]:.4f}" for key in columns))
        table.add_section()
    print_rich(table)
    for scenario in result.scenarios:
        print_rich(f"[bold]{scenario.name}[/bold]: {scenario.verdict}\n")
