"""Commands from functions: the fields of their `Options` become options of the command line."""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import click

from pipeline.cli.terminal import show_messages
from pipeline.core.errors import RequestError
from pipeline.core.options import Options, Setting, settings

OVERWRITE = "pipeline.overwrite"  # key in a context's meta


class Folder(click.Path):
    """A folder; an empty name, such as from an unset shell variable, is an error and not the working folder.

    Args:
        parse: Converts the name, which may also be a URL.
    """

    def __init__(self, parse: Callable[[str], Any] | None = None) -> None:
        super().__init__(file_okay=False, path_type=Path)
        self.parse = parse or Path

    def convert(
        self, value: str | os.PathLike[str], parameter: click.Parameter | None, context: click.Context | None
    ) -> Any:
        """Check that the name is not empty and is not the name of a file."""
        if not str(value).strip():
            self.fail("the name of the folder is empty.", parameter, context)
        try:
            location = self.parse(str(value))
        except RequestError as error:
            self.fail(str(error), parameter, context)
        return location if "://" in str(value) else super().convert(value, parameter, context)


class TableFile(click.Path):
    """An existing file or Lance table, or FILE:NAME for a variable or column of it."""

    def __init__(self) -> None:
        super().__init__(exists=True, path_type=Path)

    def convert(
        self, value: str | os.PathLike[str], parameter: click.Parameter | None, context: click.Context | None
    ) -> Path:
        """Check that the file exists."""
        from pipeline.data.tables import split_name

        file = split_name(Path(value))[0]
        super().convert(file, parameter, context)
        if file.is_dir() and file.suffix != ".lance":
            self.fail(f"{file} is a folder.", parameter, context)
        return Path(value)


class OutputFile(click.Path):
    """An output file; an existing one is replaced only with --overwrite."""

    def convert(
        self, value: str | os.PathLike[str], parameter: click.Parameter | None, context: click.Context | None
    ) -> Path:
        """Check that the file is new, or may be replaced."""
        file = Path(value)
        if file.is_file() and not (context and context.meta.get(OVERWRITE)):
            self.fail(f"{file} exists; name another file, or replace it with --overwrite.", parameter, context)
        return file


class WholeNumber(click.IntRange):
    """A range of integers, called "whole number" in messages."""

    name = "whole number"


class Parsed(click.ParamType):
    """Text, converted by a function."""

    name = "text"

    def __init__(self, parse: Callable[[str], Any]) -> None:
        self.parse = parse

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """Convert text; other values are already converted."""
        try:
            return self.parse(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), parameter, context)


class Command(click.Command):
    """A command with a help section for each group of options."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, in the order of their first options."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(context):
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context)):
                sections.setdefault(section_of(parameter), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def section_of(option: click.Option) -> str:
    """The help section of an option."""
    return getattr(option, "section", "Options")


class SectionOption(click.Option):
    """An option in a help section.

    Args:
        section: The title of the section.
        usual: What None stands for, if that is not obvious.
    """

    def __init__(self, names: Sequence[str], section: str, help: str, usual: str | None, **settings: Any) -> None:
        super().__init__(names, help=help + (f"  [{usual}]" if usual else ""), **settings)
        self.section, self.meaning, self.usual = section, help, usual


def command(function: Callable[..., None]) -> click.Command:
    """Turn a function into a command of the same name.

    The fields of its parameter `options`, an `Options`, become options or arguments. Its parameter `as_json` says
    whether to print the result as JSON. Other parameters are options added by click's decorators.
    """
    return _with_options(function, Command)


def command_group(function: Callable[..., None]) -> click.Group:
    """Turn a function into a command with subcommands, which also runs without a subcommand; see `command`."""
    return _with_options(function, click.Group, invoke_without_command=True)


def _with_options(function: Callable[..., None], cls: type[click.Command], **attributes: Any) -> Any:
    name, options = function.__name__, function.__annotations__["options"]
    own = settings(options, name)

    @functools.wraps(function)
    def run(*arguments: Any, **values: Any) -> None:
        if values.get("quiet"):
            show_messages(quiet=True)
        chosen = {setting.name: values.pop(setting.name) for setting in own}
        function(*arguments, options=options.from_values(chosen), **values)

    decorators = [_parameter(setting, options) for setting in own] + [_json]
    if any(setting.option.path == "output" for setting in own):
        decorators.append(_overwrite)
    decorated: Callable[..., None] = run
    for decorator in reversed(decorators):
        decorated = decorator(decorated)
    return click.command(name, cls=cls, **attributes)(decorated)


_json = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")


def _allow_overwriting(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.meta[OVERWRITE] = value


_overwrite = click.option(
    "--overwrite",
    is_flag=True,
    is_eager=True,  # before the check of the output file
    expose_value=False,
    callback=_allow_overwriting,
    help="Replace the output file if it exists.",
)


def _parameter(setting: Setting, options: type[Options]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The click decorator for an option or an argument of a command with these options."""
    option, required = setting.option, setting.default is MISSING
    common: dict[str, Any] = {
        "type": _type(setting),
        "metavar": option.metavar,
        "required": required,
    }
    if not required and setting.default is not None:  # click takes a default of None for a value
        common["default"] = setting.default
    if option.argument:
        return click.argument(setting.name, nargs=-1 if setting.type == tuple[str, ...] else 1, **common)
    common |= {
        "cls": SectionOption,
        "section": "Options" if setting.owner is options else setting.owner.title(),
        "help": option.help,
        "usual": option.usual,
    }
    if setting.is_flag:
        common |= {"is_flag": True, "default": False, "type": None}
    elif setting.default is not None and not option.usual:
        common["show_default"] = not required
    flag = option.flag or f"--{setting.name.replace('_', '-')}"
    return click.option(flag, setting.name, **common)


def _type(setting: Setting) -> click.ParamType:
    """The click type that converts and checks a value."""
    option = setting.option
    if setting.choices:
        return click.Choice(setting.choices)
    if option.path == "folder":
        return Folder(option.parse)
    if option.parse:
        return Parsed(option.parse)
    if setting.type is Path:
        types = {
            "file": click.Path(path_type=Path, dir_okay=False, exists=True),
            "output": OutputFile(path_type=Path),
            "table": TableFile(),
        }
        return types.get(option.path, click.Path(path_type=Path))
    bounds: Any = option.least, option.most
    if setting.type is int:
        return WholeNumber(*bounds)
    if setting.type is float:
        return click.FLOAT if option.least is None else click.FloatRange(*bounds)
    return click.STRING
