"""The baselines that a decoder has to beat: the mean target, ridge regression, and ConSE."""

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.archives import read_npz
from pipeline.core.atomic import atomic_write
from pipeline.core.errors import PipelineError, first_line
from pipeline.core.keras_backend import import_keras
from pipeline.core.model_files import ModelCard, load_decoder, save_decoder
from pipeline.core.vectors import Vectors, standard_deviations, vector_digest
from pipeline.data.splits import assign_folds
from pipeline.decoders.hidden_layer import Coordinates
from pipeline.decoders.network import predict
from pipeline.decoders.ridge import Ridge, fit_ridge
from pipeline.decoders.stacking import score

log = logging.getLogger(__name__)

FILE = "baselines.npz"
FOLDS = 5
CONSE_WORK = 2_000_000  # limit of images times labels; above it, logistic regression takes minutes
CONSE_STRENGTHS = np.array([0.1, 1, 10])  # inverse penalties of logistic regression, divided by the feature dimension


@dataclass(frozen=True)
class Baselines:
    """The baselines, fitted to the training images.

    Attributes:
        mean: The mean target, shape (D,): the same prediction for every image.
        deviation: The standard deviation of each dimension of the targets, shape (D,).
        models: "ridge" and, if targets belong to labels, "conse" -> `keras.Model` from (N, F) to (N, D).
        labels: The labels of the training images; None where unknown.
        groups: The groups of the training images; None where unknown.
    """

    mean: np.ndarray
    deviation: np.ndarray
    models: dict[str, Any]
    labels: frozenset[str] | None = None
    groups: frozenset[str] | None = None

    @classmethod
    def fit(
        cls, x: Vectors, y: np.ndarray, units: np.ndarray, seed: int = 0, ridge: Callable[[], Ridge] | None = None
    ) -> "Baselines":
        """Fit the baselines, with penalties chosen by five-fold cross-validation on the training images.

        Args:
            x: Training features, shape (N, F); any number of rows, in memory or on disk.
            y: Training targets, shape (N, D).
            units: A number for each image, shape (N,), int; images with the same number share a fold.
            seed: Random seed of the folds.
            ridge: A function that fits ridge regression to these images; None to fit it from scratch.
        """
        folds = assign_folds(y, units, seed, FOLDS)
        digests = sorted({vector_digest(target) for target in y})
        regression = ridge() if ridge else fit_ridge(x, y, folds)
        models = {"ridge": _linear_model(regression.coefficients, regression.intercept, "linear", "ridge")}
        if 1 < len(digests) <= len(y) // 2 and len(y) * len(digests) <= CONSE_WORK and isinstance(x, np.ndarray):
            models["conse"] = _fit_conse(x, y, folds, seed)
        return cls(
            mean=y.mean(axis=0, dtype=np.float64).astype(np.float32),
            deviation=standard_deviations(y).astype(np.float32),
            models=models,
        )

    def with_labels(self, labels: Iterable[str], groups: Iterable[str | None] | None) -> "Baselines":
        """A copy that stores the training images' labels ("" for none) and groups, to recognise the images later."""
        return replace(self, labels=frozenset(labels) - {""}, groups=frozenset(filter(None, groups or ())))

    def predict(self, x: Vectors) -> dict[str, np.ndarray]:
        """Predict from features of shape (N, F): "mean" and the names of `models` -> predictions, shape (N, D)."""
        mean = np.broadcast_to(self.mean, (len(x), len(self.mean)))
        return {"mean": mean} | {name: predict(model, x) for name, model in self.models.items()}

    def save(self, folder: Path, card: ModelCard) -> None:
        """Save `ridge.keras`, `conse.keras` (plain Keras models) and FILE in a folder, each atomically.

        Args:
            folder: The folder.
            card: The decoder's card. The cards of the baselines have a linear output activation: ConSE's softmax comes
                before its output layer, so ConSE predicts weighted means of the training targets.

        Raises:
            PipelineError: A file cannot be written.
        """
        card = replace(card, output_activation="linear")
        for name, model in self.models.items():
            save_decoder(model, folder / f"{name}.keras", card)
        with atomic_write(folder / FILE) as unfinished, open(unfinished, "wb") as stream:
            arrays: dict[str, Any] = {"mean": self.mean, "deviation": self.deviation, "models": list(self.models)}
            for name, names in (("labels", self.labels), ("groups", self.groups)):
                if names is not None:
                    arrays[name] = np.array(sorted(names), str)
            np.savez(stream, **arrays)

    @classmethod
    def load(cls, folder: Path) -> "Baselines | None":
        """Load the baselines that `save` wrote; None for a folder without baselines.

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
        except Exception as error:  # NumPy and zipfile raise many types of errors for damaged files
            raise PipelineError(f"{file} is damaged ({first_line(error)}); retrain to write it again.") from error
        models = {name: load_decoder(folder / f"{name}.keras") for name in names}
        return cls(mean, deviation, models, labels, groups)


def _check(models: Sequence[str], mean: np.ndarray, deviation: np.ndarray, names: Mapping[str, np.ndarray]) -> None:
    """Reject arrays that `save` would not write.

    Raises:
        ValueError: An array has another shape or type, or is not finite.
    """
    if models not in (["ridge"], ["ridge", "conse"]):
        raise ValueError("it names unknown models")
    for array in (mean, deviation):
        if array.dtype != np.float32 or array.shape != mean.shape or mean.ndim != 1 or not np.isfinite(array).all():
            raise ValueError("its means are not vectors of finite numbers")
    if any(array.dtype.kind != "U" or array.ndim != 1 for array in names.values()):
        raise ValueError("its labels are not names")


def _fit_conse(x: np.ndarray, y: np.ndarray, folds: np.ndarray, seed: int) -> Any:
    """Fit ConSE (Norouzi et al. 2014): the targets of all labels, weighted by logistic regression's probabilities.

    The inverse penalty has the highest out-of-fold score; it is 1 / F if no fold leaves two labels to train on.
    """
    targets, label = np.unique(y, axis=0, return_inverse=True)
    label = label.ravel()
    coordinates = Coordinates.of(x, seed)
    z = coordinates(coordinates.standardise(x)) / np.float32(coordinates.stretch)
    scores = np.zeros(len(CONSE_STRENGTHS))
    for fold in np.unique(folds):
        training = folds != fold
        if len(np.unique(label[training])) > 1:
            for number, strength in enumerate(CONSE_STRENGTHS / x.shape[1]):
                classifier = _fit_classifier(z[training], label[training], strength)
                predicted = classifier.predict_proba(z[~training]) @ targets[classifier.classes_]
                scores[number] += score(predicted, y[~training]).sum()
    best = int(scores.argmax()) if scores.any() else CONSE_STRENGTHS.tolist().index(1)
    classifier = _fit_classifier(z, label, CONSE_STRENGTHS[best] / x.shape[1])
    kernel = classifier.coef_.T if len(targets) > 2 else np.hstack([-classifier.coef_.T / 2, classifier.coef_.T / 2])
    bias = classifier.intercept_ if len(targets) > 2 else np.array([-1, 1]) * classifier.intercept_ / 2
    kernel, bias = coordinates.linear_on_features(kernel / coordinates.stretch, bias)
    model = _linear_model(kernel, bias, "softmax", "conse")
    model.add(import_keras().layers.Dense(targets.shape[1], use_bias=False))
    model.layers[-1].set_weights([targets])
    return model


def _fit_classifier(z: np.ndarray, label: np.ndarray, strength: float) -> Any:
    """Fit logistic regression for up to 200 iterations: enough for a baseline, even without convergence."""
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about convergence, and labels with fewer than two images each
        return LogisticRegression(C=strength, max_iter=200).fit(z, label)


def _linear_model(kernel: np.ndarray, bias: np.ndarray, activation: str, name: str) -> Any:
    """A Keras model of one dense layer; kernel (F, D), bias (D,)."""
    keras = import_keras()
    model = keras.Sequential(
        [keras.Input((kernel.shape[0],), name="feature"), keras.layers.Dense(kernel.shape[1], activation)], name=name
    )
    model.layers[0].set_weights([kernel, bias])
    return model
