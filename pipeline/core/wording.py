"""Wording of messages and tables."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

NEAR = 0.66  # minimum similarity of a spelling, from 0 to 1: one wrong letter of three, or two of six
NEAREST = 3  # spellings in a message
BATCH_SIZE = 50_000
EXAMPLES = 5  # names in a message


def counted(number: int, noun: str) -> str:
    """A number and its noun: "1 image", "2 images"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def examples(names: Sequence[str], count: int = EXAMPLES) -> str:
    """The first `count` names, quoted, and an ellipsis if there are more: "'a', 'b', ..."."""
    return ", ".join(map(repr, names[:count])) + (", ..." if len(names) > count else "")


def joined(equal: Mapping[str, str]) -> dict[str, str]:
    """Titles for equal names: {"a": "a", "b": "a", "c": "c"} -> {"a": "a = b", "c": "c"}.

    Args:
        equal: Name -> the first name that it is equal to, perhaps itself.
    """
    return {
        first: " = ".join(name for name in equal if equal[name] == first) for first in dict.fromkeys(equal.values())
    }


def near_spellings(names: Mapping[str, Sequence[str]], choices: Iterable[str]) -> dict[str, list[str]]:
    """Find the choices that are spelled most like each name.

    Similarity is 1 - the optimal string alignment distance / the longer length, computed by rapidfuzz.

    Args:
        names: Name -> the spellings to compare, such as the name in lower case.
        choices: The strings to compare with; read once.

    Returns:
        Name -> up to NEAREST choices with a similarity of at least NEAR to one of its spellings, most similar first.
    """
    from rapidfuzz import process
    from rapidfuzz.distance import OSA

    best: dict[str, dict[str, float]] = {name: {} for name in names}
    remaining = iter(choices)
    while batch := list(itertools.islice(remaining, BATCH_SIZE)):
        for name, spellings in names.items():
            for spelling in spellings:
                for choice, similarity, _ in process.extract(
                    spelling, batch, scorer=OSA.normalized_similarity, limit=NEAREST, score_cutoff=NEAR
                ):
                    best[name][choice] = max(similarity, best[name].get(choice, 0.0))
    return {name: sorted(scores, key=scores.__getitem__, reverse=True)[:NEAREST] for name, scores in best.items()}
