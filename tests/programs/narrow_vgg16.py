"""VGG16 with few channels. Call `make_narrow` before anything that reads VGG16's layers is imported."""

from dataclasses import replace
from typing import Any

from pipeline.features.vgg import NETWORKS


def make_narrow(channels: dict[int, int], features: dict[str, int]) -> None:
    """Replace VGG16's layers.

    Args:
        channels: VGG16's number of channels -> the number to use instead.
        features: The dimension of each layer's features; block5_pool has the channels of the last convolution.
    """
    vgg16 = NETWORKS["vgg16"]
    last = vgg16.convolutions[-1]
    widths = {name: channels[out] for block in vgg16.blocks for name, _, out in block} | {last: features["block5_pool"]}
    NETWORKS["vgg16"] = replace(
        vgg16,
        blocks=tuple(tuple((name, channels[into], widths[name]) for name, into, _ in block) for block in vgg16.blocks),
        dense=(
            ("fc1", 7 * 7 * features["block5_pool"], features["fc1"]),
            ("fc2", features["fc1"], features["fc2"]),
            ("predictions", features["fc2"], 1000),
        ),
    )


def narrow_keras_vgg16(weights: None, include_top: bool, input_shape: tuple[int, int, int]) -> Any:
    """The replacement of `keras.applications.VGG16` with narrow layers."""
    import keras

    outputs = inputs = keras.Input(input_shape)
    for number, block in enumerate(NETWORKS["vgg16"].blocks, start=1):
        for name, _, channels in block:
            outputs = keras.layers.Conv2D(channels, 3, padding="same", activation="relu", name=name)(outputs)
        outputs = keras.layers.MaxPooling2D(2, name=f"block{number}_pool")(outputs)
    if include_top:
        outputs = keras.layers.Flatten()(outputs)
        for name, _, units in NETWORKS["vgg16"].dense:
            activation = "softmax" if name == "predictions" else "relu"
            outputs = keras.layers.Dense(units, activation, name=name)(outputs)
    return keras.Model(inputs, outputs)
