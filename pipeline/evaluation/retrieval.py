"""Retrieval: the rank of a prediction's own target among many candidates, as in DeViSE (Frome et al., NeurIPS 2013)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.core.vectors import unit, vector_digest

BLOCK = 4096  # candidates compared at a time
ROWS = 1024  # predictions compared at a time
NEAREST = 5
# Float64 cosines of equal pairs differ by their rounding, some 1e-14 for a thousand dimensions; this is a tie.
TIE = 1e-12


class Candidates:
    """The vectors among which predictions are looked up; equal ones count once, under the first of their names.

    Args:
        rows: A name and a vector, shape (D,), float32, for each.

    Attributes:
        names: The names, in order.
    """

    def __init__(self, rows: Iterable[tuple[str, np.ndarray]]) -> None:
        self.names: list[str] = []
        self._blocks: list[np.ndarray] = []
        seen: set[bytes] = set()
        for name, vector in rows:
            digest = vector_digest(vector)
            if digest in seen:
                continue
            seen.add(digest)
            at = len(self.names) % BLOCK
            if at == 0:
                self._blocks.append(np.empty((BLOCK, len(vector)), np.float32))
            self._blocks[-1][at] = vector
            self.names.append(name)

    def __len__(self) -> int:
        return len(self.names)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The vectors, at most BLOCK at a time: the number of the first, and shape (n, D), float32."""
        for start, block in zip(range(0, len(self), BLOCK), self._blocks, strict=True):
            yield start, block[: len(self) - start]


@dataclass(frozen=True)
class RetrievalSummary:
    """Retrieval over several images.

    Attributes:
        top1: The share of images whose own target is the nearest.
        top5: The share of images whose own target is among the five nearest.
        mrr: The mean reciprocal rank.
        median_rank: The median rank.
    """

    top1: float
    top5: float
    mrr: float
    median_rank: float


@dataclass(frozen=True)
class RetrievalResult:
    """The search for each prediction's own target.

    Attributes:
        ranks: 1 + the number of candidates that are strictly nearer + half of those exactly as near, shape (N,); so a
            prediction that cannot tell targets apart gains nothing.
        nearest: The numbers of the nearest candidates, the nearest first, shape (N, up to NEAREST).
    """

    ranks: np.ndarray
    nearest: np.ndarray

    @property
    def hits(self) -> np.ndarray:
        """Whether each prediction's own target is the nearest, shape (N,), bool."""
        return self.ranks < 1.5

    def summary(self, rows: np.ndarray | slice = slice(None)) -> RetrievalSummary:
        """Summarize some rows."""
        ranks = self.ranks[rows]
        return RetrievalSummary(
            top1=float((ranks < 1.5).mean()),
            top5=float((ranks < 5.5).mean()),
            mrr=float((1 / ranks).mean()),
            median_rank=float(np.median(ranks)),
        )


def retrieve(predictions: np.ndarray, targets: np.ndarray, candidates: Candidates) -> RetrievalResult:
    """Find the rank of each prediction's own target by cosine, and the nearest candidates; exact, in blocks.

    Args:
        predictions: Shape (N, D).
        targets: Their own targets, shape (N, D), each one of the candidates.
        candidates: The candidates.

    Returns:
        Ranks and nearest candidates.
    """
    directions = unit(predictions)
    true = np.einsum("nd,nd->n", directions, unit(targets))
    kept = min(NEAREST, len(candidates))
    nearer, as_near = np.zeros(len(true)), np.full(len(true), -1.0)  # its own target is as near as itself
    best = np.full((len(true), kept), -np.inf)
    nearest = np.zeros((len(true), kept), np.int64)
    for first, block in candidates.blocks():
        others = unit(block).T
        for start in range(0, len(true), ROWS):
            rows = slice(start, start + ROWS)
            similarity = directions[rows] @ others
            own = true[rows, None]
            close = (similarity >= own - TIE).sum(axis=1)
            above = (similarity > own + TIE).sum(axis=1)
            nearer[rows] += above
            as_near[rows] += close - above
            best[rows], nearest[rows] = _merge(best[rows], nearest[rows], similarity, first)
    return RetrievalResult(1 + nearer + as_near / 2, nearest)


def _merge(best: np.ndarray, nearest: np.ndarray, similarity: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge the nearest so far, shape (n, k), with a block of candidates that starts at number `first`."""
    kept = best.shape[1]
    columns = np.argpartition(-similarity, min(kept, similarity.shape[1]) - 1, axis=1)[:, :kept]
    together = np.concatenate([best, np.take_along_axis(similarity, columns, axis=1)], axis=1)
    numbers = np.concatenate([nearest, columns + first], axis=1)
    order = np.argsort(-together, axis=1, kind="stable")[:, :kept]
    return np.take_along_axis(together, order, axis=1), np.take_along_axis(numbers, order, axis=1)
