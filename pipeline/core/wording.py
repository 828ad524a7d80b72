"""Wording of messages."""


def counted(number: int, noun: str) -> str:
    """A number and its noun: "1 image", "2 images"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
