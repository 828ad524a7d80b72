"""An extractor, and the fingerprint that identifies it."""

import hashlib
import json
from dataclasses import dataclass

from pipeline.core.errors import RequestError
from pipeline.data.decoding import RESIZE, SIDE
from pipeline.features.vgg16 import LAYERS, PRECISIONS, PREPROCESSING, Arrays
from pipeline.features.weights import Weights


@dataclass(frozen=True)
class Extractor:
    """What turns pixels into a feature: weights, layer and precision, with the resize and preprocessing of this code.

    Two extractors with the same fingerprint give the same features up to rounding, on any engine.

    Attributes:
        weights: Where VGG16's weights come from.
        layer: The layer whose activation is the feature, after ReLU; one of `pipeline.features.vgg16.LAYERS`.
        precision: The precision of VGG16's arithmetic, one of `pipeline.features.vgg16.PRECISIONS`.

    Raises:
        RequestError: The layer or the precision is unknown.
    """

    weights: Weights
    layer: str = "fc2"
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.layer not in LAYERS:
            raise RequestError(f"layer {self.layer!r} is unknown; choose from {', '.join(LAYERS)}.")
        if self.precision not in PRECISIONS:
            raise RequestError(f"precision {self.precision!r} is unknown; choose from {', '.join(PRECISIONS)}.")

    @property
    def dim(self) -> int:
        """The dimension of a feature."""
        return LAYERS[self.layer]

    @property
    def description(self) -> dict[str, str]:
        """Everything that the features depend on."""
        return {
            "network": "vgg16",
            "weights": self.weights.digest,
            "layer": self.layer,
            "image": f"{RESIZE}-{SIDE}x{SIDE}",
            "preprocessing": PREPROCESSING,
            "precision": self.precision,
        }

    @property
    def fingerprint(self) -> str:
        """A hash of the description, 16 hexadecimal digits; it names the feature store."""
        return hashlib.blake2b(json.dumps(self.description).encode(), digest_size=8).hexdigest()

    def read_weights(self) -> Arrays:
        """Read the weights that this extractor needs."""
        return self.weights.read(self.layer)
