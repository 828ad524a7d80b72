"""Near spellings, for messages about names that were not found."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

NEAR = 0.66  # of 1: one wrong letter of three, or two of six
NEAREST = 3
COMPARED_AT_ONCE = 50_000


def near_spellings(names: Mapping[str, Sequence[str]], choices: Iterable[str]) -> dict[str, list[str]]:
    """Find choices that are spelled like some names.

    Similarity is 1 - the optimal string alignment distance / the longer length, by rapidfuzz.

    Args:
        names: Name -> the spellings to compare, such as the name in lower case.
        choices: What to compare with; read once.

    Returns:
        Name -> up to NEAREST choices that are similar to one of its spellings by at least NEAR, the nearest first.
    """
    from rapidfuzz import process
    from rapidfuzz.distance import OSA

    best: dict[str, dict[str, float]] = {name: {} for name in names}
    remaining = iter(choices)
    while some := list(itertools.islice(remaining, COMPARED_AT_ONCE)):
        for name, spellings in names.items():
            for spelling in spellings:
                for choice, similarity, _ in process.extract(
                    spelling, some, scorer=OSA.normalized_similarity, limit=NEAREST, score_cutoff=NEAR
                ):
                    best[name][choice] = max(similarity, best[name].get(choice, 0.0))
    return {name: sorted(found, key=found.__getitem__, reverse=True)[:NEAREST] for name, found in best.items()}
