"""An extractor, and the fingerprint that identifies it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.errors import RequestError
from pipeline.data.decoding import RESIZES, SIDE
from pipeline.data.spelling import near_spellings
from pipeline.features.pooling import Pooling
from pipeline.features.projection import Projection
from pipeline.features.vgg16 import (
    PRE,
    PRECISIONS,
    PREPROCESSING,
    Arrays,
    activation_shapes,
    base_layer,
    deepest,
    weighted_layers,
)
from pipeline.features.weights import Weights


@dataclass(frozen=True)
class Extractor:
    """What turns pixels into a feature: weights, layer, pooling, projection, resize and precision.

    Two extractors with the same fingerprint give the same features up to rounding, on any engine.

    Attributes:
        weights: Where VGG16's weights come from.
        layer: The layer whose activation is the feature, by its Keras name; with ":pre" the value before the ReLU, or
            before the softmax of `predictions`.
        precision: The precision of VGG16's arithmetic, one of `pipeline.features.vgg16.PRECISIONS`.
        pool: For a layer with positions: "mean" (unless given), "max", "grid:N" or "flat".
        project: "DIM" or "DIM:SEED": a sparse random projection of the pooled layer.
        resize: How an image becomes 224 x 224 pixels, a key of `pipeline.data.decoding.RESIZES`.

    Raises:
        RequestError: One of these is unknown, or they do not fit each other.
    """

    weights: Weights
    layer: str = "fc2"
    precision: str = "float32"
    pool: str | None = None
    project: str | None = None
    resize: str = "squash"

    def __post_init__(self) -> None:
        _check_layer(self.layer)
        if self.precision not in PRECISIONS:
            raise RequestError(f"precision {self.precision!r} is unknown; choose from {', '.join(PRECISIONS)}.")
        if self.resize not in RESIZES:
            raise RequestError(f"resize {self.resize!r} is unknown; choose from {', '.join(RESIZES)}.")
        if self.pool and not self.has_positions:
            raise RequestError(
                f"pool {self.pool!r} does not fit layer {self.layer!r}, which has no positions; "
                "leave it out, or choose a convolutional layer."
            )
        if self.pooling and self.pooling.sides(self.side) > self.side:
            raise RequestError(
                f"pool {self.pool!r} has more cells than layer {self.layer!r} has positions, {self.side} x {self.side}."
            )
        if self.projection and self.projection.dim > self.pooled_dim:
            raise RequestError(
                f"project {self.project!r} is larger than layer {self.layer!r}, whose features have "
                f"{self.pooled_dim:,} numbers."
            )

    @property
    def has_positions(self) -> bool:
        """Whether the layer is convolutional: a number for each position and channel."""
        return len(self._shape) == 3

    @property
    def side(self) -> int:
        """How many positions the layer has each way; 1 for a dense one."""
        return self._shape[0] if self.has_positions else 1

    @property
    def pooling(self) -> Pooling | None:
        """The pooling; None for a dense layer."""
        return Pooling.parse(self.pool or "mean") if self.has_positions else None

    @property
    def projection(self) -> Projection | None:
        """The projection, if there is one."""
        return Projection.parse(self.project) if self.project else None

    @property
    def _shape(self) -> tuple[int, ...]:
        return activation_shapes()[base_layer(self.layer)]

    @property
    def pooled_dim(self) -> int:
        """The dimension before a projection."""
        return self._shape[-1] * (self.pooling.sides(self.side) ** 2 if self.pooling else 1)

    @property
    def dim(self) -> int:
        """The dimension of a feature."""
        return self.projection.dim if self.projection else self.pooled_dim

    @property
    def description(self) -> dict[str, str]:
        """Everything that the features depend on; mean pooling, and no projection, go without saying."""
        described = {
            "network": "vgg16",
            "weights": self.weights.digest,
            "layer": self.layer,
            "image": f"{RESIZES[self.resize]}-{SIDE}x{SIDE}",
            "preprocessing": PREPROCESSING,
            "precision": self.precision,
        }
        if self.pooling and self.pooling != Pooling():
            described["pool"] = str(self.pooling)
        if self.projection:
            described["project"] = str(self.projection)
        return described

    @property
    def fingerprint(self) -> str:
        """A hash of the description, 16 hexadecimal digits; it names the feature store."""
        return hashlib.blake2b(json.dumps(self.description).encode(), digest_size=8).hexdigest()


def extractors_for(
    weights: Weights,
    layers: str = "fc2",
    precision: str = "float32",
    pool: str | None = None,
    project: str | None = None,
    resize: str = "squash",
) -> list[Extractor]:
    """An extractor for each of several layers, which engines run in one pass.

    Args:
        weights: See `Extractor`.
        layers: Layers, separated by commas.
        precision: See `Extractor`.
        pool: The pooling of those layers that have positions.
        project: See `Extractor`.
        resize: See `Extractor`.

    Returns:
        The extractors, in the order of the layers.

    Raises:
        RequestError: A layer is named twice, `pool` is given and no layer has positions, or as `Extractor` raises.
    """
    names = [name.strip() for name in layers.split(",")]
    for name in names:
        _check_layer(name)
        if names.count(name) > 1:
            raise RequestError(f"layer {name!r} is named twice.")
    shapes = activation_shapes()
    dense = {name for name in names if len(shapes[base_layer(name)]) == 1}
    none_pooled = len(dense) == len(names)
    return [
        Extractor(weights, name, precision, None if name in dense and not none_pooled else pool, project, resize)
        for name in names
    ]


def read_weights(extractors: Sequence[Extractor]) -> Arrays:
    """Read the weights that extractors, which share them, need."""
    return extractors[0].weights.read(deepest(extractor.layer for extractor in extractors))


def _check_layer(layer: str) -> None:
    """Refuse a layer that VGG16 lacks, and a value before the activation of a layer that has none."""
    layers = activation_shapes()
    name = base_layer(layer)
    if name not in layers:
        near = near_spellings({name: [name.lower()]}, layers)[name]
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose from {', '.join(layers)}."
        raise RequestError(f"layer {layer!r} is unknown; {hint}")
    if layer.endswith(PRE) and name not in weighted_layers(name):
        raise RequestError(f"layer {layer!r}: {name} has no activation, so no value before it; leave {PRE!r} out.")
