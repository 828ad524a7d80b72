"""Decoders: one specification, built in both of Keras's API styles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.core.errors import RequestError, first_line
from pipeline.core.keras_backend import import_keras
from pipeline.core.vectors import Vectors, moments
from pipeline.decoders.coordinates import spread

ApiStyle = Literal["functional", "sequential"]
API_STYLES: tuple[ApiStyle, ...] = ("functional", "sequential")

# Output activations that are never negative. The others reach every direction, so their output ceiling is 1.
NOT_NEGATIVE = ("sigmoid", "relu", "softplus", "softmax", "exponential")
OUTPUT_ACTIVATIONS = ("linear", "tanh", *NOT_NEGATIVE)


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
    y = np.asarray(targets, np.float64)
    norms = np.linalg.norm(y, axis=1)
    if output_activation not in NOT_NEGATIVE:
        return float((norms > 0).mean())
    positive = np.linalg.norm(np.maximum(y, 0), axis=1)
    best = np.where(positive > 0, positive, y.max(axis=1))
    return float(np.divide(best, norms, out=np.zeros_like(norms), where=norms > 0).mean())
