"""VGG16 (Simonyan and Zisserman 2014): its layers and its preprocessing.

Nothing here computes; that is the work of `pipeline.features.engines`.
"""

import numpy as np

# The convolutions of each block, as (name, input channels, output channels); a 2 x 2 max pooling ends each block.
BLOCKS = tuple(
    tuple(
        (f"block{block}_conv{number}", channels if number > 1 else before, channels)
        for number in range(1, convolutions + 1)
    )
    for block, (convolutions, before, channels) in enumerate(
        [(2, 3, 64), (2, 64, 128), (3, 128, 256), (3, 256, 512), (3, 512, 512)], start=1
    )
)
DENSE = (("fc1", 7 * 7 * 512, 4096), ("fc2", 4096, 4096))

# What `--layer` may be -> the dimension of its features. block5_pool is averaged over its 7 x 7 positions.
LAYERS = {"fc2": 4096, "fc1": 4096, "block5_pool": 512}
PRECISIONS = ("float32", "bfloat16", "float16")

# Keras's preprocessing for VGG16 ("caffe" mode): RGB to BGR, then minus the ImageNet means of B, G and R; no scaling.
PREPROCESSING = "bgr-minus-imagenet-mean"
BGR_MEAN = np.array([103.939, 116.779, 123.68], np.float32)

# layer name -> (kernel, bias), float32: convolutions (3, 3, in, out) and (out,), dense layers (in, out) and (out,).
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


def weighted_layers(layer: str) -> dict[str, tuple[int, ...]]:
    """The layers with weights up to `layer`, in order, with the shapes of their kernels."""
    shapes: dict[str, tuple[int, ...]] = {
        name: (3, 3, before, after) for block in BLOCKS for name, before, after in block
    }
    dense = {"block5_pool": 0, "fc1": 1, "fc2": 2}[layer]
    return shapes | {name: (before, after) for name, before, after in DENSE[:dense]}
