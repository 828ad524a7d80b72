"""Near-duplicates: the same image twice, re-encoded, resized or slightly cropped.

They are detected from small grey thumbnails, so the result does not depend on VGG16's weights. Two images are
near-duplicates if their thumbnails, aligned by one of a few crops, differ far less than either differs from its other
neighbours. A fixed threshold would not work: a distance that is unusually small among photographs is normal among
handwritten digits. (Lowe 2004 uses the same ratio test for key points.) An image of one colour has no structure to
compare and is never a near-duplicate.

Up to EXACT images, all pairs are compared; beyond that, only the pairs that an index finds (`thumbnail_index.py`).
`scripts/measure_near_duplicates.py` measures misses and false positives.
"""

import logging
from collections.abc import Callable

import numpy as np
from PIL import Image

from pipeline.core.progress import progress_bar
from pipeline.data.decoding import THUMBNAIL
from pipeline.data.thumbnail_index import near_pairs, unit_vectors

log = logging.getLogger(__name__)

# Cut from left, top, right, bottom, as shares of the side. Any other crop up to 5 % is close enough to one of these.
CROPS = (
    *((0, 0, 0, 0), (0.025,) * 4, (0.05,) * 4),
    *((0.05, 0.05, 0, 0), (0, 0, 0.05, 0.05), (0.05, 0, 0, 0.05), (0, 0.05, 0.05, 0)),
)
RATIO = 0.15  # a near-duplicate is within this share of the distance to the NEIGHBOUR-th nearest image
NEIGHBOUR = 5
ALWAYS_NEAR = 0.001  # always a near-duplicate within this distance, for images with many near-duplicates
EXACT = 20_000  # distinct images of which all pairs are compared; the time is quadratic
MAX_IMAGES = 200_000  # distinct images
BLOCK = 1024  # images compared with all others at a time
MERGED_AT_ONCE = 64  # images merged with their near-duplicates at a time


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
        log.warning("Above %d different images only duplicates are found, not near-duplicates.", MAX_IMAGES)
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
    if len(thumbnails) > EXACT:
        ours, theirs, distance, reach = near_pairs(_crops(thumbnails), NEIGHBOUR, progress)
        near = distance <= _limit(reach[ours], reach[theirs])
        return _merge(np.arange(len(thumbnails)), ours[near], theirs[near])
    return _compare_all(_views(thumbnails), progress)


def _compare_all(views: np.ndarray, progress: bool) -> np.ndarray:
    """Compare each image with the earlier images and those of its block, for which the reach is already known.

    Pairs are merged a few rows at a time: N images that resemble each other have N^2 pairs.
    """
    count = views.shape[1]
    reach = np.empty(count, np.float32)  # distance to the NEIGHBOUR-th nearest image
    numbers = np.arange(count)
    with progress_bar(count, "image", "near-duplicates", progress and count > BLOCK) as bar:
        for start in range(0, count, BLOCK):
            rows = slice(start, min(start + BLOCK, count))
            distance = _distances(views, rows)
            distance[np.arange(rows.stop - start), np.arange(start, rows.stop)] = np.inf
            rank = min(NEIGHBOUR, count - 1) - 1
            reach[rows] = np.partition(distance, rank, axis=1)[:, rank] if count > 1 else 0
            near = distance[:, : rows.stop] <= _limit(reach[rows, None], reach[: rows.stop])
            for first in range(0, len(near), MERGED_AT_ONCE):
                ours, theirs = np.nonzero(near[first : first + MERGED_AT_ONCE])
                if len(ours):
                    numbers = _merge(numbers, start + first + ours, theirs)
            bar.update(rows.stop - start)
    return np.unique(numbers, return_inverse=True)[1]


def _limit(reach: np.ndarray, other_reach: np.ndarray) -> np.ndarray:
    """The largest distance at which two images are near-duplicates, from the reach of each."""
    return np.maximum(RATIO * np.minimum(reach, other_reach), ALWAYS_NEAR)


def _merge(numbers: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Merge the numbers of each pair of images; shape (N,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = numbers[ours], numbers[theirs]
    links = coo_array((np.ones(len(ours), bool), pairs), shape=(len(numbers), len(numbers)))
    return connected_components(links, directed=False)[1][numbers]


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


def _views(thumbnails: np.ndarray) -> np.ndarray:
    """Each crop of each thumbnail as a unit vector, shape (crops, N, pixels), float32."""
    return unit_vectors(_crops(thumbnails))


def _distances(views: np.ndarray, rows: slice) -> np.ndarray:
    """1 - the best correlation of a slice of the images with all, with either one cropped; shape (rows, N)."""
    best = views[0, rows] @ views[0].T
    for view in views[1:]:
        np.maximum(best, views[0, rows] @ view.T, out=best)
        np.maximum(best, view[rows] @ views[0].T, out=best)
    return 1 - best


def duplicate_groups(numbers: np.ndarray) -> list[list[int]]:
    """The row numbers of each group of at least two images that share a number."""
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    return sorted(group.tolist() for group in np.split(order, starts[1:]) if len(group) > 1)
