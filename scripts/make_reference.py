"""Write the reference of all commands, pipeline/cli/README.md, from their options."""

from pathlib import Path

import click

from pipeline.cli import cli
from pipeline.cli.command import section_of

FILE = Path(__file__).resolve().parent.parent / "pipeline" / "cli" / "README.md"
HEAD = """# All commands and options

Written by `scripts/make_reference.py`; `python -m pipeline COMMAND --help` shows the same.

"""
COLUMNS = "| option | default | meaning |\n| --- | --- | --- |\n"


def reference() -> str:
    """The text of the reference: a section for each command, with a table for each group of its options."""
    group = click.Context(cli, info_name="python -m pipeline", max_content_width=100)
    names = list(cli.commands)
    links = "".join(f"- [{name}](#{name}): {cli.commands[name].get_short_help_str(300)}\n" for name in names)
    intro = _paragraphs(cli.help)
    return HEAD + intro + links + "".join(_section(cli.commands[name], name, group, "##") for name in names)


def _section(command: click.Command, name: str, parent: click.Context, level: str) -> str:
    context = click.Context(command, parent=parent, info_name=name)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    text = f"\n{level} {' '.join(context.command_path.split()[3:])}\n\n```\n{usage}\n```\n\n{_paragraphs(command.help)}"
    tables: dict[str, list[str]] = {}
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option) and "--help" not in parameter.opts:
            tables.setdefault(section_of(parameter), []).append(_row(parameter, context))
    for title, rows in tables.items():
        text += f"{title}:\n\n" * (len(tables) > 1) + COLUMNS + "".join(rows) + "\n"
    for subcommand in getattr(command, "commands", {}).values():
        text += _section(subcommand, subcommand.name, context, level + "#")
    return text.rstrip("\n") + "\n"


def _row(option: click.Option, context: click.Context) -> str:
    names, _ = option.get_help_record(context) or ("", "")
    default = getattr(option, "usual", None) or (str(option.default) if option.show_default else "")
    meaning = getattr(option, "meaning", None) or option.help or ""
    cells = f"`{names}`", "required" if option.required else default, " ".join(meaning.split())
    return "| " + " | ".join(cell.replace("|", r"\|").replace("<", "&lt;") for cell in cells) + " |\n"


def _paragraphs(text: str | None) -> str:
    return "".join(" ".join(part.split()) + "\n\n" for part in (text or "").split("\n\n"))


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
