"""The baselines that a decoder has to beat: the mean target, ridge regression, and ConSE."""

import contextlib
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.archives import read_npz
from pipeline.core.atomic import atomic_write
from pipeline.core.errors import PipelineError, first_line
from pipeline.core.keras_backend import import_keras
from pipeline.core.model_files import ModelCard, load_decoder, save_decoder
from pipeline.core.vectors import Vectors, vector_digest
from pipeline.decoders.blending import deal_folds
from pipeline.decoders.coordinates import Coordinates
from pipeline.decoders.ridge_regression import fit_ridge
from pipeline.decoders.training import predict

log = logging.getLogger(__name__)

FILE = "baselines.npz"
FOLDS = 5
CONSE_WORK = 2_000_000  # images times labels, at most; logistic regression takes minutes beyond
CONSE_STRENGTHS = np.array([0.1, 1, 10])  # inverse penalties of logistic regression, divided by the feature dimension


@dataclass(frozen=True)
class Baselines:
    """The baselines, fitted to the training images.

    Attributes:
        mean: The mean target, shape (D,): the same prediction for every image.
        deviation: The standard deviation of each dimension of the targets, shape (D,).
        models: "ridge" and, where targets belong to labels, "conse" -> `keras.Model` from (N, F) to (N, D).
        labels: The labels of the training images; None where they are not known.
        groups: Their groups, likewise.
    """

    mean: np.ndarray
    deviation: np.ndarray
    models: dict[str, Any]
    labels: frozenset[str] | None = None
    groups: frozenset[str] | None = None

    @classmethod
    def fit(cls, x: Vectors, y: np.ndarray, units: np.ndarray, seed: int = 0) -> "Baselines":
        """Fit the baselines; their penalties are chosen by five folds of the training images.

        Args:
            x: Training features, shape (N, F); any number, in memory or on disk.
            y: Training targets, shape (N, D).
            units: A number for each image, shape (N,), int; images with the same number share a fold.
            seed: Random seed of the folds.
        """
        digests = sorted({vector_digest(target) for target in y})
        models = {"ridge": _fit_ridge(x, y, deal_folds(y, units, seed, FOLDS))}
        if 1 < len(digests) <= len(y) // 2 and len(y) * len(digests) <= CONSE_WORK and isinstance(x, np.ndarray):
            models["conse"] = _fit_conse(x, y, seed)
        return cls(
            mean=y.mean(axis=0, dtype=np.float64).astype(np.float32),
            deviation=y.std(axis=0, dtype=np.float64).astype(np.float32),
            models=models,
        )

    def of_images(self, labels: Iterable[str], groups: Iterable[str | None] | None) -> "Baselines":
        """These baselines with the labels ("" for none) and groups of the training images, to know them again."""
        return replace(self, labels=frozenset(labels) - {""}, groups=frozenset(filter(None, groups or ())))

    def predict(self, x: Vectors) -> dict[str, np.ndarray]:
        """Predictions for features of shape (N, F): name -> shape (N, D); "mean" and those of `models`."""
        mean = np.broadcast_to(self.mean, (len(x), len(self.mean)))
        return {"mean": mean} | {name: predict(model, x) for name, model in self.models.items()}

    def save(self, folder: Path, card: ModelCard) -> None:
        """Save `ridge.keras`, `conse.keras` (plain Keras models) and FILE in a folder, each whole or not at all.

        Raises:
            PipelineError: They cannot be written.
        """
        for name, model in self.models.items():
            save_decoder(model, folder / f"{name}.keras", card)
        with atomic_write(folder / FILE) as unfinished, open(unfinished, "wb") as opened:
            arrays: dict[str, Any] = {"mean": self.mean, "deviation": self.deviation, "models": list(self.models)}
            for name, names in (("labels", self.labels), ("groups", self.groups)):
                if names is not None:
                    arrays[name] = np.array(sorted(names), str)
            np.savez(opened, **arrays)

    @classmethod
    def load(cls, folder: Path) -> "Baselines | None":
        """Load what `save` wrote; None where a folder has no baselines.

        Raises:
            RequestError: A model is damaged.
            PipelineError: FILE is damaged.
        """
        file = folder / FILE
        if not file.exists():
            return None
        try:
            arrays = read_npz(file)
            names = arrays.pop("models").tolist()
            mean, deviation = arrays.pop("mean"), arrays.pop("deviation")
            _check(names, mean, deviation, arrays)
            labels, groups = (
                frozenset(arrays[name].tolist()) if name in arrays else None for name in ("labels", "groups")
            )
        except Exception as error:  # NumPy and zipfile raise many types for damaged files
            raise PipelineError(f"{file} is damaged ({first_line(error)}); retrain to write it again.") from error
        models = {name: load_decoder(folder / f"{name}.keras") for name in names}
        return cls(mean, deviation, models, labels, groups)


