"""scikit-learn estimators: `VGG16Features` turns images into features, `KerasDecoder` features into embeddings.

    from sklearn.pipeline import make_pipeline
    from pipeline import KerasDecoder, VGG16Features

    model = make_pipeline(VGG16Features(), KerasDecoder()).fit(paths, embeddings)
    model.predict(other_paths)   # (N, D)

Both follow scikit-learn's conventions, so `clone`, `GridSearchCV`, `cross_val_predict`, pickling and `set_output` work.
"""

from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, InvalidParameterError, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, check_is_fitted, validate_data

from pipeline.core.errors import RequestError
from pipeline.core.vectors import READ_AT_ONCE, cosines
from pipeline.data.images import ImageSet
from pipeline.data.pixels import images_in_memory
from pipeline.data.sources import find_images, image_refs
from pipeline.data.text_files import as_text
from pipeline.decoders.network import (
    API_STYLES,
    NETWORK,
    ApiStyle,
    DecoderSpec,
    TrainingConfig,
    build_decoder,
    multiply_output,
    predict,
    target_scale,
)
from pipeline.decoders.training import TrainingData, fit
from pipeline.features.engines import ENGINES
from pipeline.features.extraction import extract_features
from pipeline.features.extractor import Extractor
from pipeline.features.options import ExtractionOptions, ExtractorOptions

DTYPES = (np.float64, np.float32)  # of predictions; the network computes in float32
NAMED = 3  # unreadable images that a message lists
POSITIVE = Interval(Integral, 1, None, closed="left")
SCHEDULES = {"constant", "cosine"}


def _check_parameters(estimator: Any) -> None:
    """Check the parameters of an estimator as scikit-learn does.

    Raises:
        RequestError: A parameter has the wrong type, or is out of range.
    """
    try:
        estimator._validate_params()
    except InvalidParameterError as error:
        raise RequestError(str(error)) from error


class VGG16Features(TransformerMixin, BaseEstimator):
    """Images -> VGG16 features, cached in the feature store, so that each is computed once.

    There is nothing to fit. Arrays and PIL images are identified by their pixels, files by their content.

    Args:
        weights: "imagenet", "random[:SEED]" or a file; see `pipeline.features.weights.weights_from`. None means those
            of the environment variable IMAGE_VECTORS_WEIGHTS, else "imagenet".
        layer: See `ExtractorOptions`, also for the next four.
        precision: The precision of VGG16's arithmetic.
        pool: How the positions of convolutional layers are pooled.
        project: A sparse random projection of each layer.
        resize: How an image becomes 224 x 224 pixels.
        preprocess: See `pipeline.features.weights.weights_from`, also for the next.
        network: "vgg16" or "vgg19".
        engine: See `ExtractionOptions`, also for the next.
        device: "cpu", "gpu" (all GPUs), or GPUs such as "gpu:0,gpu:1"; None means all GPUs, or else the processor.
        batch_size: Images per batch; None for the engine's default.
        workers: Processes that read and decode; None means one for each usable core.
        cache: The folder of the feature stores, or its URL in a bucket; None for the user's cache folder.
    """

    def __init__(
        self,
        weights: str | None = None,
        layer: str = "fc2",
        precision: str = "float32",
        pool: str | None = None,
        project: str | None = None,
        resize: str = "squash",
        preprocess: str | None = None,
        network: str = "vgg16",
        engine: str = "auto",
        device: str | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
        cache: str | Path | None = None,
    ) -> None:
        self.weights = weights
        self.layer = layer
        self.precision = precision
        self.pool = pool
        self.project = project
        self.resize = resize
        self.preprocess = preprocess
        self.network = network
        self.engine = engine
        self.device = device
        self.batch_size = batch_size
        self.workers = workers
        self.cache = cache

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "weights": [str, None],
        "layer": [str],
        "precision": [str],
        "pool": [str, None],
        "project": [str, None],
        "resize": [str],
        "preprocess": [str, None],
        "network": [str],
        "engine": [StrOptions(set(ENGINES))],
        "device": [str, None],
        "batch_size": [POSITIVE, None],
        "workers": [POSITIVE, None],
        "cache": [str, Path, None],
    }

    def fit(self, X: Any, y: Any = None) -> Self:
        """Do nothing; the network is not trained."""
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Compute the features that are missing from the store, and read all features.

        Args:
            X: Paths of image files, or URLs of objects in buckets; PIL images; or arrays, shape (N, height, width, 3),
                uint8 (a list may contain arrays of different sizes). Or IMAGES as in the commands: a folder, a list, a
                bucket or `tfds:...`; then rows are in path order.

        Returns:
            The features, shape (N, F), float32.

        Raises:
            RequestError: X is none of these, an image cannot be read, or a parameter is wrong.
            PipelineError: The store, the weights or a worker failed, or no image can be read.
        """
        _check_parameters(self)
        images = _as_images(X, self.resize)
        batch_size, workers = (None if number is None else int(number) for number in (self.batch_size, self.workers))
        sizes = {"batch_size": batch_size, "workers": workers}
        options = ExtractionOptions.from_values({**self.get_params(), **sizes, "quiet": True})
        features = extract_features(images, self._extractors(), options)
        if features.failed:
            named = "; ".join(f"{failure.path}: {failure.error}" for failure in features.failed[:NAMED])
            raise RequestError(
                f"{len(features.failed)} of {len(images)} images cannot be read, so they have no row: {named}. "
                "Leave them out of X, and their rows out of y."
            )
        return features.vectors()

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The names of the columns, each a layer and a number, such as "fc2_0"; shape (F,), object."""
        columns = [(extractor.layer, number) for extractor in self._extractors() for number in range(extractor.dim)]
        return np.array([f"{layer}_{number}" for layer, number in columns], object)

    def _extractors(self) -> tuple[Extractor, ...]:
        return ExtractorOptions.from_values(self.get_params()).extractors()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True  # of paths or images
        tags.input_tags.string = True
        tags.requires_fit = False
        tags.no_validation = True  # `transform` checks its images itself
        return tags


