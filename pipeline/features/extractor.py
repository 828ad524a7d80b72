"""Extractors, the fingerprints that identify them, and the user's settings for them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.core.errors import RequestError
from pipeline.core.wording import near_spellings
from pipeline.data.decoding import RESIZES, SIDE
from pipeline.features.pooling import Pooling
from pipeline.features.projection import Projection
from pipeline.features.vgg import (
    CALIBRATION,
    PRE,
    PRECISIONS,
    PREPROCESSINGS,
    Arrays,
    Network,
    base_layer,
)
from pipeline.features.weights import Weights


@dataclass(frozen=True)
class Extractor:
    """The computation from pixels to a feature: weights, layer, pooling, projection, resize and precision.

    Extractors with the same fingerprint compute the same features up to rounding, on any engine. Features of several
    layers have an extractor each; engines run them in one pass, see `check_one_pass`.

    Attributes:
        weights: The source of VGG16's weights.
        layer: The layer whose activation is the feature, by its Keras name; with ":pre", its value before the ReLU, or
            before the softmax of `predictions`.
        precision: The precision of VGG16's arithmetic, one of `pipeline.features.vgg.PRECISIONS`.
        pool: For a layer with positions: "mean" (the default), "max", "grid:N" or "flat".
        project: "DIM" or "DIM:SEED": a sparse random projection of the pooled layer.
        resize: How an image becomes 224 x 224 pixels, a key of `pipeline.data.decoding.RESIZES`.

    Raises:
        RequestError: A setting is unknown, or the settings do not go together.
    """

    weights: Weights
    layer: str = "fc2"
    precision: str = "float32"
    pool: str | None = None
    project: str | None = None
    resize: str = "squash"

    def __post_init__(self) -> None:
        _check_layer(self.layer, self.weights.network)
        if self.precision not in PRECISIONS:
            raise RequestError(f"precision {self.precision!r} is unknown; choose from {', '.join(PRECISIONS)}.")
        if self.precision == "int8" and self.layer.endswith(PRE):
            raise RequestError(
                f"precision 'int8' has no values before an activation; leave {PRE!r} out, or use float32."
            )
        if self.resize not in RESIZES:
            raise RequestError(f"resize {self.resize!r} is unknown; choose from {', '.join(RESIZES)}.")
        if self.pool and not self._has_positions:
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
    def side(self) -> int:
        """The number of positions along each axis; 1 for a dense layer."""
        return self._shape[0] if self._has_positions else 1

    @property
    def pooling(self) -> Pooling | None:
        """The pooling; None for a dense layer."""
        return Pooling.parse(self.pool or "mean") if self._has_positions else None

    @property
    def projection(self) -> Projection | None:
        """The projection, or None."""
        return Projection.parse(self.project) if self.project else None

    @property
    def _has_positions(self) -> bool:
        return has_positions(self.layer, self.weights.network)

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.weights.network.activation_shapes[base_layer(self.layer)]

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
        """Everything that the features depend on; defaults (mean pooling, no projection) are omitted."""
        values = {
            "network": self.weights.network.name,
            "weights": self.weights.digest,
            "layer": self.layer,
            "image": f"{RESIZES[self.resize]}-{SIDE}x{SIDE}",
            "preprocessing": self.weights.preprocessing.description,
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
        """The fingerprint of the description; it names the feature store."""
        return fingerprint(self.description)


def fingerprint(description: Mapping[str, str]) -> str:
    """A hash of a description, 16 hexadecimal digits."""
    return hashlib.blake2b(json.dumps(description).encode(), digest_size=8).hexdigest()


def describe(extractors: Sequence[Extractor]) -> dict[str, str]:
    """The description of concatenated features by one or several extractors: "layer" lists their layers.

    Args:
        extractors: Extractors that can run in one pass; see `check_one_pass`.
    """
    longest = max((extractor.description for extractor in extractors), key=len)  # dense layers have no pool
    return longest | {"layer": ",".join(extractor.layer for extractor in extractors)}


def total_dim(extractors: Sequence[Extractor]) -> int:
    """The dimension of concatenated features."""
    return sum(extractor.dim for extractor in extractors)


def check_one_pass(extractors: Sequence[Extractor]) -> None:
    """Check that extractors can run in one pass: they differ only in their layers.

    Raises:
        RequestError: There is no extractor, two have the same layer, or another setting differs.
    """
    if not extractors:
        raise RequestError("Features need at least one extractor.")
    layers = [extractor.layer for extractor in extractors]
    if repeated := next((layer for layer in layers if layers.count(layer) > 1), None):
        raise RequestError(f"layer {repeated!r} is named twice.")
    settings = {
        "network": {extractor.weights.network.name for extractor in extractors},
        "weights": {extractor.weights.digest for extractor in extractors},
        "precision": {extractor.precision for extractor in extractors},
        "resize": {extractor.resize for extractor in extractors},
        "pool": {str(extractor.pooling) for extractor in extractors if extractor.pooling},
        "project": {str(extractor.projection) for extractor in extractors},
    }
    for name, values in settings.items():
        if len(values) > 1:
            raise RequestError(f"Extractors that run in one pass have one {name}, not {' and '.join(sorted(values))}.")


def extractors_for(
    weights: Weights, layer: str = "fc2", pool: str | None = None, **settings: str
) -> tuple[Extractor, ...]:
    """The extractors of one or several layers.

    Args:
        weights: See `Extractor`.
        layer: The names of the layers, separated by commas.
        pool: See `Extractor`; for the layers with positions.
        **settings: The other settings of each extractor.

    Raises:
        RequestError: See `Extractor` and `check_one_pass`.
    """
    names = [name.strip() for name in layer.split(",")]
    # If no layer has positions, `Extractor` refuses the pool.
    pooled = [name for name in names if has_positions(name, weights.network)] or names
    extractors = tuple(Extractor(weights, name, pool=pool if name in pooled else None, **settings) for name in names)
    check_one_pass(extractors)
    return extractors


def described_settings(description: Mapping[str, str]) -> dict[str, str]:
    """The settings in a description, by parameter of `extractors_for`."""
    settings = {name: description[name] for name in ("layer", "precision", "pool", "project") if name in description}
    if "image" in description:
        rule = description["image"].rpartition("-")[0]
        settings["resize"] = next((name for name, image in RESIZES.items() if image == rule), rule)
    return settings


def described_network(description: Mapping[str, str]) -> dict[str, str]:
    """The network and the preprocessing in a description, by parameter of `weights_from`."""
    settings = {"network": description["network"]} if "network" in description else {}
    if preprocessing := description.get("preprocessing"):
        known = {preprocess.description: name for name, preprocess in PREPROCESSINGS.items()}
        settings["preprocess"] = known.get(preprocessing, preprocessing)
    return settings


def read_weights(extractors: Sequence[Extractor]) -> Arrays:
    """Read the weights that extractors with common weights need."""
    weights = extractors[0].weights
    return weights.read(weights.network.deepest(extractor.layer for extractor in extractors))


def has_positions(layer: str, network: Network) -> bool:
    """Whether a layer has a value for each position and channel, like a convolutional layer."""
    return len(network.activation_shapes.get(base_layer(layer), ())) == 3


def _check_layer(name: str, network: Network) -> None:
    """Refuse a layer that the network lacks, and ":pre" of a layer without an activation."""
    layers, base = network.activation_shapes, base_layer(name)
    if base not in layers:
        near = near_spellings({base: [base.lower()]}, layers)[base]
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose from {', '.join(layers)}."
        raise RequestError(f"layer {name!r} is unknown; {hint}")
    if name.endswith(PRE) and base not in network.weighted_layers(base):
        raise RequestError(f"layer {name!r}: {base} has no activation, so no value before it; leave {PRE!r} out.")
