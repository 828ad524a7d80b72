"""Options: fields of frozen dataclasses, each declared once with its default, its help and its check.

    @dataclass(frozen=True)
    class FoldOptions(Options):
        \"\"\"Cross-validation\"\"\"

        folds: int | None = option(None, metavar="N", least=2, help="Hold out every image once.")

A command takes one instance. `pipeline.cli.command` turns its fields into command-line options, `kept_values` prepares
them for `run.json`, and scripts/make_reference.py documents them. A field that is itself an `Options` is a group, with
the first line of its docstring as title. Modules with options import no heavy library, so that `--help` is fast.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin

from pipeline.core.errors import RequestError

OPTION, GROUP = "option", "group"  # keys in the metadata of a field


@dataclass(frozen=True)
class Option:
    """What a field declares besides its name, type and default.

    Attributes:
        help: What it is for.
        metavar: A placeholder for its value.
        flag: Its name on the command line, if it differs from the field's; for a field that is on by default, the flag
            that turns it off.
        usual: What None means, for the help.
        least: The smallest value.
        most: The largest value.
        path: The kind of a path: an existing "file", a "table" (an existing file, or FILE:NAME), an "output" file, a
            "folder", or "any".
        parse: Converts text; raises ValueError.
        argument: Whether it is positional on the command line.
        kept: Whether `run.json` records it: not if it does not change the result, or says where files are.
        commands: The commands that have it, among those with its dataclass; empty for all of them.
    """

    help: str = ""
    metavar: str | None = None
    flag: str | None = None
    usual: str | None = None
    least: float | None = None
    most: float | None = None
    path: Literal["file", "table", "output", "folder", "any"] = "any"
    parse: Callable[[str], Any] | None = None
    argument: bool = False
    kept: bool = True
    commands: Sequence[str] = ()


def option(default: Any = MISSING, **settings: Any) -> Any:
    """Declare a field of an `Options`.

    Args:
        default: Its default; a field without one is required.
        **settings: Fields of `Option`.
    """
    return field(default=default, metadata={OPTION: Option(**settings)})


def group(options: "type[Options]", optional: bool = False, commands: Sequence[str] = ()) -> Any:
    """Declare a group of options as a field of an `Options`.

    Args:
        options: The dataclass of the group.
        optional: Whether the field is None unless one of the options is set.
        commands: The commands that have the group; empty for all of them.
    """
    metadata = {GROUP: commands}
    return field(default=None, metadata=metadata) if optional else field(default_factory=options, metadata=metadata)


@dataclass(frozen=True)
class Setting:
    """An option field: its dataclass and name, its type without None, its default, and its declaration."""

    owner: "type[Options]"
    field: str
    type: Any
    default: Any
    option: Option

    @property
    def name(self) -> str:
        """Its name in `run.json`, and on the command line with dashes."""
        return (self.option.flag or self.field).lstrip("-").replace("-", "_")

    @property
    def choices(self) -> tuple[str, ...]:
        """The values it can have if its type is a Literal; otherwise empty."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def is_flag(self) -> bool:
        """Whether it is a flag, either on or off."""
        return self.type is bool

    @property
    def is_switch_off(self) -> bool:
        """Whether its flag turns it off."""
        return self.default is True

    def is_named(self, value: Any) -> bool:
        """Whether a value was set, rather than left at its default."""
        return bool(value) if self.is_flag else value not in (None, self.default)

    def parse(self, text: str) -> Any:
        """Convert text to a value.

        Raises:
            RequestError: The text is not a valid value.
        """
        try:
            if self.option.parse:
                return self.option.parse(text)
            return Path(text) if self.type is Path else text
        except RequestError:
            raise
        except ValueError as error:
            raise RequestError(f"{self.field}: {error}") from error

    def check(self, value: Any) -> None:
        """Check a value that is not None.

        Raises:
            RequestError: It is not among the choices, or out of range.
        """
        if self.choices and value not in self.choices:
            raise RequestError(f"{self.field} {value!r} is unknown; choose from {', '.join(self.choices)}.")
        if self.option.least is not None and not value >= self.option.least:
            raise RequestError(f"{self.field} must be at least {self.option.least}, not {value}.")
        if self.option.most is not None and not value <= self.option.most:
            raise RequestError(f"{self.field} must be at most {self.option.most}, not {value}.")


class Options:
    """Options, checked when they are created."""

    def __post_init__(self) -> None:
        for setting in own_settings(type(self)):
            value = getattr(self, setting.field)
            if isinstance(value, str) and (setting.option.parse or setting.type is Path):
                value = setting.parse(value)
                object.__setattr__(self, setting.field, value)
            if value is not None:
                setting.check(value)

    @classmethod
    def title(cls) -> str:
        """The title of these options: the first line of the docstring, without its full stop."""
        return (cls.__doc__ or "").partition("\n")[0].rstrip(".")

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Create options.

        Args:
            values: The values of the options and of their groups, by name; missing ones get their defaults.

        Raises:
            RequestError: A value is wrong, or values do not go together.
        """
        own = [setting for setting in own_settings(cls) if setting.name in values]
        fields = {setting.field: values[setting.name] != setting.is_switch_off for setting in own if setting.is_flag}
        fields |= {setting.field: values[setting.name] for setting in own if not setting.is_flag}
        for group in groups(cls):
            if not group.optional or any(
                setting.is_named(values.get(setting.name)) for setting in own_settings(group.type)
            ):
                fields[group.field] = group.type.from_values(values)
        return cls(**fields)


@dataclass(frozen=True)
class Group:
    """A field that is a group of options, or None if it is optional."""

    field: str
    type: type[Options]
    optional: bool
    commands: Sequence[str]


def own_settings(options: type[Options]) -> list[Setting]:
    """The options of a dataclass without those of its groups."""
    return [
        Setting(options, item.name, _without_none(item.type), item.default, item.metadata[OPTION])
        for item in fields(options)  # type: ignore[arg-type]
        if OPTION in item.metadata
    ]


def groups(options: type[Options]) -> list[Group]:
    """The groups of options of a dataclass."""
    return [
        Group(item.name, _without_none(item.type), item.default is None, item.metadata[GROUP])
        for item in fields(options)  # type: ignore[arg-type]
        if GROUP in item.metadata
    ]


def settings(options: type[Options], command: str) -> list[Setting]:
    """The options that a command has: those of a dataclass, then those of its groups.

    Args:
        options: The dataclass.
        command: The name of the command.
    """
    own = [setting for setting in own_settings(options) if command in (setting.option.commands or [command])]
    parts = [group.type for group in groups(options) if command in (group.commands or [command])]
    return own + [setting for part in parts for setting in settings(part, command)]


def kept_values(options: Options) -> dict[str, Any]:
    """The options that `run.json` records, as JSON values: those that are not None, with absolute paths."""
    values = {
        setting.name: _plain(getattr(options, setting.field))
        for setting in own_settings(type(options))
        if setting.option.kept and getattr(options, setting.field) is not None
    }
    for group in groups(type(options)):
        if part := getattr(options, group.field):
            values |= kept_values(part)
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def _without_none(kind: Any) -> Any:
    """The type T of `T | None`; other types unchanged."""
    parts = [part for part in get_args(kind) if part is not NoneType]
    return parts[0] if get_origin(kind) in (UnionType, Union) and len(parts) == 1 else kind
