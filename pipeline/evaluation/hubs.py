"""Hubs: candidates that are nearest to many predictions, and CSLS, a similarity that corrects for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.nearest import Ranking, numbered_blocks, rank
from pipeline.core.vectors import Vectors, cosines, unit

NEIGHBOURS = 10  # as in Conneau et al. 2018
VALUES = 2**22  # similarities, and numbers of candidates, at a time, in float64
BLOCK = 4096  # candidates ranked at a time


@dataclass(frozen=True)
class Hub:
    """The candidate that is nearest to the most predictions.

    Attributes:
        candidate: The candidate's name.
        share: The share of predictions that it is nearest to.
        own: The share of images that have it as their target; if `share` is far larger, the candidate is a hub.
    """

    candidate: str
    share: float
    own: float


def largest_hub(nearest: np.ndarray, own: np.ndarray, names: Sequence[str]) -> Hub:
    """Find the candidate that is nearest to the most predictions.

    Its share is the largest k-occurrence for k = 1 (Radovanovic, Nanopoulos and Ivanovic 2010, "Hubs in space",
    Journal of Machine Learning Research 11), divided by the number of predictions.

    Args:
        nearest: The number of each prediction's nearest candidate, shape (N,).
        own: The number of each prediction's own target, shape (N,).
        names: The names of the candidates.
    """
    candidate = int(np.bincount(nearest).argmax())
    return Hub(names[candidate], float((nearest == candidate).mean()), float((own == candidate).mean()))


def csls_ranking(
    predictions: np.ndarray, candidates: Vectors, own: np.ndarray, neighbours: int = NEIGHBOURS
) -> Ranking:
    """Rank each prediction's own target by cross-domain similarity local scaling, which corrects for hubs.

    CSLS is 2 cos(x, y) - r(x) - r(y), where r is the mean cosine to the `neighbours` nearest on the other side
    (Conneau et al. 2018, "Word translation without parallel data", ICLR). r(x) is the same for all candidates and is
    left out. r(y) depends on all predictions, so a rank depends on the other predictions: it is for comparison only,
    because a single new image would get a different rank.

    Args:
        predictions: Shape (N, D).
        candidates: Shape (M, D), all distinct; read a block at a time.
        own: The number of each prediction's own target among the candidates, shape (N,).
        neighbours: The number of neighbours; all predictions if there are fewer.
    """
    directions = unit(predictions)
    kept = min(neighbours, len(directions))
    density = np.empty(len(candidates))
    at_once = max(1, VALUES // max(directions.shape))
    for first, block in numbered_blocks(candidates, at_once):
        similarity = directions @ unit(block).T
        density[first : first + len(block)] = np.partition(similarity, -kept, axis=0)[-kept:].mean(axis=0)
    penalties = density / 2
    similarity_to_own = cosines(predictions, candidates[own]) - penalties[own]
    return rank(directions, similarity_to_own, numbered_blocks(candidates, min(BLOCK, at_once)), 1, penalties)
