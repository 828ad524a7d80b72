"""Near-duplicates: the same image twice, re-encoded, resized or slightly cropped.

They are found by small grey thumbnails, so the result does not depend on VGG16's weights. Two images are
near-duplicates if their thumbnails, aligned by one of a few crops, differ far less than either does from its other
neighbours. A fixed threshold would not do: what is unusually close among photographs is ordinary among handwritten
digits. (Lowe 2004 uses the same ratio test for key points.) An image of one colour has no structure to compare and
is never a near-duplicate.
`scripts/measure_near_duplicates.py` measures misses and false positives.
"""

import logging
from collections.abc import Callable

import numpy as np
from PIL import Image

from pipeline.core.progress import progress_bar
from pipeline.data.decoding import THUMBNAIL

log = logging.getLogger(__name__)

# Cut off left, above, right, below, as shares of the side. Further crops up to 5 % are near enough to one of these.
CROPS = (
    *((0, 0, 0, 0), (0.025,) * 4, (0.05,) * 4),
    *((0.05, 0.05, 0, 0), (0, 0, 0.05, 0.05), (0.05, 0, 0, 0.05), (0, 0.05, 0.05, 0)),
)
RATIO = 0.15  # of the distance to the NEIGHBOUR-th nearest image; a nearer one is a near-duplicate
NEIGHBOUR = 5
SAME = 0.001  # a distance that is always a near-duplicate, for images with many of them
AT_MOST = 20_000  # different images; the time grows with their square and is about a minute for this many
BLOCK = 1024


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
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(thumbnails)
    views = _views(thumbnails)
    reach = np.empty(count, np.float32)
    near: list[np.ndarray] = []
    with progress_bar(count, "image", "near-duplicates", progress and count > BLOCK) as bar:
        for start in range(0, count, BLOCK):
            rows = slice(start, min(start + BLOCK, count))
            distance = _distances(views, rows)
            distance[np.arange(rows.stop - start), np.arange(start, rows.stop)] = np.inf
            place = min(NEIGHBOUR, count - 1) - 1
            reach[rows] = np.partition(distance, place, axis=1)[:, place] if count > 1 else 0
            ours, theirs = np.nonzero(distance <= np.maximum(RATIO * reach[rows, None], SAME))
            near.append(np.stack([ours + start, theirs, distance[ours, theirs]]))
            bar.update(rows.stop - start)
    ours, theirs, distance = np.concatenate(near, axis=1)
    ours, theirs = ours.astype(int), theirs.astype(int)
    kept = distance <= np.maximum(RATIO * np.minimum(reach[ours], reach[theirs]), SAME)
    links = coo_array((np.ones(kept.sum()), (ours[kept], theirs[kept])), shape=(count, count))
    return connected_components(links, directed=False)[1]


def _views(thumbnails: np.ndarray) -> np.ndarray:
    """Each crop of each thumbnail, as a vector without its mean, of length 1; shape (crops, N, pixels), float32."""
    side = THUMBNAIL
    boxes = [(side * left, side * above, side * (1 - right), side * (1 - below)) for left, above, right, below in CROPS]
    views = np.empty((len(CROPS), len(thumbnails), side * side), np.float32)
    for row, pixels in enumerate(thumbnails):
        image = Image.fromarray(pixels)
        for number, box in enumerate(boxes):
            crop = image.resize((side, side), Image.Resampling.BILINEAR, box=box)
            views[number, row] = np.asarray(crop, np.float32).ravel()
    views -= views.mean(axis=2, keepdims=True)
    lengths = np.linalg.norm(views, axis=2, keepdims=True)
    return np.divide(views, lengths, out=np.zeros_like(views), where=lengths > 0)


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
