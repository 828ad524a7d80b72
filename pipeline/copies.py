"""Copies: the same picture twice, byte for byte or re-encoded, resized or slightly cropped.

Judged by small grey thumbnails, so that it is the same for trained and untrained weights. Two pictures are near-copies
if their thumbnails, aligned by one of a few crops, differ far less than either does from its other neighbours: what is
far less on a set of photographs would be nothing special on a set of handwritten digits. (The same thought as the ratio
test of Lowe 2004, there for key points.) A picture of one colour has nothing to be known by, and is no near-copy.
`scripts/measure_copies.py` measures misses and false alarms.
"""

import logging

import numpy as np
from PIL import Image
from tqdm import tqdm

from pipeline.features import Features
from pipeline.images import THUMBNAIL

log = logging.getLogger(__name__)

# Cut off left, above, right, below, as shares of the side. Further crops up to 5 % are near enough to one of these.
CROPS = (
    *((0, 0, 0, 0), (0.025,) * 4, (0.05,) * 4),
    *((0.05, 0.05, 0, 0), (0, 0, 0.05, 0.05), (0.05, 0, 0, 0.05), (0, 0.05, 0.05, 0)),
)
RATIO = 0.15  # of the distance to the NEIGHBOUR-th nearest picture; a nearer one is a copy
NEIGHBOUR = 5
SAME = 0.001  # a distance that is a copy whatever else is near, for pictures with many copies
AT_MOST = 20_000  # different pictures; the time grows with their square, and is about a minute for so many
BLOCK = 1024


def find_copies(features: Features, progress: bool = False) -> np.ndarray:
    """Number the images so that copies and near-copies share a number.

    Args:
        features: The images.
        progress: Whether to show a progress bar on stderr.

    Returns:
        Shape (N,), int.
    """
    digests, of_image = np.unique(features.digests, return_inverse=True)
    if len(digests) > AT_MOST:
        log.warning("Near-copies are not looked for among more than %d different images, copies are.", AT_MOST)
        return of_image
    return near_copies(features.store.thumbnails(digests.tolist()), progress)[of_image]


def near_copies(thumbnails: np.ndarray, progress: bool = False) -> np.ndarray:
    """Number pictures so that near-copies, and near-copies of near-copies, share a number.

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
    bar = tqdm(total=count, unit="image", desc="near-copies", disable=None if progress and count > BLOCK else True)
    with bar:
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
        picture = Image.fromarray(pixels)
        for number, box in enumerate(boxes):
            crop = picture.resize((side, side), Image.Resampling.BILINEAR, box=box)
            views[number, row] = np.asarray(crop, np.float32).ravel()
    views -= views.mean(axis=2, keepdims=True)
    lengths = np.linalg.norm(views, axis=2, keepdims=True)
    return np.divide(views, lengths, out=np.zeros_like(views), where=lengths > 0)


def _distances(views: np.ndarray, rows: slice) -> np.ndarray:
    """1 - the best correlation of some pictures with all, either of them cropped; shape (rows, N)."""
    best = views[0, rows] @ views[0].T
    for view in views[1:]:
        np.maximum(best, views[0, rows] @ view.T, out=best)
        np.maximum(best, view[rows] @ views[0].T, out=best)
    return 1 - best


def groups(numbers: np.ndarray) -> list[list[int]]:
    """The rows of each group of at least two copies."""
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    return sorted(group.tolist() for group in np.split(order, starts[1:]) if len(group) > 1)
