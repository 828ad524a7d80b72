"""Typed values from untrusted JSON files."""

import dataclasses
import json
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LARGEST = 2**53  # larger integers are not exact in JSON


def parse_json(text: str | bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: The text is not JSON, or not an object.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    return value


def typed(kind: Any, value: object, name: str = "it") -> Any:
    """Convert a JSON value to a type.

    Args:
        kind: A dataclass, a basic type, Literal, a union, or Mapping, Sequence or tuple of these; Any accepts
            everything.
        value: The JSON value.
        name: The name of the value, for messages, such as "split.train".

    Returns:
        The value, with objects and lists converted to dataclasses and tuples if the type has them.

    Raises:
        ValueError: The value has another type, is an integer beyond 2**53 or a string with a NUL character, or an
            object lacks a field or has an unknown one.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, name)
    if dataclasses.is_dataclass(kind):
        return _object(kind, value, name)
    if origin is Mapping and isinstance(value, dict):
        return {key: typed(arguments[1], item, f"{name}.{key:.40}") for key, item in value.items()}
    if origin is tuple and isinstance(value, list) and len(value) == len(arguments):
        return tuple(typed(argument, item, name) for argument, item in zip(arguments, value, strict=True))
    if origin is Sequence and isinstance(value, list | tuple):
        return [typed(arguments[0], item, name) for item in value]
    if _is_basic(kind, value):
        return value
    raise ValueError(f"{name} is {_shorten(value)}")


def _is_basic(kind: Any, value: object) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if not isinstance(kind, type):
        return kind is None and value is None
    if kind is str:
        return isinstance(value, str) and "\0" not in value
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, int):
        return kind in (int, float) and abs(value) <= LARGEST
    return isinstance(value, kind)


def _one_of(kinds: Sequence[Any], value: object, name: str) -> Any:
    for kind in kinds:
        try:
            return typed(kind, value, name)
        except ValueError as error:
            last = error
    raise last


def _object(kind: Any, value: object, name: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {_shorten(value)}")
    kinds = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := next((key for key in value if key not in fields), None):
        raise ValueError(f"{name} has an unknown part {_shorten(unknown)}")
    for key, field in fields.items():
        is_needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if is_needed and key not in value:
            raise ValueError(f"{name} has no {key!r}")
    prefix = "" if name == "it" else f"{name}."
    return kind(**{key: typed(kinds[key], item, f"{prefix}{key}") for key, item in value.items()})


def _shorten(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:40]}..."
