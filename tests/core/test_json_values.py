from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from pipeline.core.json_values import parse_json, typed


@dataclass(frozen=True)
class Inner:
    pair: tuple[float, float] | None


@dataclass(frozen=True)
class Outer:
    name: str
    kind: Literal["a", "b"] = "a"
    inner: Mapping[str, Inner] = field(default_factory=dict)
    sizes: Sequence[int] = ()
    rest: Any = None


def test_values_are_converted_to_types() -> None:
    value = {"name": "x", "inner": {"i": {"pair": [1, 2.5]}, "j": {"pair": None}}, "sizes": [1, 2], "rest": [{}]}
    assert typed(Outer, value) == Outer("x", "a", {"i": Inner((1, 2.5)), "j": Inner(None)}, [1, 2], [{}])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], r"it is \[\]"),
        ({}, "it has no 'name'"),
        ({"name": "x", "more": 1}, 'unknown part "more"'),
        ({"name": "x\0"}, "name is"),
        ({"name": "x", "kind": "c"}, 'kind is "c"'),
        ({"name": "x", "kind": ["a"]}, "kind is"),
        ({"name": "x", "sizes": [1, True]}, "sizes is true"),
        ({"name": "x", "sizes": [2**60]}, "sizes is 1152921504606846976"),
        ({"name": "x", "sizes": "12"}, "sizes is"),
        ({"name": "x", "inner": {"i": {"pair": [1]}}}, "inner.i.pair is"),
        ({"name": "x", "inner": {"i": {"pair": [1, "2"]}}}, "inner.i.pair is"),
        ({"name": ["y" * 1000]}, r"name is .{,60}$"),
    ],
)
def test_wrong_values_are_named(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        typed(Outer, value)


def test_json_is_an_object() -> None:
    assert parse_json(b'{"a": 1}') == {"a": 1}
    for text in ("[]", "7", "", "[" * 100_000, '{"a":' * 100_000):
        with pytest.raises(ValueError, match=r"\w"):
            parse_json(text)
