"""The baselines that a decoder has to beat."""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.atomic import atomic_write
from pipeline.core.errors import PipelineError, first_line
from pipeline.core.vectors import Vectors, in_blocks, vector_digest
from pipeline.decoders.config import TrainingConfig
from pipeline.decoders.spec import build_decoder
from pipeline.decoders.training import TrainingData, fit

log = logging.getLogger(__name__)

RIDGE_ALPHAS = np.logspace(-1, 8, 19)
RIDGE_ROWS = 4096  # more would take minutes: the time grows with their cube
RIDGE_COPIES = 16  # arrays of the size of its rows that RidgeCV holds


@dataclass(frozen=True)
class Baselines:
    """The baselines, fitted on the training images.

    Attributes:
        mean: The mean target, shape (D,): the same prediction for every image.
        deviation: The standard deviation of each dimension of the targets, shape (D,).
        coefficients: Ridge regression from features, shape (F, D).
        intercept: Its intercept, shape (D,).
        alpha: Its penalty.
        seen: Digests of the different training targets, shape (M, 16), uint8; see `has_seen`.
    """

    mean: np.ndarray
    deviation: np.ndarray
    coefficients: np.ndarray
    intercept: np.ndarray
    alpha: float
    seen: np.ndarray

    @classmethod
    def fit(cls, x: Vectors, y: np.ndarray, seed: int = 0, memory: int | None = None) -> "Baselines":
        """Fit both; ridge takes the penalty with the least leave-one-out error (scikit-learn's RidgeCV).

        Args:
            x: Training features, shape (N, F); ridge is fitted to at most RIDGE_ROWS of them, and says so.
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
            log.info("The ridge baseline is fitted to %d of the %d images, chosen at random.", most, len(x))
            rows = np.sort(np.random.default_rng(seed).choice(len(x), most, replace=False))
            x, y = x[rows], y[rows]
        x = x[:]
        model = RidgeCV(alphas=RIDGE_ALPHAS).fit(x, y) if len(x) > 1 else Ridge().fit(x, y)
        alpha = float(getattr(model, "alpha_", model.alpha if len(x) == 1 else np.nan))
        return cls(
            mean,
            y.std(axis=0, dtype=np.float64).astype(np.float32),
            model.coef_.T.astype(np.float32),
            model.intercept_.astype(np.float32),
            alpha,
            seen,
        )

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
        arrays = {field.name: np.asarray(getattr(self, field.name)) for field in dataclasses.fields(self)}
        with atomic_write(file) as unfinished:
            np.savez(unfinished, **arrays)  # type: ignore[arg-type]  # NumPy's stub takes the names for options

    @classmethod
    def load(cls, file: Path) -> "Baselines":
        """Load what `save` wrote.

        Raises:
            PipelineError: The file is damaged.
        """
        try:
            with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as saved:
                return cls(**{**saved, "alpha": float(saved["alpha"])})
        except Exception as error:  # NumPy and zipfile raise many types for damaged files
            raise PipelineError(f"{file} is damaged ({first_line(error)}); retrain to write it again.") from error


def fit_shuffled(data: TrainingData, config: TrainingConfig, seed: int) -> Any:
    """Train a decoder on shuffled targets: what it reaches needs no relation between images and targets.

    Args:
        data: Training and validation data; only the training targets are shuffled.
        config: How to train; always for all epochs, keeping the last.
        seed: Random seed.

    Returns:
        The `keras.Model`.
    """
    data = dataclasses.replace(data, y=np.random.default_rng(seed).permutation(data.y))
    config = dataclasses.replace(config, keep="last", patience=None)
    model = build_decoder(config.decoder, "functional", data.x, data.y, seed)
    fit({"shuffled": model}, data, config, seed)
    return model
