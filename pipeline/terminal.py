"""What a person sees: messages on stderr, tables on stdout."""

import logging
import sys

import rich.box
from rich.console import Console
from rich.table import Table

WIDTH = 80


def printable(text: str) -> str:
    """Text without what a terminal would obey: control characters and lone surrogates appear escaped."""
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
        for character in text
    )


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = printable(record.getMessage())
        return f"{record.levelname.lower()}: {message}" if record.levelno >= logging.WARNING else message


def show_messages(quiet: bool) -> None:
    """Send the messages of `pipeline` to stderr.

    Args:
        quiet: Whether to show warnings and errors only.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logger = logging.getLogger("pipeline")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    # It warns of every decoder after the fourth that is compiled anew, as each must be.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def _print(table: Table | str) -> None:
    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(*columns[:1], box=rich.box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def print_extraction(result: dict) -> None:
    """Print the `extract` document."""
    print(
        f"{result['images']} images: {result['computed']} computed, {result['cached']} cached, "
        f"{len(result['failed'])} failed; {result['dim']}-d, {result['seconds']:.1f} s"
    )
    print(printable(f"store: {result['store']}"))


def print_training(result: dict) -> None:
    """Print the `train` document: the held-out cosine of each model beside the baselines and the ceiling."""
    table = _table(
        f"Cosine to the target, {result['train']} images to learn from, {result['validation']} held out",
        "", "held out", "training", "epochs", "seconds",
    )  # fmt: skip
    for name, model in result["models"].items():
        table.add_row(name, f"{model['validation_cosine']:.4f}", f"{model['train_cosine']:.4f}",
                      str(model["epochs"]), f"{model['seconds']:.1f}")  # fmt: skip
    table.add_section()
    for name, baseline in result["baselines"].items():
        table.add_row(f"{name} baseline", f"{baseline['validation_cosine']:.4f}")
    table.add_row("ceiling", f"{result['ceiling']:.4f}")
    _print(table)
    print(printable(f"run: {result['run']}\nreport: {result['report']}"))


def print_evaluation(result: dict) -> None:
    """Print the `evaluate` document: a table, what it means, and where the report is."""
    table = _table(
        f"Cosine to the target, {result['images']} images; its rank among {result['candidates']}",
        "", "mean", "95 % interval", "centred", "progress", "top-1", "top-5",
    )  # fmt: skip
    for rows in (result["models"], result["baselines"]):
        for name, row in rows.items():
            cosine, retrieval = row["cosine"], row["retrieval"]
            interval = "{:.3f} to {:.3f}".format(*cosine["ci95"]) if cosine["ci95"] else "-"
            progress = "-" if row["progress"] is None else f"{row['progress']:.0%}"
            table.add_row(rich.markup.escape(printable(name)), f"{cosine['mean']:.4f}", interval,
                          f"{row['centred_cosine']['mean']:.3f}", progress, f"{retrieval['top1']:.0%}",
                          f"{retrieval['top5']:.0%}")  # fmt: skip
        table.add_section()
    table.add_row("ceiling", f"{result['ceiling']:.4f}")
    _print(table)
    for sentence in result["conclusions"]:
        _print(rich.markup.escape(printable(sentence)))
    if result["report"]:
        print(printable(f"\nreport: {result['report']}"))


def print_comparison(result: dict) -> None:
    """Print the `compare` document: a row for each scenario and seed, then what they mean."""
    held_out = "functional_held_out" in result["scenarios"][0]["runs"][0]
    columns = ["functional", "sequential", *(["held out", "held out"] if held_out else [])]
    table = _table(f"Cosine to the target, ceiling {result['ceiling']:.4f}", "", "seed", *columns)
    keys = ["functional", "sequential", *(["functional_held_out", "sequential_held_out"] if held_out else [])]
    for scenario in result["scenarios"]:
        for run in scenario["runs"]:
            name = scenario["name"] if run is scenario["runs"][0] else ""
            table.add_row(name, str(run["seed"]), *(f"{run[key]:.4f}" for key in keys))
        table.add_section()
    _print(table)
    for scenario in result["scenarios"]:
        _print(f"[bold]{scenario['name']}[/bold]: {scenario['verdict']}\n")
