"""scikit-learn's view of the pipeline: VGG16 as a transformer, a Keras decoder as a regressor."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.vectors import cosines
from pipeline.data.images import ImageSet, as_text, file_ref
from pipeline.data.sources import find_images
from pipeline.decoders.compilation import compile_decoders
from pipeline.decoders.config import TrainingConfig
from pipeline.decoders.spec import API_STYLES, ApiStyle, DecoderSpec, build_decoder
from pipeline.decoders.streaming import epoch_order
from pipeline.decoders.training import TrainingData, fit, predict
from pipeline.features.extraction import ExtractionOptions, extract_features
from pipeline.features.extractor import Extractor
from pipeline.features.in_memory import images_in_memory
from pipeline.features.weights import weights_from


class VGG16Features(TransformerMixin, BaseEstimator):
    """Images -> VGG16 features, through the feature store: what it holds is not computed again.

    Args:
        weights: See `pipeline.features.weights.weights_from`.
        layer: See `Extractor`.
        precision: See `Extractor`.
        engine: See `ExtractionOptions`; so for the next four.
        batch_size: Images in a batch.
        workers: Processes that read and decode.
        cache: The folder of the feature stores; None for the usual one.
        progress: Whether to show the progress on stderr.
    """

    def __init__(
        self,
        weights: str = "imagenet",
        layer: str = "fc2",
        precision: str = "float32",
        engine: str = "auto",
        batch_size: int | None = None,
        workers: int | None = None,
        cache: str | Path | None = None,
        progress: bool = False,
    ) -> None:
        self.weights = weights
        self.layer = layer
        self.precision = precision
        self.engine = engine
        self.batch_size = batch_size
        self.workers = workers
        self.cache = cache
        self.progress = progress

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True  # X holds images, not numbers; `transform` checks them itself
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def fit(self, X: Any, y: Any = None) -> Self:
        """Do nothing: there is nothing to learn."""
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The features of images.

        Args:
            X: A source of `find_images` (a folder, a list), or N images: paths, `PIL.Image.Image`s, or an array of RGB
                pixels, shape (N, H, W, 3), uint8.

        Returns:
            Shape (N, F), float32, in the order of X; that of a folder is path order.

        Raises:
            RequestError: X is not as described, or a parameter is wrong.
            PipelineError: An image cannot be read (leaving it out would put rows out of step), or the stage failed.
        """
        images = _as_images(X)
        place = {} if self.cache is None else {"cache": Path(self.cache)}
        options = ExtractionOptions(self.engine, self.batch_size, self.workers, progress=self.progress, **place)
        features = extract_features(images, self._extractor(), options)
        if features.failed:
            first = features.failed[0]
            raise PipelineError(
                f"{len(features.failed)} of {len(images)} images cannot be read; the first is {first.path}: "
                f"{first.error}. Leave them out of X, and their rows out of y."
            )
        return features.vectors()

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The names of the columns: fc2_0, fc2_1, ... for the layer fc2; shape (F,), object."""
        return np.array([f"{self.layer}_{number}" for number in range(self._extractor().dim)], object)

    def _extractor(self) -> Extractor:
        return Extractor(weights_from(self.weights), self.layer, self.precision)


def _as_images(X: Any) -> ImageSet:
    if isinstance(X, str | Path):
        return find_images(X)
    images: Sequence[Any] = X if isinstance(X, np.ndarray) else list(X)
    if not len(images):
        raise RequestError("X holds no images.")
    if not all(isinstance(each, str | Path) for each in images):
        return images_in_memory(images)
    names = [as_text(str(each)) for each in images]
    return ImageSet("X", names, [file_ref(Path(each)) for each in images], [""] * len(names))


class KerasDecoder(RegressorMixin, BaseEstimator):
    """A fully connected Keras network from features to embeddings, trained as `train --preset network` does.

    Args:
        hidden: See `DecoderSpec`; so for the next two.
        activation: Activation of the hidden layers.
        output_activation: Activation of the output.
        loss: See `TrainingConfig`; so for the next six.
        optimizer: Name of a Keras optimizer.
        learning_rate: Its learning rate at the start.
        schedule: "constant" or "cosine".
        weight_decay: The optimizer's weight decay.
        epochs: Passes over the training rows.
        batch_size: Rows a step.
        api: "functional" or "sequential".
        random_state: Seed of initial weights and shuffling, as scikit-learn takes it.

    Attributes:
        model_: The trained network, a plain `keras.Model`.
        history_: The loss of each epoch, {"loss": [...]}.
        n_features_in_: F, the dimension of a feature.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (256,),
        activation: str = "relu",
        output_activation: str = "linear",
        loss: str = "mse",
        optimizer: str = "adamw",
        learning_rate: float = 1e-3,
        schedule: str = "cosine",
        weight_decay: float = 10.0,
        epochs: int = 100,
        batch_size: int = 32,
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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.non_deterministic = self.random_state is None
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train a new network.

        Args:
            X: Features, shape (N, F).
            y: Embeddings, shape (N, D), or one number for each row, shape (N,).
            sample_weight: A weight of each row's loss, shape (N,). Weighted training takes Keras's `fit`, which is
                slower than the compiled training; a row of weight 0 is left out.

        Returns:
            The decoder itself.

        Raises:
            RequestError: A hyperparameter is wrong.
            Diverged: The loss became NaN or infinite.
        """
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float32)
        self._is_flat = y.ndim == 1
        y = np.asarray(y, np.float32).reshape(len(X), -1)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X, dtype=np.float32, ensure_non_negative=True)
            X, y, weights = X[weights > 0], y[weights > 0], weights[weights > 0]
        if self.api not in API_STYLES:
            raise RequestError(f"api {self.api!r} is unknown; choose from {', '.join(API_STYLES)}.")
        config = self._config()
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.model_ = build_decoder(config.decoder, self.api, X, y, seed)
        if weights is None:
            nothing = TrainingData(X, y, X[:1], y[:1])  # the trainer scores epochs on some rows; they choose nothing
            losses = fit({"decoder": self.model_}, nothing, config, seed)["decoder"].curves["loss"]
        else:
            losses = _fit_weighted(self.model_, X, y, weights, config, seed)
        self.history_ = {"loss": losses}
        return self

    def _config(self) -> TrainingConfig:
        return TrainingConfig(
            DecoderSpec(tuple(self.hidden), self.activation, self.output_activation),
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            schedule=self.schedule,  # type: ignore[arg-type]
            loss=self.loss,
            weight_decay=self.weight_decay,
        )

    def predict(self, X: Any) -> np.ndarray:
        """Predict embeddings.

        Args:
            X: Features, shape (N, F).

        Returns:
            Shape (N, D), or (N,) if `y` was one number for each row; float32.
        """
        check_is_fitted(self)
        predictions = predict(self.model_, validate_data(self, X, reset=False, dtype=np.float32))
        return predictions[:, 0] if self._is_flat else predictions

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The mean cosine of predictions and targets, from -1 to 1; R² is `scoring="r2"` of scikit-learn's tools."""
        y = np.asarray(y)
        found = cosines(self.predict(X).reshape(len(y), -1), y.reshape(len(y), -1))
        return float(np.average(found, weights=sample_weight))


def _fit_weighted(
    model: Any, x: np.ndarray, y: np.ndarray, weights: np.ndarray, config: TrainingConfig, seed: int
) -> list[float]:
    """Train a decoder on weighted rows, in the order of the compiled training; the loss of each epoch."""
    compile_decoders({"decoder": model}, config, len(x))
    losses = []
    for epoch in range(config.epochs):
        order = epoch_order(len(x), seed, epoch)
        once = model.fit(x[order], y[order], config.batch_size, sample_weight=weights[order], shuffle=False, verbose=0)
        losses += once.history["loss"]
    return losses
