"""Near-duplicates: the same image twice, re-encoded, resized or slightly cropped.

They are found by small grey thumbnails, so the result does not depend on VGG16's weights. Two images are
near-duplicates if their thumbnails, aligned by one of a few crops, differ far less than either does from its other
neighbours. A fixed threshold would not do: what is unusually close among photographs is ordinary among handwritten
digits. (Lowe 2004 uses the same ratio test for key points.) An image of one colour has no structure to compare and
is never a near-duplicate.
Up to EXACT images are compared with all others; above, with those that an index finds near
(`thumbnail_index.py`).
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

# Cut off left, above, right, below, as shares of the side. Further crops up to 5 % are near enough to one of these.
CROPS = (
    *((0, 0, 0, 0), (0.025,) * 4, (0.05,) * 4),
    *((0.05, 0.05, 0, 0), (0, 0, 0.05, 0.05), (0.05, 0, 0, 0.05), (0, 0.05, 0.05, 0)),
)
RATIO = 0.15  # of the distance to the NEIGHBOUR-th nearest image; a nearer one is a near-duplicate
NEIGHBOUR = 5
SAME = 0.001  # a distance that is always a near-duplicate, for images with many of them
EXACT = 20_000  # different images that are all compared with all; the time grows with their square
AT_MOST = 200_000  # different images
BLOCK = 1024  # images that are compared with all at a time
JOINED = 64  # of them that are joined with their near-duplicates at a time


def find_near_duplicates(
    digests: np.ndarray, thumbnails: Callable[[np.ndarray], np.ndarray], progress: bool = False
) -> np.ndarray:
    """Number images so that duplicates and near-duplicates share a number.

    Args:
        digests: The content digests of the images, shape (N,), DIGEST.
        thumbnails: Digests -> their thumbnails, shape (n, THUMBNAIL, THUMBNAIL), uint8.
        progress: Whether to show a progress bar on stderr.

    Returns:
        Shape (N,), int.
    """
    different, of_image = np.unique(digests, return_inverse=True)
    if len(different) > AT_MOST:
        log.warning("Above %d different images only duplicates are found, not near-duplicates.", AT_MOST)
        return of_image
    return number_near_duplicates(thumbnails(different), progress)[of_image]


def number_near_duplicates(thumbnails: np.ndarray, progress: bool = False) -> np.ndarray:
    """Number thumbnails so that near-duplicates, and near-duplicates of near-duplicates, share a number.

    Args:
        thumbnails: Shape (N, THUMBNAIL, THUMBNAIL), uint8.
        progress: Whether to show a progress bar on stderr.

    Returns:
        Shape (N,), int.
    """
    if len(thumbnails) > EXACT:
        ours, theirs, distance, reach = near_pairs(_crops(thumbnails), NEIGHBOUR, progress)
        near = distance <= _limit(reach[ours], reach[theirs])
        return _joined(np.arange(len(thumbnails)), ours[near], theirs[near])
    return _compare_all(_views(thumbnails), progress)


def _compare_all(views: np.ndarray, progress: bool) -> np.ndarray:
    """Compare each image with those before it and of its own block, whose reach is known by then.

    Pairs are joined row by row as they are found: of N images that resemble each other there are N^2.
    """
    count = views.shape[1]
    reach = np.empty(count, np.float32)  # distance to the NEIGHBOUR-th nearest image
    numbers = np.arange(count)
    with progress_bar(count, "image", "near-duplicates", progress and count > BLOCK) as bar:
        for start in range(0, count, BLOCK):
            rows = slice(start, min(start + BLOCK, count))
            distance = _distances(views, rows)
            distance[np.arange(rows.stop - start), np.arange(start, rows.stop)] = np.inf
            place = min(NEIGHBOUR, count - 1) - 1
            reach[rows] = np.partition(distance, place, axis=1)[:, place] if count > 1 else 0
            near = distance[:, : rows.stop] <= _limit(reach[rows, None], reach[: rows.stop])
            for first in range(0, len(near), JOINED):
                ours, theirs = np.nonzero(near[first : first + JOINED])
                if len(ours):
                    numbers = _joined(numbers, start + first + ours, theirs)
            bar.update(rows.stop - start)
    return np.unique(numbers, return_inverse=True)[1]


def _limit(reach: np.ndarray, other_reach: np.ndarray) -> np.ndarray:
    """The largest distance at which two images are near-duplicates, by the reach of each."""
    return np.maximum(RATIO * np.minimum(reach, other_reach), SAME)


def _joined(numbers: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Numbers of images, shape (N,), after those of each pair have become one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = numbers[ours], numbers[theirs]
    links = coo_array((np.ones(len(ours), bool), pairs), shape=(len(numbers), len(numbers)))
    return connected_components(links, directed=False)[1][numbers]


def _crops(thumbnails: np.ndarray) -> np.ndarray:
    """Each crop of each thumbnail at the size of a thumbnail, shape (crops, N, pixels), uint8."""
    side = THUMBNAIL
    boxes = [(side * left, side * above, side * (1 - right), side * (1 - below)) for left, above, right, below in CROPS]
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
    """1 - the best correlation of some images with all, either of them cropped; shape (rows, N)."""
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
