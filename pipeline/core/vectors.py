"""Vectors, in memory or on disk, and the functions on them that all stages share."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

READ_AT_ONCE = 256  # rows
LARGEST_BLOCK = 2**26  # bytes
VALUES = 2**20  # numbers that float64 arithmetic copies at a time
ROUNDING = float(np.finfo(np.float32).eps) ** 2  # of the mean squared length of a row; anything less is rounding


class Vectors(Protocol):
    """N rows of F float32 numbers: a NumPy array, or features on disk that are read when indexed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, F)."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """float32."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True)
class ArrayRows:
    """Rows of an array, which may be memory-mapped; they become float32 when they are read.

    Attributes:
        array: Numbers, shape (rows, F).
        rows: Row numbers, shape (N,).
    """

    array: np.ndarray
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(N, F)."""
        return len(self.rows), self.array.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """float32."""
        return np.dtype(np.float32)

    def subset(self, rows: np.ndarray) -> "ArrayRows":
        """Some of the rows, not read yet."""
        return ArrayRows(self.array, self.rows[rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # numbers that are too large become infinite
            return np.asarray(self.array[self.rows[rows]], np.float32)


def rows_at_once(dim: int) -> int:
    """Number of rows of `dim` float32 numbers to read at a time: READ_AT_ONCE, or fewer to fit LARGEST_BLOCK."""
    return max(1, min(READ_AT_ONCE, LARGEST_BLOCK // (4 * dim or 1)))


def in_blocks(x: Vectors, rows: int | None = None) -> Iterator[np.ndarray]:
    """Iterate over blocks of at most `rows` rows, in order; by default, `rows_at_once`."""
    rows = rows or rows_at_once(x.shape[1])
    return (x[start : start + rows] for start in range(0, len(x), rows))


def slices(count: int, length: int, values: int = VALUES) -> Iterator[slice]:
    """Slices of `count` rows (or columns) of `length` numbers each, with at most about `values` numbers per slice."""
    step = max(1, values // max(length, 1))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def moments(x: Vectors) -> tuple[np.ndarray, float]:
    """The mean of each column and the mean of all variances, in one pass, summed in float64.

    Args:
        x: Shape (N, F).

    Returns:
        The mean, shape (F,), float32, and the mean variance.
    """
    total, squares = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for block in in_blocks(x):
        total += block.sum(axis=0, dtype=np.float64)
        squares += np.einsum("nf,nf->f", block, block, dtype=np.float64)
    mean = total / len(x)
    return mean.astype(np.float32), float(np.maximum(squares / len(x) - mean**2, 0).mean())


def spread(mean: np.ndarray, variance: float) -> float:
    """The scale of features: the root of their mean variance, or 1 if float32 cannot tell the features apart.

    Args:
        mean: Mean feature, shape (F,).
        variance: The mean of all variances.
    """
    squares = variance + float(np.square(mean, dtype=np.float64).mean())
    return variance**0.5 if variance > ROUNDING * squares else 1.0


def standard_deviations(vectors: np.ndarray) -> np.ndarray:
    """The standard deviation of each column of vectors (N, D), in blocks of columns; shape (D,), float64."""
    blocks = slices(vectors.shape[1], len(vectors))
    return np.concatenate([vectors[:, block].std(axis=0, dtype=np.float64) for block in blocks])


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors scaled to length 1, float64; zero vectors stay zero."""
    directions = np.array(vectors, np.float64)
    norms = np.sqrt(np.einsum("...d,...d->...", directions, directions))[..., None]  # unlike norm(), without a copy
    np.divide(directions, norms, out=directions, where=norms > 0)
    return directions


def cosines(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Cosine similarity of each prediction to its target; 0 where either is a zero vector.

    Args:
        predictions: Shape (N, D).
        targets: Shape (N, D).

    Returns:
        Shape (N,), float64, from -1 to 1.
    """
    result = np.empty(len(predictions))
    for rows in slices(len(predictions), predictions.shape[1]):
        result[rows] = np.einsum("nd,nd->n", unit(predictions[rows]), unit(targets[rows])).clip(-1, 1)
    return result


def number_equal(vectors: np.ndarray) -> np.ndarray:
    """Number vectors in lexicographic order; equal ones share a number.

    This is the inverse that `numpy.unique` returns, but it only copies as many columns as tell the vectors apart.

    Args:
        vectors: Shape (N, D).

    Returns:
        Shape (N,), int.
    """
    different, columns = len({vector_digest(vector) for vector in vectors}), 16
    while True:
        first, numbers = np.unique(vectors[:, :columns], axis=0, return_inverse=True)
        if len(first) == different or columns >= vectors.shape[1]:
            return numbers.ravel()
        columns *= 8


def array_digest(array: np.ndarray) -> bytes:
    """A 16-byte digest of the numbers of an array."""
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).digest()


def vector_digest(vector: np.ndarray) -> bytes:
    """A 16-byte digest of a vector; equal float32 vectors have equal digests (-0.0 counts as 0.0)."""
    return array_digest(np.asarray(vector, np.float32) + 0)
