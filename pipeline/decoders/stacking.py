"""Stacking: the share of each candidate in a blend, chosen by out-of-fold predictions for the training images.

A blend predicts

    scale * (mean_share * mean + sum of share * (candidate - mean))

with the shares that have the highest score out of fold, as in ensemble selection (Caruana et al. 2004) and stacked
regressions (Breiman 1996): shares are non-negative and sum to at most 1. Four measures keep few or noisy images from
misleading the choice:

- The score is the reported one, the mean cosine. Squared error would fall back to the mean target long before the
  direction of a prediction is useless. All dimensions count equally (each is divided by its root mean square). A single
  dimension has no direction, so its score is the squared error.
- A prediction's deviation is measured from the mean of the images that its fold's candidates were fitted to. Measured
  from the overall mean, a prediction would seem anti-correlated with its target, because that mean contains the target.
- The mean target of few images is itself noisy; it is shrunk as James and Stein (1961) shrink means.
- The gain of the blend over the mean target, and its certainty, are measured with shares from the other folds. The less
  certain the gain, the more the blend is shrunk to the mean target, to the extent that the mean is not noise (shrinking
  to pure noise would not help).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.vectors import cosines

TOLERANCE = 1e-7  # of the score
NEGLIGIBLE = 1e-3  # smaller shares are not worth their hidden units
NEGLIGIBLE_SUM = 5e-3  # with a smaller sum of all shares, the blend is the mean target


@dataclass(frozen=True)
class Shares:
    """The shares of a blend; see the module's docstring.

    Attributes:
        candidates: The share of each candidate, shape (K,); all 0 if the blend is the mean target.
        mean: The share of the mean target.
        score: The mean `score` of the blend's predictions for `rows`, with candidates and shares from the other folds.
    """

    candidates: np.ndarray
    mean: float
    score: float


def score(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Score predictions (N, D) against targets (N, D): shape (N,), float64; higher is better.

    The cosine; for D = 1, where a cosine is only a sign, minus the squared error.
    """
    if targets.shape[1] == 1:
        return -np.square(predictions.astype(np.float64) - targets).ravel()
    return cosines(predictions, targets)


def reliability(targets: np.ndarray) -> float:
    """The share of the mean target that is not noise: the positive-part James-Stein factor, 0 to 1; targets (N, D)."""
    mean, count = targets.mean(axis=0, dtype=np.float64), len(targets)
    noise = float(np.square(targets - mean).sum()) / max(count - 1, 1) / count
    length = float(mean @ mean)
    return max(0.0, 1 - noise / length) if length > 0 else 1.0


def stack(
    predictions: Sequence[np.ndarray], targets: np.ndarray, rows: np.ndarray, folds: np.ndarray, units: np.ndarray
) -> Shares:
    """Choose the shares.

    Args:
        predictions: Out-of-fold predictions of each candidate for `rows`, K arrays of shape (M, D).
        targets: All training targets, shape (N, D).
        rows: The predicted rows, shape (M,), int.
        folds: The fold of each training image, shape (N,), int; at least two different ones.
        units: A number for each training image, shape (N,), int; images with the same number are one observation.

    Returns:
        The shares.
    """
    rms = np.sqrt(np.square(targets, dtype=np.float64).mean(axis=0)).astype(np.float32)
    rms[rms == 0] = 1
    targets = targets / rms
    y = targets[rows]
    mean, shrunk = np.empty_like(y), np.empty_like(y)
    for fold in np.unique(folds[rows]):
        training_targets, held_out = targets[folds != fold], folds[rows] == fold
        mean[held_out] = training_targets.mean(axis=0, dtype=np.float64)
        shrunk[held_out] = reliability(training_targets) * mean[held_out]
    deviations = np.stack([predicted / rms - mean for predicted in predictions])
    shares = _best_shares(deviations, shrunk, y)

    parts = folds[rows] if len(np.unique(folds[rows])) > 1 else np.arange(len(rows)) % 2
    blended = np.empty_like(y)
    for part in np.unique(parts):
        held_out, kept = parts == part, parts != part
        shares_without = _best_shares(deviations[:, kept], shrunk[kept], y[kept])
        blended[held_out] = shrunk[held_out] + np.tensordot(shares_without, deviations[:, held_out], 1)
    confidence = _confidence(score(blended, y) - score(mean, y), units[rows])
    trust = reliability(targets)
    weight = 1 - trust * (1 - confidence)
    blended = (1 - weight) * mean + weight * blended
    scale = min(1.0, np.vdot(blended, y) / max(float(np.vdot(blended, blended)), np.finfo(np.float32).tiny))
    mean_score = float(score(blended * scale * rms, y * rms).mean())
    shares[shares < NEGLIGIBLE] = 0
    if scale * weight * shares.sum() < NEGLIGIBLE_SUM:  # no candidate is better than the mean target
        return Shares(np.zeros(len(shares)), 1.0, mean_score)
    return Shares(scale * weight * shares, float(scale * (1 - weight + weight * trust)), mean_score)


def _best_shares(deviations: np.ndarray, base: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The shares (K,) with the highest mean score of base (M, D) + shares @ deviations (K, M, D); targets y (M, D)."""
    from scipy.optimize import LinearConstraint, minimize

    count = len(deviations)
    flat = deviations.reshape(count, -1)
    direction, _ = _unit_and_length(y)

    def loss(shares: np.ndarray) -> tuple[float, np.ndarray]:
        blended = base + (shares.astype(np.float32) @ flat).reshape(y.shape)
        if y.shape[1] == 1:
            error = blended - y
            slope = (flat @ error.ravel()).astype(np.float64) * 2 / len(y)
            return float(np.square(error, dtype=np.float64).mean()), slope
        unit, norm = _unit_and_length(blended)
        cosine = np.einsum("nd,nd->n", unit, direction)[:, None]
        slope = (cosine * unit - direction) / norm
        return -float(cosine.mean(dtype=np.float64)), (flat @ slope.ravel()).astype(np.float64) / len(y)

    result = minimize(
        loss,
        np.full(count, 1 / count),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * count,
        constraints=LinearConstraint(np.ones((1, count)), -np.inf, 1),
        options={"ftol": TOLERANCE},
    )
    shares: np.ndarray = np.clip(result.x, 0, 1)
    return shares / max(1.0, float(shares.sum()))


def _unit_and_length(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (N, D) scaled to length 1, and their lengths (N, 1); zero vectors stay zero, with length 1."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    length[length == 0] = 1
    return vectors / length, length


def _confidence(gains: np.ndarray, units: np.ndarray) -> float:
    """The confidence in gains of the score, shape (M,), from 0 to 1: m^2 / (m^2 + variance of m), with m their mean.

    The variance is that of Student's t over the units; with three units or fewer, it is infinite.
    """
    _, number = np.unique(units, return_inverse=True)
    gain = np.bincount(number, gains) / np.bincount(number)
    mean, count = float(gain.mean()), len(gain)
    if mean <= TOLERANCE or count <= 3:
        return 0.0
    return mean**2 / (mean**2 + float(gain.var()) / (count - 3))