def _as_images(X: Any, resize: str) -> ImageSet:
    """The images of X, in its order."""
    if isinstance(X, str | Path):
        return find_images(X)
    if isinstance(X, Image.Image) or (isinstance(X, np.ndarray) and X.ndim == 3 and X.shape[2] == 3):
        raise RequestError("X is one image; for a list of one, write [image].")
    if hasattr(X, "columns") and len(X.columns) != 1:
        columns = ", ".join(map(repr, X.columns))
        raise RequestError(f"X is a table of {len(X.columns)} columns ({columns}); name the one of the images.")
    if len(getattr(X, "shape", ())) == 2 and X.shape[1] == 1:  # a one-column data frame
        X = np.asarray(X).ravel()
    try:
        items = list(X)
    except TypeError as error:
        raise RequestError(f"X must hold images; it is a {type(X).__name__}.") from error
    if not items:
        raise RequestError("X holds no images.")
    if all(isinstance(item, str | Path) for item in items):
        names = [as_text(str(item)) for item in items]
        return ImageSet("X", names, image_refs(items), [""] * len(items))
    if all(isinstance(item, Image.Image | np.ndarray) for item in items):
        return images_in_memory(items, resize)
    kinds = ", ".join(sorted({type(item).__name__ for item in items}))
    raise RequestError(f"X must hold paths, PIL images or uint8 arrays (N, height, width, 3), not {kinds}.")


