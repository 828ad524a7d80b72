"""The baselines that a decoder has to beat."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import PipelineError
from pipeline.feed import Vectors, in_blocks
from pipeline.outputs import replacing
from pipeline.retrieval import vector_digest

log = logging.getLogger(__name__)

RIDGE_ALPHAS = np.logspace(-1, 8, 19)
RIDGE_ROWS = 4096  # more would take minutes: the time grows with their cube
RIDGE_COPIES = 16  # of its rows, that RidgeCV holds in all


@dataclass(frozen=True)
class Baselines:
    """What a decoder has to beat, fitted on the training images.

    Attributes:
        mean: The mean target, shape (D,): the same prediction for every image.
        coefficients: Ridge regression from features, shape (F, D).
        intercept: Its intercept, shape (D,).
        alpha: Its penalty.
        seen: Digests of the different training targets, shape (M, 16), uint8; see `has_seen`.
    """

    mean: np.ndarray
    coefficients: np.ndarray
    intercept: np.ndarray
    alpha: float
    seen: np.ndarray

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

        mean = y.mean(axis=0, dtype=np.float64).astype(np.float32)
        digests = sorted({vector_digest(target) for target in y})
        seen = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1)
        most = RIDGE_ROWS if memory is None else min(RIDGE_ROWS, max(1, memory // (RIDGE_COPIES * x.shape[1] * 4)))
        if len(x) > most:
            log.info("The ridge baseline learns from %d of the %d images, chosen at random.", most, len(x))
            rows = np.sort(np.random.default_rng(seed).choice(len(x), most, replace=False))
            x, y = x[rows], y[rows]
        x = x[:]
        model = RidgeCV(alphas=RIDGE_ALPHAS).fit(x, y) if len(x) > 1 else Ridge().fit(x, y)
        alpha = float(getattr(model, "alpha_", model.alpha if len(x) == 1 else np.nan))
        return cls(mean, model.coef_.T.astype(np.float32), model.intercept_.astype(np.float32), alpha, seen)

    def predict(self, x: Vectors) -> dict[str, np.ndarray]:
        """Predictions of both for features of shape (N, F): {"mean": (N, D), "ridge": (N, D)}."""
        return {
            "mean": np.broadcast_to(self.mean, (len(x), len(self.mean))),
            "ridge": np.concatenate([block @ self.coefficients + self.intercept for block in in_blocks(x)]),
        }

    def has_seen(self, targets: np.ndarray) -> np.ndarray:
        """Whether each of some targets, shape (N, D), was the target of a training image; shape (N,), bool."""
        seen = {row.tobytes() for row in self.seen}
        return np.array([vector_digest(target) in seen for target in targets], bool)

    def save(self, file: Path) -> None:
        """Save as `.npz`, whole or not at all.

        Raises:
            PipelineError: It cannot be written.
        """
        try:
            with replacing(file) as unfinished:
                np.savez(unfinished, mean=self.mean, coefficients=self.coefficients, intercept=self.intercept,
                         alpha=self.alpha, seen=self.seen)  # fmt: skip
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
                return cls(saved["mean"], saved["coefficients"], saved["intercept"], float(saved["alpha"]),
                           saved["seen"])  # fmt: skip
        except Exception as error:  # NumPy and zipfile raise whatever a damaged file makes them stumble on
            raise PipelineError(f"{file} is damaged ({error}); train again to make it anew.") from error
