"""Evaluation: cosine similarity to the target, retrieval of the right target, and the baselines to beat."""

import logging
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import PipelineError
from pipeline.feed import Vectors, in_blocks
from pipeline.outputs import replacing

log = logging.getLogger(__name__)

RESAMPLES = 2000
RETRIEVAL_BLOCK = 1024
RIDGE_ALPHAS = np.logspace(-1, 8, 19)
RIDGE_ROWS = 4096  # more would take minutes: the time grows with their cube
RIDGE_COPIES = 16  # of its rows, that RidgeCV holds in all


def cosines(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Cosine similarity of each prediction to its target; 0 where either is a zero vector.

    Args:
        predictions: Shape (N, D).
        targets: Shape (N, D).

    Returns:
        Shape (N,), float64, from -1 to 1.
    """
    a, b = _unit(predictions), _unit(targets)
    return np.einsum("nd,nd->n", a, b).clip(-1, 1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors scaled to length 1, float64; zero vectors stay zero."""
    vectors = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def cosine_summary(values: np.ndarray, seed: int = 0) -> dict:
    """Summarise cosines.

    Args:
        values: Shape (N,).
        seed: Seeds the bootstrap.

    Returns:
        mean, median, p05, p95, and ci95: the percentile bootstrap's 95 % interval of the mean (Efron 1979), or None
        for a single value.
    """
    interval = None
    if len(values) > 1:
        from scipy.stats import bootstrap

        found = bootstrap(
            (values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed)
        )
        interval = [float(found.confidence_interval.low), float(found.confidence_interval.high)]
    p05, median, p95 = np.percentile(values, [5, 50, 95])
    return {"mean": float(values.mean()), "median": float(median), "p05": float(p05), "p95": float(p95),
            "ci95": interval}  # fmt: skip


def retrieval_summary(predictions: np.ndarray, targets: np.ndarray) -> dict:
    """How well a prediction finds its own target among all different ones, by cosine (as in DeViSE, Frome et al. 2013).

    The rank of a target is one more than the number of others that lie strictly nearer; half of those exactly as near
    count too, so that a prediction that cannot tell targets apart gains nothing from it.

    Args:
        predictions: Shape (N, D).
        targets: Shape (N, D); equal rows are one candidate.

    Returns:
        top1 and top5 (shares of images), mrr (mean reciprocal rank) and median_rank.
    """
    candidates, own = np.unique(targets, axis=0, return_inverse=True)
    directions, unit = _unit(candidates), _unit(predictions)
    ranks = np.empty(len(unit))
    for start in range(0, len(unit), RETRIEVAL_BLOCK):
        rows = slice(start, start + RETRIEVAL_BLOCK)
        similarity = unit[rows] @ directions.T
        true = np.take_along_axis(similarity, own[rows, None], axis=1)
        nearer, as_near = (similarity > true).sum(axis=1), (similarity == true).sum(axis=1) - 1
        ranks[rows] = 1 + nearer + as_near / 2
    return {"top1": float((ranks < 1.5).mean()), "top5": float((ranks < 5.5).mean()),
            "mrr": float((1 / ranks).mean()), "median_rank": float(np.median(ranks))}  # fmt: skip


@dataclass(frozen=True)
class Baselines:
    """What a decoder has to beat, fitted on the training images.

    Attributes:
        mean: The mean target, shape (D,): the same prediction for every image.
        coefficients: Ridge regression from features, shape (F, D).
        intercept: Its intercept, shape (D,).
        alpha: Its penalty.
    """

    mean: np.ndarray
    coefficients: np.ndarray
    intercept: np.ndarray
    alpha: float

    @classmethod
    def fit(cls, x: Vectors, y: np.ndarray, seed: int = 0, memory: int | None = None) -> "Baselines":
        """Fit both; ridge takes the penalty with the least leave-one-out error (scikit-learn's RidgeCV).

        Args:
            x: Training features, shape (N, F); ridge learns from at most RIDGE_ROWS of them, and says so.
            y: Training targets, shape (N, D).
            seed: Chooses the rows.
            memory: Bytes that ridge may hold, where they allow fewer rows.
        """
        from sklearn.linear_model import Ridge, RidgeCV

        mean = y.mean(axis=0)
        most = RIDGE_ROWS if memory is None else min(RIDGE_ROWS, max(1, memory // (RIDGE_COPIES * x.shape[1] * 4)))
        if len(x) > most:
            log.info("The ridge baseline learns from %d of the %d images, chosen at random.", most, len(x))
            rows = np.sort(np.random.default_rng(seed).choice(len(x), most, replace=False))
            x, y = x[rows], y[rows]
        x = x[:]
        model = RidgeCV(alphas=RIDGE_ALPHAS).fit(x, y) if len(x) > 1 else Ridge().fit(x, y)
        alpha = float(getattr(model, "alpha_", model.alpha if len(x) == 1 else np.nan))
        return cls(mean, model.coef_.T.astype(np.float32), model.intercept_.astype(np.float32), alpha)

    def predict(self, x: Vectors) -> dict[str, np.ndarray]:
        """Predictions of both for features of shape (N, F): {"mean": (N, D), "ridge": (N, D)}."""
        return {
            "mean": np.broadcast_to(self.mean, (len(x), len(self.mean))),
            "ridge": np.concatenate([block @ self.coefficients + self.intercept for block in in_blocks(x)]),
        }

    def save(self, file: Path) -> None:
        """Save as `.npz`, whole or not at all.

        Raises:
            PipelineError: It cannot be written.
        """
        try:
            with replacing(file) as unfinished:
                np.savez(unfinished, mean=self.mean, coefficients=self.coefficients, intercept=self.intercept,
                         alpha=self.alpha)  # fmt: skip
        except OSError as error:
            raise PipelineError(f"{file} cannot be written ({error.strerror or error}).") from error

    @classmethod
    def load(cls, file: Path) -> "Baselines":
        """Load what `save` wrote.

        Raises:
            PipelineError: The file is damaged.
        """
        try:
            with np.load(file, allow_pickle=False) as saved:
                return cls(saved["mean"], saved["coefficients"], saved["intercept"], float(saved["alpha"]))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise PipelineError(f"{file} is damaged ({error}); train again to make it anew.") from error


def judge(predictions: dict[str, np.ndarray], targets: np.ndarray, seed: int = 0) -> dict[str, dict]:
    """Judge several predictions of the same targets.

    Args:
        predictions: Name -> predicted embeddings, shape (N, D).
        targets: Shape (N, D).
        seed: Seeds the bootstrap.

    Returns:
        Name -> {"cosine": see `cosine_summary`, "retrieval": see `retrieval_summary`}.
    """
    return {
        name: {
            "cosine": cosine_summary(cosines(predicted, targets), seed),
            "retrieval": retrieval_summary(predicted, targets),
        }
        for name, predicted in predictions.items()
    }
