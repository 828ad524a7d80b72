"""Near-duplicates: copies of an image that were re-encoded, resized or slightly cropped.

They are detected from small grey thumbnails, so the result does not depend on VGG16's weights. Two images are
near-duplicates if their thumbnails, aligned by one of a few crops, differ far less than either differs from its other
neighbours. A fixed threshold would not work: a distance that is unusually small among photographs is normal among
handwritten digits. (Lowe 2004 uses the same ratio test for key points.) An image of one colour has no structure to
compare and is never a near-duplicate.

An index (faiss) of the uncropped thumbnails proposes a few candidates for the crops of each image, which are then
compared exactly. It stores their first principal components. Distances between these are never larger than between the
whole thumbnails, so near-duplicates stay near.
`scripts/measure_near_duplicates.py` measures misses and false positives, also against a comparison of all pairs.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from pipeline.core.progress import progress_bar
from pipeline.core.wording import counted
from pipeline.data.decoding import THUMBNAIL

log = logging.getLogger(__name__)

# Cut from left, top, right, bottom, as shares of the side. Any other crop up to 5 % is close enough to one of these.
CROPS = (
    *((0, 0, 0, 0), (0.025,) * 4, (0.05,) * 4),
    *((0.05, 0.05, 0, 0), (0, 0, 0.05, 0.05), (0.05, 0, 0, 0.05), (0, 0.05, 0.05, 0)),
)
RATIO = 0.15  # a near-duplicate is within this fraction of the distance to the NEIGHBOUR-th nearest image
NEIGHBOUR = 5
ALWAYS_NEAR = 0.001  # always a near-duplicate within this distance, for images with many near-duplicates
MAX_IMAGES = 200_000  # distinct images

COMPONENTS = 64
PER_CROP = 8  # neighbours of a crop in the index, more than the rule needs
CANDIDATES = 10  # candidates of an image that are compared exactly
FLAT = 20_000  # up to this many thumbnails, the index is searched as a whole; beyond that, in cells around the query
TRAINING = 40_000  # thumbnails to learn components and cells from
PROBED = 24  # cells searched per crop, of about 2 sqrt(N)
BLOCK = 1024  # images compared at a time
LONG = 30  # seconds; a longer expected time is logged


def find_near_duplicates(
    digests: np.ndarray, thumbnails: Callable[[np.ndarray], np.ndarray], progress: bool = False
) -> np.ndarray:
    """Assign a number to each image, the same for duplicates and near-duplicates.

    Args:
        digests: The content digests of the images, shape (N,), DIGEST.
        thumbnails: Digests -> their thumbnails, shape (n, THUMBNAIL, THUMBNAIL), uint8.
        progress: Whether to show a progress bar on stderr.

    Returns:
        Shape (N,), int.
    """
    distinct, of_image = np.unique(digests, return_inverse=True)
    if len(distinct) > MAX_IMAGES:
        log.warning(
            "Among more than %d different images, only duplicates are detected, not near-duplicates.", MAX_IMAGES
        )
        return of_image
    return number_near_duplicates(thumbnails(distinct), progress)[of_image]


def number_near_duplicates(thumbnails: np.ndarray, progress: bool = False) -> np.ndarray:
    """Assign a number to each thumbnail, the same for near-duplicates and their near-duplicates.

    Args:
        thumbnails: Shape (N, THUMBNAIL, THUMBNAIL), uint8.
        progress: Whether to show a progress bar on stderr.

    Returns:
        Shape (N,), int.
    """
    candidates, distances = _nearest(_crops(thumbnails), progress)
    furthest = np.sort(distances, axis=1)[:, min(NEIGHBOUR, max(1, len(thumbnails) - 1)) - 1]
    reach = np.where(np.isfinite(furthest), furthest, 0)  # with too few candidates, only an identical image is near
    near = distances <= np.maximum(RATIO * np.minimum(reach[:, None], reach[candidates]), ALWAYS_NEAR)
    return _connected(np.nonzero(near)[0], candidates[near], len(thumbnails))


def duplicate_groups(numbers: np.ndarray) -> list[list[int]]:
    """The row numbers of each group of at least two images that share a number."""
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    return sorted(group.tolist() for group in np.split(order, starts[1:]) if len(group) > 1)


def _crops(thumbnails: np.ndarray) -> np.ndarray:
    """Each crop of each thumbnail at the size of a thumbnail, shape (crops, N, pixels), uint8."""
    side = THUMBNAIL
    boxes = [(side * left, side * top, side * (1 - right), side * (1 - bottom)) for left, top, right, bottom in CROPS]
    crops = np.empty((len(CROPS), len(thumbnails), side * side), np.uint8)
    for row, pixels in enumerate(thumbnails):
        image = Image.fromarray(pixels)
        for number, box in enumerate(boxes):
            crops[number, row] = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=box)).ravel()
    return crops


def _nearest(crops: np.ndarray, progress: bool) -> tuple[np.ndarray, np.ndarray]:
    """The row numbers of the nearest images and their distances, each of shape (N, CANDIDATES); inf if missing."""
    count = crops.shape[1]
    basis = _principal_components(crops[0])
    index = _index(crops[0], basis)
    candidates = np.empty((count, CANDIDATES), np.int64)
    distances = np.empty((count, CANDIDATES), np.float32)
    started = time.monotonic()
    with progress_bar(count, "image", "near-duplicates", progress and count > BLOCK) as bar:
        for start in range(0, count, BLOCK):
            rows = np.arange(start, min(start + BLOCK, count))
            candidates[rows] = _candidates(index, crops[:, rows], basis, rows)
            distances[rows] = _distances(crops, rows, candidates[rows])
            bar.update(len(rows))
            if start == 0:
                _log_duration((time.monotonic() - started) * count / len(rows), count)
    return candidates, distances


def _log_duration(seconds: float, count: int) -> None:
    if seconds > LONG:
        minutes = counted(max(1, round(seconds / 60)), "minute")
        log.info("Looking for near-duplicates among %d images takes about %s.", count, minutes)


def _training_rows(count: int) -> np.ndarray:
    """Evenly spaced rows to learn from."""
    return np.unique(np.linspace(0, count - 1, min(count, TRAINING)).astype(int))


def _principal_components(pixels: np.ndarray) -> np.ndarray:
    """The directions of largest variance of the unit vectors, shape (pixels, COMPONENTS), float32."""
    vectors = _unit_vectors(pixels[_training_rows(len(pixels))])
    return np.ascontiguousarray(np.linalg.eigh(vectors.T @ vectors)[1][:, -COMPONENTS:])


def _unit_vectors(crops: np.ndarray) -> np.ndarray:
    """Pixels, shape (..., pixels), minus their mean and scaled to length 1 (0 for one colour), float32."""
    vectors = crops.astype(np.float32)
    vectors -= vectors.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, lengths, out=vectors, where=lengths > 0)


def _index(pixels: np.ndarray, basis: np.ndarray) -> Any:
    """An index of the uncropped thumbnails."""
    import faiss

    points = np.concatenate(
        [_unit_vectors(pixels[start : start + BLOCK]) @ basis for start in range(0, len(pixels), BLOCK)]
    )
    index: Any = faiss.IndexFlatL2(COMPONENTS)
    if len(points) > FLAT:
        cells = max(1, min(int(2 * len(points) ** 0.5), len(points) // 40))
        index = faiss.IndexIVFFlat(index, COMPONENTS, cells)
        index.cp.niter = 10
        index.nprobe = PROBED
        index.train(points[_training_rows(len(points))])
    index.add(points)
    return index


def _candidates(index: Any, crops: np.ndarray, basis: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The images nearest to any crop of the images `rows`; shape (rows, CANDIDATES), -1 if there are fewer."""
    points = (_unit_vectors(crops) @ basis).reshape(-1, COMPONENTS)
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
    """1 - the best correlation of image and candidate, either cropped; shape (rows, CANDIDATES), inf if missing."""
    distinct, where = np.unique(candidates, return_inverse=True)
    where = where.reshape(candidates.shape)
    theirs = _unit_vectors(crops[:, distinct])
    ours = _unit_vectors(crops[:, rows])
    best = np.full(candidates.shape, -np.inf, np.float32)
    for theirs_cropped in theirs:
        np.maximum(best, np.einsum("np,nkp->nk", ours[0], theirs_cropped[where]), out=best)
    for ours_cropped in ours[1:]:
        np.maximum(best, np.einsum("np,nkp->nk", ours_cropped, theirs[0][where]), out=best)
    return np.where(candidates < 0, np.inf, 1 - best)


def _connected(ours: np.ndarray, theirs: np.ndarray, count: int) -> np.ndarray:
    """Number the images so that both of each pair have the same number; shape (count,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(ours), bool), (ours, theirs)), shape=(count, count))
    return connected_components(links, directed=False)[1]
