"""Hubs: candidates that are nearest to many predictions, and CSLS, a similarity that corrects for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.nearest import Ranking, Similarities, rank

NEIGHBOURS = 10  # as in Conneau et al. 2018


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
    similarities: Similarities, own: np.ndarray, similarity_to_own: np.ndarray, neighbours: int = NEIGHBOURS
) -> Ranking:
    """Rank each prediction's own target by cross-domain similarity local scaling, which corrects for hubs.

    CSLS is 2 cos(x, y) - r(x) - r(y), where r is the mean cosine to the `neighbours` nearest on the other side
    (Conneau et al. 2018, "Word translation without parallel data", ICLR). r(x) is the same for all candidates and is
    left out. r(y) depends on all predictions, so a rank depends on the other predictions: it is for comparison only,
    because a single new image would get a different rank.

    Args:
        similarities: The cosines of N predictions to M candidates, which are all distinct.
        own: The number of each prediction's own target among the candidates, shape (N,).
        similarity_to_own: The cosine of each prediction to its own target, shape (N,).
        neighbours: The number of neighbours; all predictions if there are fewer.
    """
    largest = np.full((min(neighbours, similarities.queries), similarities.count), -np.inf)
    for _, first, similarity in similarities:
        block = slice(first, first + similarity.shape[1])
        both = np.concatenate([largest[:, block], similarity])
        largest[:, block] = np.partition(both, -len(largest), axis=0)[-len(largest) :]
    penalties = largest.mean(axis=0) / 2
    return rank(similarities, similarity_to_own - penalties[own], 1, penalties)
