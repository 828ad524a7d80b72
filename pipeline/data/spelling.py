"""Similar spellings, for messages about names that were not found."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

NEAR = 0.66  # least similarity, from 0 to 1: one wrong letter of three, or two of six
NEAREST = 3
BATCH_SIZE = 50_000


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
