"""Wording of messages and tables."""

from collections.abc import Mapping


def counted(number: int, noun: str) -> str:
    """A number and its noun: "1 image", "2 images"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def joined(equal: Mapping[str, str]) -> dict[str, str]:
    """Titles for names that are equal: {"a": "a", "b": "a", "c": "c"} -> {"a": "a = b", "c": "c"}.

    Args:
        equal: Name -> the first name that it is equal to, perhaps itself.
    """
    return {
        first: " = ".join(name for name in equal if equal[name] == first) for first in dict.fromkeys(equal.values())
    }
