"""Search for near pairs among many thumbnails without comparing all pairs.

Each crop of each thumbnail is looked up in an index of the uncropped thumbnails: an inverted file (faiss) of their
first principal components. A distance in that space is never larger than the distance between the whole thumbnails, so
near-duplicates stay near. The pairs from the index are then compared exactly.
"""

import logging
import time
from typing import Any

import numpy as np

from pipeline.core.progress import progress_bar
from pipeline.core.wording import counted

log = logging.getLogger(__name__)

COMPONENTS = 64
TRAINING = 40_000  # thumbnails from which components and cells are learned
PROBED = 24  # cells searched per crop, of about 2 sqrt(N)
PER_CROP = 8  # neighbours per crop, more than the rule needs
CANDIDATES = 10  # candidates per image that are compared exactly
BLOCK = 1024
LONG = 30  # seconds; a longer expected time is logged


def near_pairs(
    crops: np.ndarray, neighbour: int, progress: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find near pairs of images.

    Args:
        crops: The crops of each thumbnail, the uncropped one first, shape (crops, N, pixels), uint8.
        neighbour: The rank of the neighbour to which the distance is returned, at most CANDIDATES.
        progress: Whether to show a progress bar on stderr.

    Returns:
        Both row numbers of each pair, shape (pairs,), int; their distances, 1 - the best correlation with either one
        cropped, shape (pairs,), float32; and the distance of each image to its `neighbour`-th nearest, shape (N,),
        float32.
    """
    count = crops.shape[1]
    basis = _principal_components(crops[0])
    index = _index(crops[0], basis)
    ours, theirs, distance = [], [], []
    reach = np.empty(count, np.float32)
    started = time.monotonic()
    with progress_bar(count, "image", "near-duplicates", progress) as bar:
        for start in range(0, count, BLOCK):
            rows = np.arange(start, min(start + BLOCK, count))
            candidates = _candidates(index, crops[:, rows], basis, rows)
            distances = _distances(crops, rows, candidates)
            near = np.isfinite(distances)
            furthest = np.sort(distances, axis=1)[:, neighbour - 1]
            # With too few candidates, only an identical image is near.
            reach[rows] = np.where(np.isfinite(furthest), furthest, 0)
            ours.append(np.repeat(rows, near.sum(axis=1)))
            theirs.append(candidates[near])
            distance.append(distances[near])
            bar.update(len(rows))
            if start == 0:
                _log_duration((time.monotonic() - started) * count / len(rows), count)
    return np.concatenate(ours), np.concatenate(theirs), np.concatenate(distance), reach


def unit_vectors(crops: np.ndarray) -> np.ndarray:
    """Pixels, shape (..., pixels), minus their mean and scaled to length 1 (0 for one colour), float32."""
    vectors = crops.astype(np.float32)
    vectors -= vectors.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, lengths, out=vectors, where=lengths > 0)


def _log_duration(seconds: float, count: int) -> None:
    if seconds > LONG:
        minutes = counted(max(1, round(seconds / 60)), "minute")
        log.info("Looking for near-duplicates among %d images takes about %s.", count, minutes)


def _training_rows(count: int) -> np.ndarray:
    """Evenly spaced rows to learn from."""
    return np.unique(np.linspace(0, count - 1, min(count, TRAINING)).astype(int))


def _principal_components(pixels: np.ndarray) -> np.ndarray:
    """The directions of largest variance of the unit vectors, shape (pixels, COMPONENTS), float32."""
    vectors = unit_vectors(pixels[_training_rows(len(pixels))])
    return np.ascontiguousarray(np.linalg.eigh(vectors.T @ vectors)[1][:, -COMPONENTS:])


def _index(pixels: np.ndarray, basis: np.ndarray) -> Any:
    """An index of the uncropped thumbnails."""
    import faiss

    points = np.concatenate(
        [unit_vectors(pixels[start : start + BLOCK]) @ basis for start in range(0, len(pixels), BLOCK)]
    )
    cells = max(1, min(int(2 * len(points) ** 0.5), len(points) // 40))
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(COMPONENTS), COMPONENTS, cells)
    index.cp.niter = 10
    index.train(points[_training_rows(len(points))])
    index.add(points)
    index.nprobe = PROBED
    return index


def _candidates(index: Any, crops: np.ndarray, basis: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The images nearest to any crop of the images `rows`; shape (rows, CANDIDATES), -1 if there are fewer."""
    points = (unit_vectors(crops) @ basis).reshape(-1, COMPONENTS)
    distance, numbers = index.search(points, PER_CROP)
    merged = [
        part.reshape(len(crops), len(rows), PER_CROP).swapaxes(0, 1).reshape(len(rows), -1)
        for part in (distance, numbers)
    ]
    order = np.lexsort((merged[0], merged[1]), axis=1)  # groups each neighbour's entries, smallest distance first
    distance, numbers = (np.take_along_axis(part, order, axis=1) for part in merged)
    repeated = np.zeros(numbers.shape, bool)
    repeated[:, 1:] = numbers[:, 1:] == numbers[:, :-1]
    distance = np.where(repeated | (numbers == rows[:, None]) | (numbers < 0), np.inf, distance)
    best = np.argsort(distance, axis=1)[:, :CANDIDATES]
    nearest = np.take_along_axis(numbers, best, axis=1)
    return np.where(np.isfinite(np.take_along_axis(distance, best, axis=1)), nearest, -1)


def _distances(crops: np.ndarray, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """1 - the best correlation of images and candidates, either cropped; shape (rows, CANDIDATES), inf if missing."""
    distinct, where = np.unique(candidates, return_inverse=True)
    where = where.reshape(candidates.shape)
    theirs = unit_vectors(crops[:, distinct])
    ours = unit_vectors(crops[:, rows])
    best = np.full(candidates.shape, -np.inf, np.float32)
    for theirs_cropped in theirs:
        np.maximum(best, np.einsum("np,nkp->nk", ours[0], theirs_cropped[where]), out=best)
    for ours_cropped in ours[1:]:
        np.maximum(best, np.einsum("np,nkp->nk", ours_cropped, theirs[0][where]), out=best)
    return np.where(candidates < 0, np.inf, 1 - best)
