"""The command line of `models`."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default="models")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
def models(folder: Path, as_json: bool) -> None:
    """List the runs in FOLDER (models, unless you name another) with their held-out scores."""
    from pipeline import terminal
    from pipeline.commands.models import list_runs

    terminal.show_messages(quiet=False)
    result = list_runs(folder)
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
    else:
        terminal.print_runs(result)
