"""An extractor, and the fingerprint that identifies it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.core.errors import RequestError
from pipeline.data.decoding import RESIZES, SIDE
from pipeline.data.spelling import near_spellings
from pipeline.features.pooling import Pooling
from pipeline.features.projection import Projection
from pipeline.features.vgg16 import (
    CALIBRATION,
    PRE,
    PRECISIONS,
    PREPROCESSING,
    Arrays,
    activation_shapes,
    base_layer,
    deepest,
    weighted_layers,
)
from pipeline.features.weights import Weights, default_weights, weights_from


@dataclass(frozen=True)
class Extractor:
    """The computation from pixels to a feature: weights, layers, pooling, projection, resize and precision.

    Extractors with the same fingerprint compute the same features up to rounding, on any engine.

    Attributes:
        weights: The source of VGG16's weights.
        layer: The layer whose activation is the feature, by its Keras name; with ":pre" the value before the ReLU, or
            before the softmax of `predictions`. The features of several layers, separated by commas, are concatenated.
        precision: The precision of VGG16's arithmetic, one of `pipeline.features.vgg16.PRECISIONS`.
        pool: For layers with positions: "mean" (the default), "max", "grid:N" or "flat".
        project: "DIM" or "DIM:SEED": a sparse random projection of each pooled layer.
        resize: How an image becomes 224 x 224 pixels, a key of `pipeline.data.decoding.RESIZES`.

    Raises:
        RequestError: A setting is unknown, or the settings do not fit each other.
    """

    weights: Weights
    layer: str = "fc2"
    precision: str = "float32"
    pool: str | None = None
    project: str | None = None
    resize: str = "squash"

    def __post_init__(self) -> None:
        _check_layers(self.layers)
        if self.precision not in PRECISIONS:
            raise RequestError(f"precision {self.precision!r} is unknown; choose from {', '.join(PRECISIONS)}.")
        if self.precision == "int8" and any(layer.endswith(PRE) for layer in self.layers):
            raise RequestError(
                f"precision 'int8' has no values before an activation; leave {PRE!r} out, or use float32."
            )
        if self.resize not in RESIZES:
            raise RequestError(f"resize {self.resize!r} is unknown; choose from {', '.join(RESIZES)}.")
        if self.pool and not any(map(_has_positions, self.layers)):
            raise RequestError(
                f"pool {self.pool!r} does not fit layer {self.layer!r}, which has no positions; "
                "leave it out, or choose a convolutional layer."
            )
        if len(self.layers) > 1:
            _ = self.parts  # checks each layer
            return
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
    def layers(self) -> list[str]:
        """The layers, in their order in `layer`."""
        return [layer.strip() for layer in self.layer.split(",")]

    @property
    def parts(self) -> list["Extractor"]:
        """An extractor per layer; engines run them in one pass. All properties below but `dim` need a single layer."""
        if len(self.layers) == 1:
            return [self]
        return [replace(self, layer=name, pool=self.pool if _has_positions(name) else None) for name in self.layers]

    @property
    def side(self) -> int:
        """The number of positions along each axis; 1 for a dense layer."""
        return self._shape[0] if _has_positions(self.layer) else 1

    @property
    def pooling(self) -> Pooling | None:
        """The pooling; None for a dense layer."""
        return Pooling.parse(self.pool or "mean") if _has_positions(self.layer) else None

    @property
    def projection(self) -> Projection | None:
        """The projection; None without one."""
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
        """The dimension of a feature, summed over the layers."""
        if len(self.layers) > 1:
            return sum(part.dim for part in self.parts)
        return self.projection.dim if self.projection else self.pooled_dim

    @property
    def description(self) -> dict[str, str]:
        """Everything that the features depend on; defaults (mean pooling, no projection) are omitted."""
        values = {
            "network": "vgg16",
            "weights": self.weights.digest,
            "layer": ",".join(self.layers),
            "image": f"{RESIZES[self.resize]}-{SIDE}x{SIDE}",
            "preprocessing": PREPROCESSING,
            "precision": self.precision,
        }
        if self.pool and Pooling.parse(self.pool) != Pooling():
            values["pool"] = str(Pooling.parse(self.pool))
        if self.projection:
            values["project"] = str(self.projection)
        if self.precision == "int8":
            values["calibration"] = CALIBRATION
        return values

    @property
    def fingerprint(self) -> str:
        """A hash of the description, 16 hexadecimal digits; it names the feature store."""
        return hashlib.blake2b(json.dumps(self.description).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class ExtractorOverrides:
    """Settings that replace those of an extractor, a decoder's or the default one; None keeps a setting.

    Attributes:
        weights: See `pipeline.features.weights.weights_from`.
        layer: See `Extractor`.
        precision: See `Extractor`.
        pool: See `Extractor`.
        project: See `Extractor`.
        resize: See `Extractor`.
    """

    weights: str | None = None
    layer: str | None = None
    precision: str | None = None
    pool: str | None = None
    project: str | None = None
    resize: str | None = None

    @property
    def changes(self) -> dict[str, str]:
        """The settings that are not None, by parameter of `Extractor`, without the weights."""
        return {name: value for name, value in asdict(self).items() if value is not None and name != "weights"}

    def extractor(self) -> Extractor:
        """The default extractor with these settings.

        Raises:
            RequestError: See `Extractor`.
        """
        return Extractor(weights_from(self.weights or default_weights()), **self.changes)


def described_extractor(weights: Weights, description: Mapping[str, str], **changes: str) -> Extractor:
    """The extractor of a description, with these weights and changes.

    Raises:
        RequestError: See `Extractor`.
    """
    rule = description.get("image", "").rpartition("-")[0]
    settings: dict[str, Any] = {
        "layer": description["layer"],
        "precision": description["precision"],
        "pool": description.get("pool"),
        "project": description.get("project"),
        "resize": next((name for name, image in RESIZES.items() if image == rule), rule),
    }
    return Extractor(weights, **settings | changes)


def read_weights(extractors: Sequence[Extractor]) -> Arrays:
    """Read the weights that extractors with common weights need."""
    return extractors[0].weights.read(deepest(extractor.layer for extractor in extractors))


def _has_positions(layer: str) -> bool:
    """Whether a layer has a value for each position and channel, like a convolutional layer."""
    return len(activation_shapes()[base_layer(layer)]) == 3


def _check_layers(names: Sequence[str]) -> None:
    """Refuse layers that VGG16 lacks, duplicates, and ":pre" of layers without an activation."""
    layers = activation_shapes()
    for name in names:
        base = base_layer(name)
        if base not in layers:
            near = near_spellings({base: [base.lower()]}, layers)[base]
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose from {', '.join(layers)}."
            raise RequestError(f"layer {name!r} is unknown; {hint}")
        if name.endswith(PRE) and base not in weighted_layers(base):
            raise RequestError(f"layer {name!r}: {base} has no activation, so no value before it; leave {PRE!r} out.")
        if names.count(name) > 1:
            raise RequestError(f"layer {name!r} is named twice.")