class KerasDecoder(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Features -> embeddings: a Keras network, trained by the compiled training of `pipeline.decoders.training`.

    The defaults of layers and training are those of `train --preset network`.

    Args:
        hidden: Units of each hidden layer; a number for one layer.
        activation: Keras activation of the hidden layers.
        output_activation: Keras activation of the output.
        loss: Name of a Keras loss.
        optimizer: Name of a Keras optimizer.
        learning_rate: Its initial learning rate.
        schedule: "constant", or "cosine" for a decay to zero over the whole training.
        weight_decay: The optimizer's weight decay; None for 10 with "adamw" and 0 with other optimizers.
        epochs: Passes over the training images.
        batch_size: Images per step.
        api: The Keras API style, "functional" or "sequential"; both give the same predictions.
        random_state: Seed of the initial weights and of the shuffling; see scikit-learn's glossary.

    Attributes:
        model_: The decoder, a plain `keras.Model` from (N, F) to (N, D).
        history_: "loss": the mean training loss of each epoch; with a linear output, for targets scaled to a spread
            of 1.
        n_features_in_: F.
    """

    def __init__(
        self,
        hidden: Sequence[int] | int = NETWORK.decoder.hidden,
        activation: str = NETWORK.decoder.activation,
        output_activation: str = NETWORK.decoder.output_activation,
        loss: str = NETWORK.loss,
        optimizer: str = NETWORK.optimizer,
        learning_rate: float = NETWORK.learning_rate,
        schedule: str = NETWORK.schedule,
        weight_decay: float | None = None,
        epochs: int = NETWORK.epochs,
        batch_size: int = NETWORK.batch_size,
        api: ApiStyle = "functional",
        random_state: Any = None,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.output_activation = output_activation
        self.loss = loss
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.api = api
        self.random_state = random_state

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "hidden": ["array-like", POSITIVE],
        "activation": [str],
        "output_activation": [str],
        "loss": [str],
        "optimizer": [object],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "schedule": [StrOptions(SCHEDULES)],
        "weight_decay": [Interval(Real, 0, None, closed="left"), None],
        "epochs": [POSITIVE],
        "batch_size": [POSITIVE],
        "api": [StrOptions(set(API_STYLES))],
        "random_state": ["random_state"],
    }

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train from new initial weights.

        Args:
            X: Features, shape (N, F).
            y: Target embeddings, shape (N, D) or (N,).
            sample_weight: The weight of each image in the loss, shape (N,), non-negative; None for equal weights.
                Images of weight 0 are left out.

        Raises:
            RequestError: Keras does not know a name, or a parameter has the wrong type or is out of range.
            PipelineError: The loss became NaN or infinite.
        """
        _check_parameters(self)
        x, y = validate_data(self, X, y, dtype=DTYPES, multi_output=True, y_numeric=True)
        x, targets = x.astype(np.float32, copy=False), y.astype(np.float32).reshape(len(y), -1)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, x, dtype=np.float32, ensure_non_negative=True)
            counted = weights > 0
            if not counted.any():
                raise RequestError("sample_weight is 0 for all images; nothing is left to train on.")
            x, targets, weights = x[counted], targets[counted], weights[counted] / weights[counted].mean()
        config = self._config()
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        scale = target_scale(targets, config.decoder.output_activation)
        targets = targets / np.float32(scale)
        mean = np.average(targets, axis=0, weights=weights).astype(np.float32)
        model = build_decoder(config.decoder, self.api, x, mean[None], seed)
        # Nothing is held out: scikit-learn's splits do that. Validation on one row costs little.
        data = TrainingData(x, targets, x[:1], targets[:1], weights=weights)
        history = fit({"decoder": model}, data, config, seed)["decoder"]
        multiply_output(model, scale)
        self.model_, self.history_ = model, {"loss": history.curves["loss"]}
        self._is_flat = y.ndim == 1
        return self

    def _config(self) -> TrainingConfig:
        decay = self.weight_decay
        if decay is None:
            decay = NETWORK.weight_decay if self.optimizer == NETWORK.optimizer else 0.0
        return TrainingConfig(
            DecoderSpec(self._sizes(), self.activation, self.output_activation),
            epochs=int(self.epochs),
            batch_size=int(self.batch_size),
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            schedule=self.schedule,  # type: ignore[arg-type]
            loss=self.loss,
            weight_decay=decay,
        )

    def _sizes(self) -> tuple[int, ...]:
        """The units of the hidden layers as Python integers, which Keras requires."""
        sizes = np.atleast_1d(np.asarray(self.hidden, object))
        if sizes.ndim != 1 or not all(isinstance(units, Integral) for units in sizes):
            raise RequestError(f"hidden must be a number of units or a sequence of them, not {self.hidden!r}.")
        return tuple(map(int, sizes))

    def predict(self, X: Any) -> np.ndarray:
        """Predict embeddings.

        Args:
            X: Features, shape (N, F).

        Returns:
            Shape (N, D), in the dtype of X, float32 or float64; shape (N,) if y had that shape.
        """
        check_is_fitted(self)
        x = validate_data(self, X, reset=False, dtype=DTYPES)
        # Blocks of a fixed size, so that a prediction does not depend on the number of other rows.
        padded = np.pad(x.astype(np.float32, copy=False), ((0, -len(x) % READ_AT_ONCE), (0, 0)))
        predictions = predict(self.model_, padded)[: len(x)].astype(x.dtype, copy=False)
        return predictions.ravel() if self._is_flat else predictions

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The mean cosine to the targets, from -1 to 1; for R², use `scoring="r2"` in scikit-learn's tools.

        Args:
            X: Features, shape (N, F).
            y: Target embeddings, shape (N, D) or (N,).
            sample_weight: The weight of each image in the mean, shape (N,).
        """
        predictions, targets = self.predict(X), np.asarray(y)
        check_consistent_length(predictions, targets, sample_weight)
        rows = len(targets)
        values = cosines(predictions.reshape(rows, -1), targets.reshape(rows, -1))
        return float(np.average(values, weights=sample_weight))
