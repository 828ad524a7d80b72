"""Nearest vectors by cosine, and the rank of a query's own vector: exact, in blocks of bounded memory."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.core.vectors import Vectors, in_blocks, unit

TIE = 1e-12  # float64 rounding makes similarities of equal pairs differ by about 1e-14 for a thousand dimensions
ROWS = 1024  # queries compared at a time
KEPT = 2**24  # similarities that are kept for another pass, at most

NumberedBlock = tuple[int, np.ndarray]  # the number of the first vector, and vectors of shape (n, D)


@dataclass(frozen=True)
class Ranking:
    """The rank of each query's own vector, and the vectors that are nearest to the query.

    Attributes:
        ranks: 1 + the number of vectors that are more similar + half the number of those exactly as similar, shape
            (Q,), float64, so that a query that cannot tell vectors apart gains nothing.
        nearest: The indices of the nearest vectors, nearest first, shape (Q, count), int64.
    """

    ranks: np.ndarray
    nearest: np.ndarray

    @property
    def hits(self) -> np.ndarray:
        """Whether each query's own vector is the nearest, shape (Q,), bool."""
        return self.ranks < 1.5


class Similarities:
    """The cosines of queries to vectors, computed in each pass over them, or once if there are at most KEPT.

    Args:
        queries: Shape (Q, D).
        blocks: Returns all M vectors, in blocks.
        count: M.

    Attributes:
        queries: The number of queries.
        count: M.
    """

    def __init__(self, queries: np.ndarray, blocks: Callable[[], Iterable[NumberedBlock]], count: int) -> None:
        self.queries, self.count = len(queries), count
        directions = unit(queries)
        self._passes: Callable[[], Iterable[tuple[slice, int, np.ndarray]]]
        if self.queries * count <= KEPT:
            kept = list(_similarities(directions, blocks()))
            self._passes = lambda: kept
        else:
            self._passes = lambda: _similarities(directions, blocks())

    def __iter__(self) -> Iterator[tuple[slice, int, np.ndarray]]:
        """For each block, the rows of some queries, the number of the first vector, and their cosines, shape (q, n)."""
        return iter(self._passes())


def rank(similarities: Similarities, own: np.ndarray, count: int, penalties: np.ndarray | None = None) -> Ranking:
    """Rank each query's own vector by similarity: the cosine, minus the vector's penalty.

    Args:
        similarities: The cosines of Q queries to M vectors.
        own: The similarity of each query to its own vector, which is among the others, shape (Q,).
        count: The number of nearest vectors to find, at most M.
        penalties: The penalty of each vector, shape (M,); None for none.
    """
    above, level = np.zeros(len(own)), np.full(len(own), -1.0)  # without the query's own vector, which ties with itself
    best = _Best(len(own), count)
    for rows, first, similarity in similarities:
        if penalties is not None:
            similarity = similarity - penalties[first : first + similarity.shape[1]]
        margin = own[rows, None]
        at_least, more = (similarity >= margin - TIE).sum(axis=1), (similarity > margin + TIE).sum(axis=1)
        above[rows] += more
        level[rows] += at_least - more
        best.add(rows, first, similarity)
    return Ranking(1 + above + level / 2, best.numbers)


def nearest(directions: np.ndarray, blocks: Iterable[NumberedBlock], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the vectors nearest to each query by cosine.

    Args:
        directions: The queries as unit vectors, shape (Q, D).
        blocks: All M vectors, in blocks.
        count: The number of vectors to find, at most M.

    Returns:
        The indices of the nearest vectors, nearest first (the lowest index among equally near ones), shape
        (Q, count), int64, and their cosines, float64.
    """
    best = _Best(len(directions), count)
    for rows, first, similarity in _similarities(directions, blocks):
        best.add(rows, first, similarity.clip(-1, 1))
    return best.numbers, best.similarities


def find_rows(queries: np.ndarray, vectors: Vectors, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows of vectors nearest to each query; see `nearest`.

    Args:
        queries: Shape (Q, D).
        vectors: Shape (N, D); read a block at a time.
        count: The number of vectors to find; N if there are fewer.
    """
    return nearest(unit(queries), numbered_blocks(vectors), min(count, len(vectors)))


def numbered_blocks(vectors: Vectors, rows: int | None = None) -> Iterator[NumberedBlock]:
    """The blocks of `in_blocks`, each with the number of its first row."""
    first = 0
    for block in in_blocks(vectors, rows):
        yield first, block
        first += len(block)


def _similarities(directions: np.ndarray, blocks: Iterable[NumberedBlock]) -> Iterator[tuple[slice, int, np.ndarray]]:
    """Yield the rows of some queries, the number of a block's first vector, and their cosines, shape (q, n)."""
    for first, block in blocks:
        others = unit(block).T
        for start in range(0, len(directions), ROWS):
            rows = slice(start, start + ROWS)
            yield rows, first, directions[rows] @ others


class _Best:
    """The `count` vectors most similar to each query so far, best first; the first of equally similar ones."""

    def __init__(self, queries: int, count: int) -> None:
        self.similarities = np.full((queries, count), -np.inf)
        self.numbers = np.zeros((queries, count), np.int64)

    def add(self, rows: slice, first: int, similarity: np.ndarray) -> None:
        """Add the similarities (q, n) of some queries to the next n vectors, numbered from `first`."""
        count = self.numbers.shape[1]
        columns = _largest(similarity, count)
        similarities = np.hstack([self.similarities[rows], np.take_along_axis(similarity, columns, axis=1)])
        numbers = np.hstack([self.numbers[rows], columns + first])
        order = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
        self.similarities[rows] = np.take_along_axis(similarities, order, axis=1)
        self.numbers[rows] = np.take_along_axis(numbers, order, axis=1)


def _largest(similarity: np.ndarray, count: int) -> np.ndarray:
    """The columns of the `count` largest numbers of each row, ascending; the first of equal numbers."""
    if count >= similarity.shape[1]:
        return np.broadcast_to(np.arange(similarity.shape[1]), similarity.shape)
    columns = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    least = np.take_along_axis(similarity, columns, axis=1).min(axis=1, keepdims=True)
    tied = np.flatnonzero((similarity >= least).sum(axis=1) > count)  # argpartition breaks ties arbitrarily
    columns[tied] = np.argsort(-similarity[tied], axis=1, kind="stable")[:, :count]
    return np.sort(columns, axis=1)
