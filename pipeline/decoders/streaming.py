"""Features for training: in memory, or streamed from disk in shuffled blocks."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pipeline.core.vectors import READ_AT_ONCE, Vectors

CHUNK = 64  # neighbouring rows that stay together when blocks are shuffled, so that disks read 1 MB at a time
ALIGNMENT = 64  # bytes; TensorFlow needs it to share memory


def aligned_empty(rows: int, columns: int) -> np.ndarray:
    """An array (rows, columns), float32, that TensorFlow can use in place."""
    size = rows * columns * 4
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(np.float32).reshape(rows, columns)


def is_aligned(array: np.ndarray) -> bool:
    """Whether TensorFlow can use an array in place."""
    usable = array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable
    return usable and not array.ctypes.data % ALIGNMENT


def in_memory(x: Vectors) -> np.ndarray:
    """Load all rows into memory; an aligned array is not copied.

    Returns:
        Shape (N, F), float32, aligned for TensorFlow.
    """
    if isinstance(x, np.ndarray) and is_aligned(x):
        return x
    loaded = aligned_empty(len(x), x.shape[1])
    _read(x, np.arange(len(x)), loaded)
    return loaded


def _read(x: Vectors, rows: np.ndarray, into: np.ndarray) -> None:
    for start in range(0, len(rows), READ_AT_ONCE):
        block = rows[start : start + READ_AT_ONCE]
        into[start : start + len(block)] = x[block]


def epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the rows in an epoch; the same on every backend and machine.

    Returns:
        A permutation of the row numbers, shape (rows,), int32.
    """
    return np.random.default_rng([seed, epoch]).permutation(rows).astype(np.int32)


class Stream:
    """Rows from disk in shuffled blocks: neighbours are read together, and shuffled within a block.

    The next block is read while the current one is trained on, so two blocks are in memory at a time.

    Args:
        x: The features, shape (N, F).
        y: Their targets, shape (N, D).
        rows: Rows per block, a multiple of the batch size.
    """

    def __init__(self, x: Vectors, y: np.ndarray, rows: int) -> None:
        self._x, self._y = x, y
        self._buffers = [aligned_empty(min(rows, len(x)), x.shape[1]) for _ in range(2)]

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Read the blocks of an epoch; the next block invalidates the previous one.

        Yields:
            Features (rows, F), only partly filled by the last block of an epoch; targets (used, D); and the order in
            which to train on them, a permutation, shape (used,), int32.
        """
        random = np.random.default_rng([seed, epoch])
        chunks = random.permutation(-(-len(self._x) // CHUNK))
        numbers = (chunks[:, None] * CHUNK + np.arange(CHUNK)).ravel()
        numbers = numbers[numbers < len(self._x)]
        size = len(self._buffers[0])
        blocks = [np.sort(numbers[start : start + size]) for start in range(0, len(numbers), size)]
        with ThreadPoolExecutor(1, "read ahead") as reader:
            reading = reader.submit(_read, self._x, blocks[0], self._buffers[0])
            for number, rows in enumerate(blocks):
                reading.result()
                if number + 1 < len(blocks):
                    reading = reader.submit(_read, self._x, blocks[number + 1], self._buffers[(number + 1) % 2])
                yield self._buffers[number % 2], self._y[rows], random.permutation(len(rows)).astype(np.int32)
