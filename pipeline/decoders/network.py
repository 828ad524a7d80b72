"""A decoder as a Keras network: its layers in both API styles, training settings, compilation and predictions.

One specification gives the same weights in either style.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.core.errors import Parameter, RequestError, first_line
from pipeline.core.keras_backend import import_keras
from pipeline.core.vectors import Vectors, in_blocks, moments, slices, spread

ApiStyle = Literal["functional", "sequential"]
API_STYLES: tuple[ApiStyle, ...] = ("functional", "sequential")

# Output activations that are never negative. The others reach every direction, so their output ceiling is 1.
NOT_NEGATIVE = ("sigmoid", "relu", "softplus", "softmax", "exponential")
OUTPUT_ACTIVATIONS = ("linear", "tanh", *NOT_NEGATIVE)
# Activations f with f(c * x) = c * f(x) for c > 0: the scale moves into the weights. The others have a fixed range, so
# targets are not scaled for them.
HOMOGENEOUS = ("linear", "relu")


@dataclass(frozen=True)
class DecoderSpec:
    """A decoder: fully connected layers from a feature to an embedding.

    Attributes:
        hidden: Units of each hidden layer.
        activation: Keras activation of the hidden layers.
        output_activation: Keras activation of the output, one of OUTPUT_ACTIVATIONS.
        initializer: Keras initializer of the kernels; biases start at zero.
        normalize: Whether a first layer centres the features on their mean over the training images and divides all of
            them by one number, the root of their mean variance. (Dividing each feature by its own deviation would
            amplify features that are almost always zero.)
        start_at_mean: Whether a linear output layer starts as the mean baseline (kernel zero, bias the mean training
            target), so that training only adds what the features contribute.
    """

    hidden: tuple[int, ...]
    activation: str = "relu"
    output_activation: str = "linear"
    initializer: str = "he_normal"
    normalize: bool = True
    start_at_mean: bool = True

    def __post_init__(self) -> None:
        if self.output_activation not in OUTPUT_ACTIVATIONS:
            raise RequestError(
                f"output_activation {self.output_activation!r} is unknown; choose from {', '.join(OUTPUT_ACTIVATIONS)}."
            )
        if any(units < 1 for units in self.hidden):
            raise RequestError(f"hidden takes layer sizes of at least 1, not {','.join(map(str, self.hidden))}.")

    @property
    def starts_at_mean(self) -> bool:
        """Whether the output layer really starts at the mean target; only a linear one can."""
        return self.start_at_mean and self.output_activation == "linear"


def build_decoder(spec: DecoderSpec, style: ApiStyle, x: Vectors, y: np.ndarray, seed: int) -> Any:
    """Build a decoder; the same arguments give the same initial weights in both API styles.

    Args:
        spec: The layers.
        style: "functional" or "sequential".
        x: Training features, shape (N, F), float32; the first layer uses their mean and variance.
        y: Training targets, shape (N, D), float32; the output layer may start at their mean.
        seed: Random seed of the initial weights.

    Returns:
        A `keras.Model` from (N, F) to (N, D), not compiled.

    Raises:
        RequestError: Keras does not know the activation or the initializer.
    """
    try:
        layers = _layers(spec, x, y.shape[1], seed)
    except (ValueError, TypeError) as error:
        raise RequestError(f"The decoder cannot be built: {first_line(error)}") from error
    model = stack_layers(layers, style, x.shape[1])
    if spec.starts_at_mean:
        output = model.layers[-1]
        output.set_weights([np.zeros(output.kernel.shape), y.mean(axis=0)])
    return model


def stack_layers(layers: Sequence[Any], style: ApiStyle, features: int) -> Any:
    """Stack Keras layers in an API style.

    Args:
        layers: The layers, in order.
        style: "functional" or "sequential".
        features: F, the dimension of the features.

    Returns:
        A `keras.Model` from (N, F), not compiled.
    """
    keras = import_keras()
    inputs = keras.Input((features,), name="feature")
    if style == "sequential":
        return keras.Sequential([inputs, *layers], name=style)
    outputs = inputs
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs, name=style)


def _layers(spec: DecoderSpec, x: Vectors, dim: int, seed: int) -> list:
    """The layers of a decoder, in order, each with its own seed."""
    keras = import_keras()
    layers = []
    if spec.normalize:
        mean, variance = moments(x)
        layers.append(keras.layers.Normalization(mean=mean, variance=np.full(x.shape[1], spread(mean, variance) ** 2)))
    sizes = [*zip(spec.hidden, [spec.activation] * len(spec.hidden), strict=True), (dim, spec.output_activation)]
    for number, (units, activation) in enumerate(sizes):
        initializer = keras.initializers.get(spec.initializer)
        if hasattr(initializer, "seed"):
            initializer = type(initializer)(**initializer.get_config() | {"seed": seed + number})
        layers.append(keras.layers.Dense(units, activation, kernel_initializer=initializer))
    return layers


def output_ceiling(output_activation: str, targets: np.ndarray) -> float:
    """The highest mean cosine that any decoder with this output activation can reach.

    An output without negative values lies in the positive orthant. The nearest unit vector there to a target y is
    max(y, 0), normalized, with a cosine of ||max(y, 0)|| / ||y||; if y has no positive component, it is the axis of the
    largest component. Signed activations reach every direction.

    Args:
        output_activation: One of OUTPUT_ACTIVATIONS.
        targets: Shape (N, D); a zero vector counts as 0.

    Returns:
        The mean ceiling over the targets, at most 1.
    """
    if output_activation not in NOT_NEGATIVE:
        return float(targets.any(axis=1).mean())
    ceilings = np.zeros(len(targets))
    for rows in slices(*targets.shape):
        y = np.asarray(targets[rows], np.float64)
        norms, positive = np.linalg.norm(y, axis=1), np.linalg.norm(np.maximum(y, 0), axis=1)
        best = np.where(positive > 0, positive, y.max(axis=1))
        np.divide(best, norms, out=ceilings[rows], where=norms > 0)
    return float(ceilings.mean())


@dataclass(frozen=True)
class TrainingConfig:
    """The layers of a decoder and how they are trained.

    Attributes:
        decoder: The layers.
        epochs: Passes over the training images.
        batch_size: Images per step.
        optimizer: Name of a Keras optimizer, or a new `keras.optimizers.Optimizer`, which then keeps its own learning
            rate or schedule.
        learning_rate: The initial learning rate.
        schedule: "constant", or "cosine" for a decay to zero over the whole training (Loshchilov and Hutter 2017).
        loss: Name of a Keras loss.
        weight_decay: The optimizer's weight decay; 0 for none.
        keep: Which weights to keep: those of the "last" epoch, or of the epoch with the "best" validation cosine.
        patience: Stop after this many epochs in a row without a better validation cosine; None never stops early. Needs
            `keep="best"`.
    """

    decoder: DecoderSpec
    epochs: int
    batch_size: int = 32
    optimizer: Any = "adam"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    loss: str = "mse"
    weight_decay: float = 0.0
    keep: Literal["last", "best"] = "last"
    patience: int | None = None

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "TrainingConfig":
        """Rebuild a config from `dataclasses.asdict` after a round trip through JSON."""
        decoder = DecoderSpec(**{**document["decoder"], "hidden": tuple(document["decoder"]["hidden"])})
        return cls(**{**document, "decoder": decoder})

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise RequestError(f"epochs must be at least 1, not {self.epochs}.")
        if not self.learning_rate > 0:
            raise RequestError(f"learning_rate must be above 0, not {self.learning_rate}.")
        if not self.weight_decay >= 0:
            raise RequestError(f"weight_decay must be at least 0, not {self.weight_decay}.")
        if self.batch_size < 1:
            raise RequestError(f"batch_size must be at least 1, not {self.batch_size}.")
        if self.patience is not None and self.keep != "best":
            raise RequestError(
                "patience counts the epochs since the best one; it needs ", Parameter("keep", "best"), "."
            )


NETWORK = TrainingConfig(DecoderSpec(hidden=(256,)), epochs=100, optimizer="adamw", weight_decay=10.0)
# The network of the original question: 4096-256-256-256-200, all sigmoid, MSE, Adam 0.01; 1,231,816 parameters.
ORIGINAL = TrainingConfig(
    DecoderSpec((256, 256, 256), "sigmoid", "sigmoid", "glorot_uniform", normalize=False, start_at_mean=False),
    epochs=2000,
    learning_rate=0.01,
    schedule="constant",
)


def compile_decoders(models: Mapping[str, Any], config: TrainingConfig, rows: int) -> None:
    """Compile each decoder with the loss and its own optimizer.

    Args:
        models: Name -> `keras.Model`.
        config: Optimizer, learning rate, schedule, loss, batch size and number of epochs.
        rows: The number of training images; it sets the length of the schedule.

    Raises:
        RequestError: Keras does not know the optimizer or loss, or several decoders share one optimizer.
    """
    keras = import_keras()
    if not isinstance(config.optimizer, str):
        _refuse_shared(config.optimizer, len(models))
    for model in models.values():
        optimizer = _named_optimizer(config, rows) if isinstance(config.optimizer, str) else config.optimizer
        try:
            loss = keras.losses.get("cosine_similarity" if config.loss == "cosine" else config.loss)
            model.compile(optimizer=optimizer, loss=loss)
            probe = keras.ops.ones((1, model.output_shape[-1]))
            model.compute_loss(y=probe, y_pred=probe)
        except Exception as error:  # Keras and its backends raise many types of errors for an unsuitable loss
            raise RequestError(f"The decoder cannot be compiled: {first_line(error)}") from error


def check_names(config: TrainingConfig) -> None:
    """Reject names that Keras does not know by compiling a tiny decoder, before any image is read.

    Args:
        config: The layers and their training; an optimizer object is not checked.

    Raises:
        RequestError: Keras does not know the activation, the initializer, the optimizer or the loss.
    """
    x, y = np.zeros((1, 1), np.float32), np.zeros((1, 2), np.float32)
    spec = dataclasses.replace(config.decoder, hidden=(1,) * len(config.decoder.hidden))
    model = build_decoder(spec, "sequential", x, y, seed=0)
    if isinstance(config.optimizer, str):
        compile_decoders({"sequential": model}, config, rows=1)


def _named_optimizer(config: TrainingConfig, rows: int) -> Any:
    """Create the optimizer that the config names, with its schedule."""
    keras = import_keras()
    try:
        optimizer = type(keras.optimizers.get(config.optimizer))
    except (ValueError, TypeError, KeyError) as error:  # KeyError: an optimizer that wraps another
        raise RequestError(
            f"optimizer {config.optimizer!r} is unknown; use a Keras optimizer, such as adam, adamw or sgd."
        ) from error
    rate = config.learning_rate
    if config.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, config.epochs * math.ceil(rows / config.batch_size))
    decay = {"weight_decay": config.weight_decay} if config.weight_decay else {}
    return optimizer(learning_rate=rate, **decay)


def _refuse_shared(optimizer: Any, decoders: int) -> None:
    steps = int(optimizer.iterations)
    if decoders > 1 or optimizer.built:
        count = f", now at {steps}" if steps else ""
        raise RequestError(
            f"One {type(optimizer).__name__} cannot train several decoders. It has a step counter{count}, and Adam "
            "uses the counter to correct the bias of its averages. The second decoder would start without that "
            "correction: its first steps would be about three times too large and would saturate sigmoid layers "
            "(`python -m pipeline compare` shows it). Give each decoder its own optimizer: a name such as 'adam', or "
            "a new object for each call of fit."
        )


def target_scale(y: np.ndarray, output_activation: str) -> float:
    """The number to divide targets by: the root of their mean variance.

    A network is trained on targets of spread 1 and predicts in the user's units. Otherwise the learning rate, the
    weight decay and the loss's constants would make scores depend on the targets' unit.

    Args:
        y: Training targets, shape (N, D).
        output_activation: The network's output activation; for one with a fixed range the scale is 1.

    Returns:
        The scale; for equal targets their root mean square, and 1 if all are zero.
    """
    if output_activation not in HOMOGENEOUS:
        return 1.0
    wide = y.astype(np.float64)
    scale = float(np.sqrt(np.square(wide - wide.mean(axis=0)).mean()))
    size = float(np.sqrt(np.square(wide).mean()))
    return (scale if scale > np.finfo(np.float32).eps * size else size) or 1.0


def multiply_output(model: Any, scale: float) -> None:
    """Multiply a network's predictions by a number; its output activation must be one of HOMOGENEOUS."""
    if scale != 1:
        output = model.layers[-1]
        output.set_weights([weight * np.float32(scale) for weight in output.get_weights()])


def predict(model: Any, x: Vectors) -> np.ndarray:
    """A decoder's predictions.

    Args:
        model: The decoder.
        x: Features, shape (N, F), float32.

    Returns:
        Predicted embeddings, shape (N, D), float32.
    """
    convert = import_keras().ops.convert_to_numpy
    # Not `model.predict`, which compiles a function for each model and shape; that costs more than it saves here.
    predicted, start = np.empty((len(x), model.output_shape[-1]), np.float32), 0
    for block in in_blocks(x):
        predicted[start : start + len(block)] = convert(model(block, training=False))
        start += len(block)
    return predicted


@dataclass(frozen=True)
class Predictions:
    """A decoder's predictions, computed on access and indexed like an array: `predictions[rows]`.

    Attributes:
        model: The decoder, a `keras.Model` from (N, F) to (N, D).
        x: Features, shape (N, F), float32.
    """

    model: Any
    x: Vectors

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return len(self.x), self.model.output_shape[-1]

    @property
    def dtype(self) -> np.dtype:
        """float32."""
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return predict(self.model, self.x[rows])
