"""The map of embeddings: predicted and true embeddings in two dimensions, with labels that do not overlap."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.vectors import unit
from pipeline.evaluation.metrics import EvaluationSet, ScoredPredictions

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

HEIGHT = 420  # of the map; this and all other lengths are in pixels
WIDTHS = (240, 440, 600, 760, 920)  # of the map, from a phone's to a desktop's
LONGEST_LABEL = 120
CHARACTER = 7  # the width of a letter in a label
LINE = 14  # the height of a label
CROSS = 8  # the height of a cross
OFFSET = 12  # from the centre of a cross to the centre of its label
MARGIN = OFFSET + LINE  # above and below the outermost points
EQUAL = 1e-6  # smaller differences between directions are rounding errors
MOST_LANDMARKS = 40  # more crosses than this hide the predictions


@dataclass(frozen=True)
class Dot:
    """A predicted embedding.

    Attributes:
        row: The image's row.
        x: Its first principal component.
        y: Its second.
        true_x: The first principal component of its target.
        true_y: The second.
        path: The image's name.
        label: Its label.
        cosine: Its cosine to the target.
        nearest: The names of the nearest candidates.
        is_right: Whether its own target is the nearest.
    """

    row: int
    x: float
    y: float
    true_x: float
    true_y: float
    path: str
    label: str
    cosine: float
    nearest: Sequence[str]
    is_right: bool


@dataclass(frozen=True)
class Landmark:
    """A true embedding.

    Attributes:
        x: Its first principal component.
        y: Its second.
        label: Its label.
        from_width: The width of the narrowest map with room for the label; None if no map has room.
        offset: The distance of the label below the cross; negative above it.
    """

    x: float
    y: float
    label: str
    from_width: int | None = None
    offset: int = -OFFSET


@dataclass(frozen=True)
class EmbeddingMap:
    """Predicted and true embeddings in two dimensions.

    Attributes:
        dots: The predicted embeddings.
        landmarks: The true embeddings, each once; empty if there are more than `MOST_LANDMARKS`.
        margin: The space for labels left and right of the outermost points.
    """

    dots: Sequence[Dot]
    landmarks: Sequence[Landmark]
    margin: float


def embedding_map(scored: ScoredPredictions, evaluated: EvaluationSet, rows: np.ndarray) -> EmbeddingMap | None:
    """Project predictions and their targets onto their first two principal components.

    Args:
        scored: The predictions.
        evaluated: The images with their targets.
        rows: The images to map, shape (n,).

    Returns:
        The map; None if there are fewer than two dimensions or three points, or all points are equal.
    """
    targets, first, own = np.unique(evaluated.targets[rows], axis=0, return_index=True, return_inverse=True)
    predictions = scored.predictions[rows]
    plane = fit_plane(predictions, targets)
    if plane is None:
        return None
    points = project(plane, np.concatenate([predictions, targets]))
    truths = points[len(rows) :]
    ends = np.hstack([points[: len(rows)], truths[own.ravel()]]).tolist()
    dots = [_dot(row, position, scored, evaluated) for row, position in zip(rows.tolist(), ends, strict=True)]
    if len(targets) > MOST_LANDMARKS:
        return EmbeddingMap(dots, [], OFFSET)
    labels = [evaluated.labels[row] for row in rows[first]]
    landmarks = [Landmark(x, y, label) for (x, y), label in zip(truths.tolist(), labels, strict=True)]
    margin = max(2 * OFFSET, *map(label_width, labels)) / 2
    spans = np.ptp(points, axis=0)
    return EmbeddingMap(dots, place_labels(landmarks, spans, margin), margin)


def fit_plane(predictions: np.ndarray, targets: np.ndarray) -> "PCA | None":
    """Fit the plane of a map: the first two principal components of directions (scikit-learn's PCA).

    Args:
        predictions: Shape (N, D).
        targets: The distinct targets, shape (M, D).

    Returns:
        The plane, for `project`; None if there are fewer than two dimensions or three points, or all points are equal.
    """
    from sklearn.decomposition import PCA

    points = unit(np.concatenate([predictions, targets]))
    if min(points.shape[1], len(points) - 1) < 2 or np.ptp(points, axis=0).max() < EQUAL:
        return None
    return PCA(2, svd_solver="full").fit(points)


def project(plane: "PCA", embeddings: np.ndarray) -> np.ndarray:
    """Project embeddings, shape (n, D), onto the plane of a map; shape (n, 2)."""
    return plane.transform(unit(embeddings)).round(4)


def _dot(row: int, position: Sequence[float], scored: ScoredPredictions, evaluated: EvaluationSet) -> Dot:
    x, y, true_x, true_y = position
    return Dot(
        row=row,
        x=x,
        y=y,
        true_x=true_x,
        true_y=true_y,
        path=evaluated.paths[row],
        label=evaluated.labels[row],
        cosine=float(scored.cosines[row]),
        nearest=[evaluated.candidates.names[number] for number in scored.retrieval.nearest[row]],
        is_right=bool(scored.retrieval.hits[row]),
    )


def label_width(label: str) -> float:
    """The approximate width of a label."""
    letters = sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in label)
    return min(LONGEST_LABEL, CHARACTER * letters)


def place_labels(landmarks: Sequence[Landmark], spans: np.ndarray, margin: float) -> list[Landmark]:
    """Place each label above or below its cross, on the narrowest map where it covers nothing else.

    Labels are centred on their crosses, so labels that do not overlap on a map do not overlap on a wider one.

    Args:
        landmarks: The landmarks; the first ones are placed first.
        spans: The extent of all points, shape (2,).
        margin: The space left and right of the outermost points.

    Returns:
        The landmarks with `from_width` and `offset`.
    """
    extent = np.maximum(spans, 1e-9)
    crosses = [replace(landmark, label="+", offset=0) for landmark in landmarks]
    placed: dict[int, Landmark] = {}
    for width in WIDTHS:
        scale = np.array([width - 2 * margin, HEIGHT - 2 * MARGIN]) / extent
        for number, landmark in enumerate(landmarks):
            if number in placed:
                continue
            for offset in (-OFFSET, OFFSET):
                candidate = replace(landmark, from_width=width, offset=offset)
                obstacles = [*crosses[:number], *crosses[number + 1 :], *placed.values()]
                if not any(_overlap(candidate, obstacle, scale) for obstacle in obstacles):
                    placed[number] = candidate
                    break
    return [placed.get(number, landmark) for number, landmark in enumerate(landmarks)]


def _overlap(first: Landmark, second: Landmark, scale: np.ndarray) -> bool:
    """Whether a label covers another label, or a cross (offset 0)."""
    apart_x = abs(first.x - second.x) * scale[0]
    height = LINE if second.offset else (LINE + CROSS) / 2
    apart_y = abs((second.y - first.y) * scale[1] - (second.offset - first.offset))
    return bool(apart_x < (label_width(first.label) + label_width(second.label)) / 2 and apart_y < height)
