"""VGG16 and VGG19 (Simonyan and Zisserman 2014): their layers and their preprocessing, as data.

`pipeline.features.engines` runs them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

import numpy as np

from pipeline.data.decoding import SIDE
from pipeline.features.options import Precision

PRE = ":pre"  # suffix of a layer's name: its value before the activation

PRECISIONS = get_args(Precision)
CALIBRATION = "16-tiles"  # where the ranges for int8 come from; rename it when the tiles or the method change

# layer name -> (kernel, bias), float32: convolutions (3, 3, in, out) and (out,), dense layers (in, out) and (out,).
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


def base_layer(layer: str) -> str:
    """The Keras name of a layer that may end in PRE."""
    return layer.removesuffix(PRE)


@dataclass(frozen=True)
class Network:
    """The layers of a network, by their Keras names.

    Attributes:
        name: "vgg16" or "vgg19".
        blocks: The convolutions of each block, as (name, input channels, output channels); a 2 x 2 max pooling ends
            each block.
        dense: The dense layers, as (name, inputs, units).
    """

    name: str
    blocks: tuple[tuple[tuple[str, int, int], ...], ...]
    dense: tuple[tuple[str, int, int], ...]

    @property
    def title(self) -> str:
        """Its name in messages."""
        return self.name.upper()

    @property
    def convolutions(self) -> list[str]:
        """The names of the convolutions, in order."""
        return [name for block in self.blocks for name, *_ in block]

    @property
    def activation_shapes(self) -> dict[str, tuple[int, ...]]:
        """The layers, in order, with their activations' shapes: (side, side, channels) or (units,)."""
        shapes: dict[str, tuple[int, ...]] = {}
        for number, block in enumerate(self.blocks, start=1):
            side = SIDE >> (number - 1)
            shapes |= {name: (side, side, channels) for name, _, channels in block}
            shapes[f"block{number}_pool"] = (side // 2, side // 2, block[-1][2])
        return shapes | {name: (units,) for name, _, units in self.dense}

    def deepest(self, layers: Iterable[str]) -> str:
        """The layer that is computed last; layers may end in PRE."""
        return max(map(base_layer, layers), key=list(self.activation_shapes).index)

    def layers_up_to(self, layer: str) -> list[str]:
        """The layers up to and including `layer`, in order."""
        names = list(self.activation_shapes)
        return names[: names.index(layer) + 1]

    def weighted_layers(self, layer: str) -> dict[str, tuple[int, ...]]:
        """The layers with weights up to `layer`, in order, with the shapes of their kernels."""
        kernels: dict[str, tuple[int, ...]] = {
            name: (3, 3, before, after) for block in self.blocks for name, before, after in block
        }
        kernels |= {name: (before, after) for name, before, after in self.dense}
        return {name: kernels[name] for name in self.layers_up_to(layer) if name in kernels}


def _network(name: str, convolutions: tuple[int, ...]) -> Network:
    """A network, from the number of convolutions in each block."""
    channels = (3, 64, 128, 256, 512, 512)
    blocks = tuple(
        tuple(
            (f"block{block}_conv{number}", channels[block - (number == 1)], channels[block])
            for number in range(1, count + 1)
        )
        for block, count in enumerate(convolutions, start=1)
    )
    return Network(name, blocks, (("fc1", 7 * 7 * 512, 4096), ("fc2", 4096, 4096), ("predictions", 4096, 1000)))


NETWORKS = {"vgg16": _network("vgg16", (2, 2, 3, 3, 3)), "vgg19": _network("vgg19", (2, 2, 4, 4, 4))}


@dataclass(frozen=True)
class Preprocessing:
    """The input that a network expects: pixels in some channel order, minus a mean, divided by a deviation.

    Engines always compute BGR planes minus the mean; order and deviation go into the first kernel, see `fold`.

    Attributes:
        description: Identifies it in an extractor's description.
        mean: The mean of B, G and R, in 0..255, float32.
        deviation: The divisor of B, G and R.
        is_rgb: Whether the network expects RGB.
    """

    description: str
    mean: np.ndarray
    deviation: np.ndarray
    is_rgb: bool

    def fold(self, kernel: np.ndarray) -> np.ndarray:
        """The first kernel, shape (3, 3, 3, out), for BGR planes minus the mean.

        Exact at the borders too, as the padding is zero after the mean is subtracted.
        """
        kernel = kernel[:, :, ::-1] if self.is_rgb else kernel
        return kernel / self.deviation[:, None]


# From keras.applications ("caffe" mode) and torchvision; the latter's mean and deviation are for R, G and B in 0..1.
PREPROCESSINGS = {
    "caffe": Preprocessing(
        description="bgr-minus-imagenet-mean",
        mean=np.array([103.939, 116.779, 123.68], np.float32),
        deviation=np.ones(3, np.float32),
        is_rgb=False,
    ),
    "torch": Preprocessing(
        description="rgb-minus-imagenet-mean-over-deviation",
        mean=np.array([0.406, 0.456, 0.485], np.float32) * 255,
        deviation=np.array([0.225, 0.224, 0.229], np.float32) * 255,
        is_rgb=True,
    ),
}
