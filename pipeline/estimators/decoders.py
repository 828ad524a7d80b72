"""`BlendDecoder` and `KerasDecoder`: features -> embeddings."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, check_is_fitted, validate_data

from pipeline.core.errors import RequestError
from pipeline.core.vectors import READ_AT_ONCE, cosines
from pipeline.decoders.blend import BlendConfig
from pipeline.decoders.fitting import fit_decoders
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
from pipeline.estimators.parameters import POSITIVE, check_parameters

DTYPES = (np.float64, np.float32)  # of predictions; the network computes in float32
SCHEDULES = {"constant", "cosine"}
BLEND = BlendConfig()


class _Decoder(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """What decoders share: data in, and predictions and scores out of `model_`, a `keras.Model`."""

    def _validated(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Features (N, F) and targets (N, D), float32; remembers whether y has the shape (N,)."""
        x, y = validate_data(self, X, y, dtype=DTYPES, multi_output=True, y_numeric=True)
        self._is_flat = y.ndim == 1
        return x.astype(np.float32, copy=False), y.astype(np.float32).reshape(len(y), -1)

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


class BlendDecoder(_Decoder):
    """Features -> embeddings: the decoder that `train` fits by default, a blend with automatic regularization.

    See `pipeline.decoders.blend`. Fitted to the same rows in the same order, with the same seed, it has the weights of
    that of `train`. `train` also keeps near-duplicates in one fold, for which `groups` is, and scales several layers
    alike.

    Args:
        weight_decays: The weight decays of its networks; empty for a blend of ridge regression and random ramps only,
            which takes a fraction of the time.
        ramps: The number of random ramps.
        api: The Keras API style, "functional" or "sequential"; both give the same predictions.
        random_state: The seed, as `--seed` of `train`; or see scikit-learn's glossary.

    Attributes:
        model_: The decoder, a plain `keras.Model` from (N, F) to (N, D).
        shares_: Candidate -> its share; all 0 if the blend is the mean target. Empty for a single image, and if the
            features do not fit into memory as a blend, so that a single network was trained; a warning is logged.
        n_features_in_: F.
    """

    def __init__(
        self,
        weight_decays: Sequence[float] = BLEND.weight_decays,
        ramps: int = BLEND.ramps,
        api: ApiStyle = "functional",
        random_state: Any = 0,
    ) -> None:
        self.weight_decays = weight_decays
        self.ramps = ramps
        self.api = api
        self.random_state = random_state

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "weight_decays": ["array-like"],
        "ramps": [POSITIVE],
        "api": [StrOptions(set(API_STYLES))],
        "random_state": ["random_state"],
    }

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Fit the blend.

        Args:
            X: Features, shape (N, F).
            y: Target embeddings, shape (N, D) or (N,).
            groups: A label for each image, shape (N,); images with the same label, such as those of an object, are on
                one side of every fold that regularization is chosen by. None if all differ. With scikit-learn's
                metadata routing, request it by `set_fit_request(groups=True)`.

        Raises:
            RequestError: A parameter has the wrong type or is out of range, or the groups have another shape.
        """
        check_parameters(self)
        x, targets = self._validated(X, y)
        units = None
        if groups is not None:
            check_consistent_length(x, groups)
            labels = np.asarray(groups)
            if labels.ndim != 1:
                raise RequestError(f"groups must have one label per image, shape (N,), not {labels.shape}.")
            units = np.unique(labels, return_inverse=True)[1]
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(2**31 - 1)
        config = BlendConfig(self._decays(), ramps=int(self.ramps))
        # Nothing is held out: scikit-learn's splits do that.
        fitted = fit_decoders(TrainingData(x, targets, x[:1], targets[:1]), config, [self.api], units, int(seed))
        self.model_, self.shares_ = fitted.models[self.api], dict(fitted.shares)
        return self

    def _decays(self) -> tuple[float, ...]:
        """The weight decays as Python floats."""
        decays = np.asarray(self.weight_decays, object)
        if decays.ndim != 1 or not all(isinstance(decay, Real) and 0 <= float(decay) < np.inf for decay in decays):
            raise RequestError(
                f"weight_decays must be a sequence of numbers of at least 0, not {self.weight_decays!r}."
            )
        return tuple(map(float, decays))


class KerasDecoder(_Decoder):
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
        check_parameters(self)
        x, targets = self._validated(X, y)
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
