"""VGG16 with few channels: import this before anything that reads its layers."""

from pipeline.features import vgg16


def make_narrow(channels: dict[int, int], features: dict[str, int]) -> None:
    """Replace VGG16's layers.

    Args:
        channels: VGG16's number of channels -> the number to use instead.
        features: The dimension of each layer's features; that of block5_pool is the channels of the last convolution.
    """
    last = vgg16.BLOCKS[-1][-1][0]
    vgg16.BLOCKS = tuple(
        tuple(
            (name, channels[into], features["block5_pool"] if name == last else channels[out])
            for name, into, out in block
        )
        for block in vgg16.BLOCKS
    )
    vgg16.DENSE = (
        ("fc1", 7 * 7 * features["block5_pool"], features["fc1"]),
        ("fc2", features["fc1"], features["fc2"]),
    )
    vgg16.LAYERS = features
