"""Hubs: candidates that are nearest to many predictions, and CSLS, a similarity that corrects for them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.vectors import unit

NEIGHBOURS = 10  # as in Conneau et al. 2018
VALUES = 2**22  # similarities compared at a time, in float64
TIE = 1e-12  # similarities of equal pairs differ by the rounding of float64


@dataclass(frozen=True)
class Hub:
    """The candidate that is nearest to the most predictions.

    Attributes:
        candidate: The candidate's name.
        share: The share of predictions that it is nearest to.
        own: The share of images of which it is the target; if `share` is far larger, the candidate is a hub.
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


@dataclass(frozen=True)
class Ranking:
    """The rank of each prediction's own target.

    Attributes:
        ranks: 1 + how many candidates are more similar + half of those exactly as similar, shape (N,), float64.
        nearest: The number of the most similar candidate, shape (N,).
    """

    ranks: np.ndarray
    nearest: np.ndarray


def csls_ranking(
    predictions: np.ndarray, candidates: np.ndarray, own: np.ndarray, neighbours: int = NEIGHBOURS
) -> Ranking:
    """Rank each prediction's own target by cross-domain similarity local scaling, which corrects for hubs.

    CSLS is 2 cos(x, y) - r(x) - r(y), where r is the mean cosine to the `neighbours` nearest on the other side
    (Conneau et al. 2018, "Word translation without parallel data", ICLR). r(x) is the same for all candidates and is
    left out. r(y) depends on all predictions, so a rank depends on the other predictions: it serves as a comparison and
    is not what a single new image gets.

    Args:
        predictions: Shape (N, D).
        candidates: Shape (M, D), no two equal.
        own: The number of each prediction's own target among the candidates, shape (N,).
        neighbours: The number of neighbours; all predictions if there are fewer.
    """
    directions = unit(predictions)
    kept = min(neighbours, len(directions))
    density = np.empty(len(candidates))
    for columns, similarity in _blocks(directions, candidates):
        density[columns] = np.partition(similarity, -kept, axis=0)[-kept:].mean(axis=0)
    return _rank(directions, candidates, own, density / 2)


def _rank(directions: np.ndarray, candidates: np.ndarray, own: np.ndarray, penalties: np.ndarray) -> Ranking:
    """Rank by cosine minus each candidate's penalty."""
    true = np.einsum("nd,nd->n", directions, unit(candidates[own])) - penalties[own]
    above, level = np.zeros(len(true)), np.full(len(true), -1.0)  # less the own target, which is level with itself
    best, nearest = np.full(len(true), -np.inf), np.zeros(len(true), np.int64)
    for columns, similarity in _blocks(directions, candidates):
        scores = similarity - penalties[columns]
        margins = scores - true[:, None]
        above += (margins > TIE).sum(axis=1)
        level += (np.abs(margins) <= TIE).sum(axis=1)
        first = scores.argmax(axis=1)
        highest = scores[np.arange(len(scores)), first]
        nearest = np.where(highest > best, columns.start + first, nearest)
        best = np.maximum(best, highest)
    return Ranking(1 + above + level / 2, nearest)


def _blocks(directions: np.ndarray, candidates: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """The cosines of all predictions to a block of candidates at a time: their slice, and shape (N, n)."""
    step = max(1, VALUES // len(directions))
    for start in range(0, len(candidates), step):
        columns = slice(start, start + step)
        yield columns, directions @ unit(candidates[columns]).T
