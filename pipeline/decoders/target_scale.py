"""The unit of targets: a single network is trained on targets of spread 1, and predicts in the user's units.

Otherwise steps, weight decay and the loss's own constants would make scores depend on the unit of the targets.
"""

from typing import Any

import numpy as np

# Activations f with f(c * x) = c * f(x) for c > 0: the scale moves into the weights. The others have a range of their
# own, to which the targets belong as they are.
HOMOGENEOUS = ("linear", "relu")


def target_scale(y: np.ndarray, output_activation: str) -> float:
    """What to divide targets by: the root of their mean variance.

    Args:
        y: Training targets, shape (N, D).
        output_activation: Of the network; for one that has a range of its own the scale is 1.

    Returns:
        The scale; of equal targets their root mean square, and 1 if all are zero.
    """
    if output_activation not in HOMOGENEOUS:
        return 1.0
    wide = y.astype(np.float64)
    scale = float(np.sqrt(np.square(wide - wide.mean(axis=0)).mean()))
    size = float(np.sqrt(np.square(wide).mean()))
    return (scale if scale > np.finfo(np.float32).eps * size else size) or 1.0


def multiply_output(model: Any, scale: float) -> None:
    """Multiply the predictions of a network, whose output is one of HOMOGENEOUS, by a number."""
    if scale != 1:
        output = model.layers[-1]
        output.set_weights([weight * np.float32(scale) for weight in output.get_weights()])
