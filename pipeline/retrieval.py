"""Retrieval: how near a prediction lies to its own target among many, as in DeViSE (Frome et al., NeurIPS 2013)."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

BLOCK = 4096  # candidates compared at a time
ROWS = 1024  # predictions compared at a time
NEAREST = 5
# Float64 cosines of equal pairs differ by their rounding, some 1e-14 for a thousand dimensions; this is a tie.
TIE = 1e-12


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors scaled to length 1, float64; zero vectors stay zero."""
    vectors = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def vector_digest(vector: np.ndarray) -> bytes:
    """What a vector is known by, 16 bytes; equal float32 vectors have equal digests."""
    return hashlib.blake2b((np.asarray(vector, np.float32) + 0).tobytes(), digest_size=16).digest()


class Candidates:
    """The vectors that predictions are looked up among; equal ones count once, under the first of their names.

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

    def blocks(self) -> Iterable[tuple[int, np.ndarray]]:
        """The vectors, at most BLOCK at a time: the number of the first, and shape (n, D), float32."""
        for start, block in zip(range(0, len(self), BLOCK), self._blocks, strict=True):
            yield start, block[: len(self) - start]


@dataclass(frozen=True)
class Found:
    """What a search for each prediction's own target found.

    Attributes:
        ranks: 1 + how many candidates lie strictly nearer + half of those exactly as near, shape (N,); so a prediction
            that cannot tell targets apart gains nothing from it.
        nearest: The numbers of the nearest candidates, the nearest first, shape (N, up to NEAREST).
    """

    ranks: np.ndarray
    nearest: np.ndarray

    def summary(self, rows: np.ndarray | slice = slice(None)) -> dict:
        """top1 and top5 (shares of the images), mrr (mean reciprocal rank) and median_rank, of some rows."""
        ranks = self.ranks[rows]
        return {"top1": float((ranks < 1.5).mean()), "top5": float((ranks < 5.5).mean()),
                "mrr": float((1 / ranks).mean()), "median_rank": float(np.median(ranks))}  # fmt: skip


def look_up(predictions: np.ndarray, targets: np.ndarray, candidates: Candidates) -> Found:
    """Find the rank of each prediction's own target by cosine, and the nearest candidates; exact, in blocks.

    Args:
        predictions: Shape (N, D).
        targets: Their own targets, shape (N, D), each one of the candidates.
        candidates: What to look among.
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
            least = true[rows, None]
            close = (similarity >= least - TIE).sum(axis=1)
            above = (similarity > least + TIE).sum(axis=1)
            nearer[rows] += above
            as_near[rows] += close - above
            best[rows], nearest[rows] = _merge(best[rows], nearest[rows], similarity, first)
    return Found(1 + nearer + as_near / 2, nearest)


def _merge(best: np.ndarray, nearest: np.ndarray, similarity: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest so far, shape (n, k), and those of a block whose first candidate has a number, the nearest first."""
    kept = best.shape[1]
    columns = np.argpartition(-similarity, min(kept, similarity.shape[1]) - 1, axis=1)[:, :kept]
    together = np.concatenate([best, np.take_along_axis(similarity, columns, axis=1)], axis=1)
    numbers = np.concatenate([nearest, columns + first], axis=1)
    order = np.argsort(-together, axis=1, kind="stable")[:, :kept]
    return np.take_along_axis(together, order, axis=1), np.take_along_axis(numbers, order, axis=1)
