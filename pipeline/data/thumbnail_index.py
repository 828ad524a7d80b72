"""Pairs of near thumbnails among many, without comparing all with all.

Each crop of each thumbnail is looked up in an index of the uncropped ones: an inverted file (faiss) of their first
principal components. Distance in that space is never larger than between the whole thumbnails, so a near-duplicate
stays near. The pairs it finds are then compared exactly.
"""

import logging
import time
from typing import Any

import numpy as np

from pipeline.core.progress import progress_bar
from pipeline.core.wording import counted

log = logging.getLogger(__name__)

COMPONENTS = 64
TRAINING = 40_000  # thumbnails that components and cells are learned from
PROBED = 24  # cells that are searched for each crop, of about 2 sqrt(N)
FOUND = 8  # for each crop; more than the neighbours that the rule looks at
KEPT = 10  # candidates of each image that are compared exactly
BLOCK = 1024
LONG = 30  # seconds from which on the expected time is said


def near_pairs(
    crops: np.ndarray, neighbour: int, progress: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find near pairs of images.

    Args:
        crops: The crops of each thumbnail, the uncropped one first, shape (crops, N, pixels), uint8.
        neighbour: Which nearest image's distance to report, at most KEPT.
        progress: Whether to show a progress bar on stderr.

    Returns:
        Both row numbers of each pair, shape (pairs,), int; their distances, 1 - the best correlation with either
        cropped, shape (pairs,), float32; and each image's distance to its `neighbour`-th nearest, shape (N,), float32.
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
            found = _distances(crops, rows, candidates)
            near = np.isfinite(found)
            furthest = np.sort(found, axis=1)[:, neighbour - 1]
            reach[rows] = np.where(
                np.isfinite(furthest), furthest, 0
            )  # with too few found, only the same image is near
            ours.append(np.repeat(rows, near.sum(axis=1)))
            theirs.append(candidates[near])
            distance.append(found[near])
            bar.update(len(rows))
            if start == 0:
                _say_how_long((time.monotonic() - started) * count / len(rows), count)
    return np.concatenate(ours), np.concatenate(theirs), np.concatenate(distance), reach


def unit_vectors(crops: np.ndarray) -> np.ndarray:
    """Pixels, shape (..., pixels), without their mean and of length 1 (0 for one colour), float32."""
    vectors = crops.astype(np.float32)
    vectors -= vectors.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, lengths, out=vectors, where=lengths > 0)


def _say_how_long(seconds: float, count: int) -> None:
    if seconds > LONG:
        minutes = counted(max(1, round(seconds / 60)), "minute")
        log.info("Looking for near-duplicates among %d images takes about %s.", count, minutes)


def _some(count: int) -> np.ndarray:
    """Rows to learn from, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, TRAINING)).astype(int))


def _principal_components(pixels: np.ndarray) -> np.ndarray:
    """The directions of largest variance of the unit vectors, shape (pixels, COMPONENTS), float32."""
    vectors = unit_vectors(pixels[_some(len(pixels))])
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
    index.train(points[_some(len(points))])
    index.add(points)
    index.nprobe = PROBED
    return index


def _candidates(index: Any, crops: np.ndarray, basis: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The KEPT nearest of some images, of any of their crops; shape (rows, KEPT), -1 where there are fewer."""
    points = (unit_vectors(crops) @ basis).reshape(-1, COMPONENTS)
    distance, found = index.search(points, FOUND)
    merged = [
        part.reshape(len(crops), len(rows), FOUND).swapaxes(0, 1).reshape(len(rows), -1) for part in (distance, found)
    ]
    order = np.lexsort((merged[0], merged[1]), axis=1)  # the same image side by side, its least distance first
    distance, found = (np.take_along_axis(part, order, axis=1) for part in merged)
    repeated = np.zeros(found.shape, bool)
    repeated[:, 1:] = found[:, 1:] == found[:, :-1]
    distance = np.where(repeated | (found == rows[:, None]) | (found < 0), np.inf, distance)
    best = np.argsort(distance, axis=1)[:, :KEPT]
    nearest = np.take_along_axis(found, best, axis=1)
    return np.where(np.isfinite(np.take_along_axis(distance, best, axis=1)), nearest, -1)


def _distances(crops: np.ndarray, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """1 - the best correlation of images with their candidates, either cropped; shape (rows, KEPT), inf for none."""
    others, where = np.unique(candidates, return_inverse=True)
    where = where.reshape(candidates.shape)
    theirs = unit_vectors(crops[:, others])
    ours = unit_vectors(crops[:, rows])
    best = np.full(candidates.shape, -np.inf, np.float32)
    for theirs_cropped in theirs:
        np.maximum(best, np.einsum("np,nkp->nk", ours[0], theirs_cropped[where]), out=best)
    for ours_cropped in ours[1:]:
        np.maximum(best, np.einsum("np,nkp->nk", ours_cropped, theirs[0][where]), out=best)
    return np.where(candidates < 0, np.inf, 1 - best)
