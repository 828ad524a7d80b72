"""Retrieval: the rank of a prediction's own target among many candidates, as in DeViSE (Frome et al., NeurIPS 2013)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.core.nearest import ROWS, Ranking, Similarities, nearest, numbered_blocks, rank
from pipeline.core.vector_files import NearestNames
from pipeline.core.vectors import Vectors, cosines, slices, unit, vector_digest

BLOCK = 4096  # candidates compared at a time, at most ...
VALUES = 2**24  # ... and their numbers
NEAREST = 5  # candidates listed for a prediction
HITS = (1, 2, 5, 10, 20)


class Candidates:
    """The vectors that predictions are compared with; equal vectors count once, under their first name.

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
            block = block[: len(self) - start]
            for rows in slices(len(block), block.shape[1], VALUES):
                yield start + rows.start, block[rows]

    def numbers(self, targets: np.ndarray) -> np.ndarray:
        """The candidate numbers of targets (N, D): shape (N,), int64."""
        return np.array([self._numbers[vector_digest(target)] for target in targets], np.int64)

    @property
    def shape(self) -> tuple[int, int]:
        """(M, D)."""
        return len(self), self._blocks[0].shape[1] if self._blocks else 0

    @property
    def dtype(self) -> np.dtype:
        """float32."""
        return np.dtype(np.float32)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Some of the vectors, shape (m, D), float32."""
        return np.stack([self._blocks[row // BLOCK][row % BLOCK] for row in np.arange(len(self))[rows].tolist()])

    def subset(self, targets: np.ndarray) -> "Candidates":
        """The candidates that occur among targets of shape (N, D)."""
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
        top1_ci95: The 95 % interval of `top1` with the same candidates, over clusters or folds; None if there is none,
            or for part of the images.
        top1_ci95_same_labels: The same for new images of the same labels, or None.
    """

    top1: float
    top5: float
    mrr: float
    median_rank: float
    hits: Mapping[str, float]
    top1_ci95: tuple[float, float] | None = None
    top1_ci95_same_labels: tuple[float, float] | None = None


def summarize_ranks(ranks: np.ndarray) -> RetrievalSummary:
    """Summarize the ranks of images' own targets, shape (N,), with ties counted half."""
    return RetrievalSummary(
        top1=float((ranks < 1.5).mean()),
        top5=float((ranks < 5.5).mean()),
        mrr=float((1 / ranks).mean()),
        median_rank=float(np.median(ranks)),
        hits={str(k): float((ranks < k + 0.5).mean()) for k in HITS},
    )


def retrieve(predictions: np.ndarray, targets: np.ndarray, candidates: Candidates) -> Ranking:
    """Find the rank of each prediction's own target by cosine, and the NEAREST nearest candidates.

    Args:
        predictions: Shape (N, D).
        targets: The predictions' own targets, shape (N, D); all are among the candidates.
        candidates: The candidates.
    """
    return rank_targets(similarities(predictions, candidates), cosines(predictions, targets))


def similarities(predictions: np.ndarray, candidates: Candidates) -> Similarities:
    """The cosines of predictions, shape (N, D), to candidates."""
    return Similarities(predictions, candidates.blocks, len(candidates))


def rank_targets(similarities: Similarities, own: np.ndarray) -> Ranking:
    """`retrieve` from the cosines of predictions to candidates, and those to their own targets, shape (N,)."""
    return rank(similarities, own, min(NEAREST, similarities.count))


def find_nearest(vectors: Vectors, candidates: Candidates, count: int) -> NearestNames:
    """Find the candidates nearest to each vector by cosine.

    Args:
        vectors: Shape (N, D); read a block at a time.
        candidates: M candidates.
        count: The number of candidates to find.

    Returns:
        The min(count, M) nearest candidates of each vector.
    """
    kept = min(count, len(candidates))
    numbers, cosines = np.zeros((len(vectors), kept), np.int32), np.zeros((len(vectors), kept), np.float32)
    for start, block in numbered_blocks(vectors, ROWS):
        rows = slice(start, start + len(block))
        numbers[rows], cosines[rows] = nearest(unit(block), candidates.blocks(), kept)
    return NearestNames(candidates.names, numbers, cosines)
