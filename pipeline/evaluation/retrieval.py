"""Retrieval: the rank of a prediction's own target among many candidates, as in DeViSE (Frome et al., NeurIPS 2013)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.core.vector_files import NearestNames
from pipeline.core.vectors import Vectors, in_blocks, unit, vector_digest

BLOCK = 4096  # candidates compared at a time
ROWS = 1024  # predictions compared at a time
NEAREST = 5  # candidates listed for a prediction
HITS = (1, 2, 5, 10, 20)
TIE = 1e-12  # cosines of equal pairs differ by the rounding of float64, about 1e-14 for a thousand dimensions


class Candidates:
    """The vectors among which predictions are looked up; equal vectors count once, under their first name.

    Args:
        rows: Pairs of a name and a vector, shape (D,), float32.

    Attributes:
        names: The names, in order.
    """

    def __init__(self, rows: Iterable[tuple[str, np.ndarray]]) -> None:
        self.names: list[str] = []
        self._blocks: list[np.ndarray] = []
        self._numbers: dict[bytes, int] = {}
        for name, vector in rows:
            digest = vector_digest(vector)
            if digest in self._numbers:
                continue
            self._numbers[digest] = len(self.names)
            row = len(self.names) % BLOCK
            if row == 0:
                self._blocks.append(np.empty((BLOCK, len(vector)), np.float32))
            self._blocks[-1][row] = vector
            self.names.append(name)

    def __len__(self) -> int:
        return len(self.names)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The vectors in blocks of at most BLOCK: the number of the first vector, and the block (n, D), float32."""
        for start, block in zip(range(0, len(self), BLOCK), self._blocks, strict=True):
            yield start, block[: len(self) - start]

    def numbers(self, targets: np.ndarray) -> np.ndarray:
        """The candidate number of each target, shape (N, D): shape (N,), int64."""
        return np.array([self._numbers[vector_digest(target)] for target in targets], np.int64)

    def vectors(self) -> np.ndarray:
        """All vectors, shape (M, D), float32."""
        return np.concatenate([block for _, block in self.blocks()])

    def subset(self, targets: np.ndarray) -> "Candidates":
        """The candidates that are among targets of shape (N, D)."""
        return Candidates((self.names[self._numbers[vector_digest(target)]], target) for target in targets)


@dataclass(frozen=True)
class RetrievalSummary:
    """Retrieval over several images.

    Attributes:
        top1: The share of images whose own target is the nearest.
        top5: The share of images whose own target is among the five nearest.
        mrr: The mean reciprocal rank.
        median_rank: The median rank.
        hits: k -> the share of images whose own target is among the k nearest, for k in HITS.
    """

    top1: float
    top5: float
    mrr: float
    median_rank: float
    hits: Mapping[str, float]


@dataclass(frozen=True)
class RetrievalResult:
    """The rank of each prediction's own target, and the nearest candidates.

    Attributes:
        ranks: 1 + the number of candidates that are strictly nearer + half of those exactly as near, shape (N,), so
            that a prediction that cannot tell targets apart gains nothing.
        nearest: The numbers of the nearest candidates, the nearest first, shape (N, up to NEAREST).
    """

    ranks: np.ndarray
    nearest: np.ndarray

    @property
    def hits(self) -> np.ndarray:
        """Whether each prediction's own target is the nearest, shape (N,), bool."""
        return self.ranks < 1.5


def summarize_ranks(ranks: np.ndarray) -> RetrievalSummary:
    """Summarize the ranks of images' own targets, shape (N,), with ties counted half."""
    return RetrievalSummary(
        top1=float((ranks < 1.5).mean()),
        top5=float((ranks < 5.5).mean()),
        mrr=float((1 / ranks).mean()),
        median_rank=float(np.median(ranks)),
        hits={str(k): float((ranks < k + 0.5).mean()) for k in HITS},
    )


