"""Recognizes the weights that most files derive from by their first convolution, and the preprocessing that they need.

Fine-tuning hardly changes the first convolution: after training on edges (Xie and Tu 2015), the cosine of its biases
to the original ones is 0.9996.
"""

from dataclasses import dataclass

import numpy as np

# The first biases of block1_conv1. VGG16's and VGG19's by Simonyan and Zisserman have a cosine of 0.996.
SIMONYAN = (0.7343, 0.0934, 0.0678, 0.8863, 0.2599, 0.6643, -0.0158, 0.3249, 0.6860, 0.0625)
TORCHVISION = (0.4034, 0.3778, 0.4644, -0.3228, 0.3940, -0.3953, 0.3951, -0.5496, 0.2693, -0.7602)  # VGG16
SIMILARITY = 0.99
BLUE = 1  # a filter of Simonyan and Zisserman that blue activates and red inhibits
# The largest absolute value in a kernel for inputs of 0..255. Theirs has 0.6; a copy for torch's preprocessing has 57
# times that.
LARGEST = 5.0


@dataclass(frozen=True)
class Known:
    """Known weights.

    Attributes:
        origin: Who published them.
        preprocess: The preprocessing that they need, a key of `pipeline.features.vgg.PREPROCESSINGS`; None if none
            fits, because the channels of the first kernel are in another order.
    """

    origin: str
    preprocess: str | None


def recognized(kernel: np.ndarray, bias: np.ndarray) -> Known | None:
    """Recognize weights by their first convolution.

    Args:
        kernel: Its kernel, shape (3, 3, 3, 64), as stored.
        bias: Its biases, shape (64,).

    Returns:
        The published weights that they equal or derive from, or None.
    """
    if _similarity(bias, TORCHVISION) > SIMILARITY:
        return Known("torchvision", "torch")
    if _similarity(bias, SIMONYAN) > SIMILARITY:
        first, _, last = kernel[..., BLUE].sum(axis=(0, 1))
        preprocess = "torch" if np.abs(kernel).max() > LARGEST else "caffe" if first > last else None
        return Known("Simonyan and Zisserman", preprocess)
    return None


def _similarity(bias: np.ndarray, known: tuple[float, ...]) -> float:
    """The cosine of the first biases to known ones."""
    some, norms = bias[: len(known)], np.linalg.norm(bias[: len(known)]) * np.linalg.norm(known)
    return float(some @ np.array(known) / norms) if norms else 0.0
