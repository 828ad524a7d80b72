"""Scaling of targets: a single network is trained on targets of spread 1 and predicts in the user's units.

Otherwise the learning rate, the weight decay and constants of the loss would make scores depend on the unit of targets.
"""

from typing import Any

import numpy as np

# Activations f with f(c * x) = c * f(x) for c > 0: the scale moves into the weights. The others have a fixed range, so
# targets are not scaled for them.
HOMOGENEOUS = ("linear", "relu")


def target_scale(y: np.ndarray, output_activation: str) -> float:
    """The number to divide targets by: the root of their mean variance.

    Args:
        y: Training targets, shape (N, D).
        output_activation: The network's output activation; for one with a fixed range the scale is 1.

    Returns:
        The scale; for equal targets their root mean square, and 1 if all are zero.
    """
    if output_activation not in HOMOGENEOUS:
        return 1.0
    wide = y.astype(np.float64)
    scale = float(np.sqrt(np.square(wide - wide.mean(axis=0)).mean()))
    size = float(np.sqrt(np.square(wide).mean()))
    return (scale if scale > np.finfo(np.float32).eps * size else size) or 1.0


def multiply_output(model: Any, scale: float) -> None:
    """Multiply a network's predictions by a number; its output activation must be one of HOMOGENEOUS."""
    if scale != 1:
        output = model.layers[-1]
        output.set_weights([weight * np.float32(scale) for weight in output.get_weights()])