def retrieve(predictions: np.ndarray, targets: np.ndarray, candidates: Candidates) -> RetrievalResult:
    """Find the rank of each prediction's own target by cosine, and the nearest candidates; exact, in blocks.

    Args:
        predictions: Shape (N, D).
        targets: The predictions' own targets, shape (N, D); all are among the candidates.
        candidates: The candidates.

    Returns:
        Ranks and nearest candidates.
    """
    directions = unit(predictions)
    true = np.einsum("nd,nd->n", directions, unit(targets))
    kept = min(NEAREST, len(candidates))
    nearer, as_near = np.zeros(len(true)), np.full(len(true), -1.0)  # less the own target, which is as near as itself
    best = np.full((len(true), kept), -np.inf)
    nearest = np.zeros((len(true), kept), np.int64)
    for first, block in candidates.blocks():
        candidate_directions = unit(block).T
        for start in range(0, len(true), ROWS):
            rows = slice(start, start + ROWS)
            similarity = directions[rows] @ candidate_directions
            own = true[rows, None]
            close = (similarity >= own - TIE).sum(axis=1)
            above = (similarity > own + TIE).sum(axis=1)
            nearer[rows] += above
            as_near[rows] += close - above
            best[rows], nearest[rows] = _merge(best[rows], nearest[rows], similarity, first)
    return RetrievalResult(1 + nearer + as_near / 2, nearest)


def find_nearest(vectors: Vectors, candidates: Candidates, count: int) -> NearestNames:
    """Find the candidates nearest to each vector by cosine; exact, in blocks.

    Args:
        vectors: Shape (N, D); read a block at a time.
        candidates: M candidates.
        count: The number of candidates to find.

    Returns:
        The min(count, M) nearest candidates of each vector.
    """
    kept = min(count, len(candidates))
    numbers, cosines = np.zeros((len(vectors), kept), np.int32), np.zeros((len(vectors), kept), np.float32)
    start = 0
    for block in in_blocks(vectors, ROWS):
        directions = unit(block)
        best, nearest = np.full((len(block), kept), -np.inf), np.zeros((len(block), kept), np.int64)
        for first, candidate_block in candidates.blocks():
            best, nearest = _merge(best, nearest, directions @ unit(candidate_block).T, first)
        rows = slice(start, start := start + len(block))
        numbers[rows], cosines[rows] = nearest, best.clip(-1, 1)
    return NearestNames(candidates.names, numbers, cosines)


def find_rows(queries: np.ndarray, vectors: Vectors, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the vectors nearest to each query by cosine; exact, in blocks.

    Args:
        queries: Shape (Q, D).
        vectors: Shape (N, D); read a block at a time.
        count: The number of vectors to find.

    Returns:
        The row numbers of the min(count, N) nearest vectors, the nearest first (the first row among equally near ones),
        shape (Q, min(count, N)), int64, and their cosines, float64.
    """
    directions = unit(queries)
    rows, best, first = np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0)), 0
    for block in in_blocks(vectors):
        numbers = np.arange(first, first := first + len(block))
        rows = np.concatenate([rows, np.broadcast_to(numbers, (len(queries), len(block)))], axis=1)
        best = np.concatenate([best, (directions @ unit(block).T).clip(-1, 1)], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :count]
        rows, best = np.take_along_axis(rows, order, axis=1), np.take_along_axis(best, order, axis=1)
    return rows, best


def _merge(best: np.ndarray, nearest: np.ndarray, similarity: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge the nearest candidates so far, shape (n, k), with a block of candidates that starts at number `first`."""
    kept = best.shape[1]
    columns = np.argpartition(-similarity, min(kept, similarity.shape[1]) - 1, axis=1)[:, :kept]
    similarities = np.concatenate([best, np.take_along_axis(similarity, columns, axis=1)], axis=1)
    numbers = np.concatenate([nearest, columns + first], axis=1)
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :kept]
    return np.take_along_axis(similarities, order, axis=1), np.take_along_axis(numbers, order, axis=1)