def _check(names: Sequence[str], mean: np.ndarray, deviation: np.ndarray, known: Mapping[str, np.ndarray]) -> None:
    """Refuse arrays that `save` does not write.

    Raises:
        ValueError: They are of another shape or type, or not finite.
    """
    if names not in (["ridge"], ["ridge", "conse"]):
        raise ValueError("its models are others")
    for array in (mean, deviation):
        if array.dtype != np.float32 or array.shape != mean.shape or mean.ndim != 1 or not np.isfinite(array).all():
            raise ValueError("its means are no vectors of finite numbers")
    if any(array.dtype.kind != "U" or array.ndim != 1 for array in known.values()):
        raise ValueError("its labels are no names")


def _fit_ridge(x: Vectors, y: np.ndarray, folds: np.ndarray) -> Any:
    """Ridge regression with one penalty, or with one for each dimension where the folds favour that."""
    if len(np.unique(folds)) < 2:
        return _linear_model(np.zeros((x.shape[1], y.shape[1])), y.mean(axis=0), "linear", "ridge")
    fitted = min(fit_ridge(x, y, folds), key=lambda each: each.error)
    return _linear_model(fitted.ridge.coefficients, fitted.ridge.intercept, "linear", "ridge")


def _fit_conse(x: np.ndarray, y: np.ndarray, seed: int) -> Any:
    """ConSE (Norouzi et al. 2014): the targets of all labels, weighted by logistic regression's probabilities."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    targets, label = np.unique(y, axis=0, return_inverse=True)
    label = label.ravel()
    coordinates = Coordinates.of(x, seed)
    z = coordinates(coordinates.standardise(x)) / np.float32(coordinates.stretch)
    strength = 1.0
    folds = min(FOLDS, int(np.bincount(label).min()))
    if folds > 1:
        search = GridSearchCV(
            LogisticRegression(max_iter=200),
            {"C": CONSE_STRENGTHS / x.shape[1]},
            cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
            scoring="neg_log_loss",
            refit=False,
        )
        with _unconverged():
            strength = search.fit(z, label).best_params_["C"]
    with _unconverged():
        fitted = LogisticRegression(C=strength, max_iter=200).fit(z, label)
    kernel = fitted.coef_.T if len(targets) > 2 else np.hstack([-fitted.coef_.T / 2, fitted.coef_.T / 2])
    bias = fitted.intercept_ if len(targets) > 2 else np.array([-1, 1]) * fitted.intercept_ / 2
    if coordinates.basis is not None:
        kernel = coordinates.basis @ kernel / coordinates.stretch
    kernel = kernel / coordinates.scale
    model = _linear_model(kernel, bias - coordinates.mean @ kernel, "softmax", "conse")
    model.add(import_keras().layers.Dense(targets.shape[1], use_bias=False))
    model.layers[-1].set_weights([targets])
    return model


@contextlib.contextmanager
def _unconverged() -> Iterator[None]:
    """Accept a logistic regression that stops before it has converged: as a baseline it is good enough by then."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _linear_model(kernel: np.ndarray, bias: np.ndarray, activation: str, name: str) -> Any:
    """A Keras model of one dense layer; kernel (F, D), bias (D,)."""
    keras = import_keras()
    model = keras.Sequential(
        [keras.Input((kernel.shape[0],), name="feature"), keras.layers.Dense(kernel.shape[1], activation)], name=name
    )
    model.layers[0].set_weights([kernel, bias])
    return model
