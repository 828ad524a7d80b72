"""VGG16 and VGG19 in float64 NumPy, written from the paper alone, to compare the engines with."""

import numpy as np

CONVOLUTIONS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


VGG19 = (*CONVOLUTIONS[:2], (256,) * 4, (512,) * 4, (512,) * 4)


def activations(
    pixels: np.ndarray,
    weights: dict[str, tuple[np.ndarray, np.ndarray]],
    blocks: tuple[tuple[int, ...], ...] = CONVOLUTIONS,
) -> dict[str, np.ndarray]:
    """All layers of one image that there are weights for, float64: (rows, columns, channels) or (units,).

    Layers have their Keras names; ":pre" behind them is the value before the ReLU or the softmax.

    Args:
        pixels: RGB, shape (224, 224, 3), uint8.
        weights: Layer name -> kernel and bias, in Keras's layout.
        blocks: The channels of the convolutions in each block; those of VGG16 unless others are named.
    """
    x = pixels[..., ::-1].astype(np.float64) - [103.939, 116.779, 123.68]
    outputs = {}
    for block, convolutions in enumerate(blocks, start=1):
        for number in range(1, len(convolutions) + 1):
            name = f"block{block}_conv{number}"
            kernel, bias = weights[name]
            outputs[f"{name}:pre"] = _convolve(x, kernel.astype(np.float64)) + bias
            x = outputs[name] = np.maximum(outputs[f"{name}:pre"], 0)
        x = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max(axis=(1, 3))
        outputs[f"block{block}_pool"] = x
    x = x.reshape(-1)
    for name in ("fc1", "fc2", "predictions"):
        if name in weights:
            kernel, bias = weights[name]
            outputs[f"{name}:pre"] = x @ kernel.astype(np.float64) + bias
            x = outputs[name] = np.maximum(outputs[f"{name}:pre"], 0)
    if "predictions" in weights:
        odds = np.exp(outputs["predictions:pre"] - outputs["predictions:pre"].max())
        outputs["predictions"] = odds / odds.sum()
    return outputs


def pooled(x: np.ndarray, pool: str) -> np.ndarray:
    """The numbers that are left of (rows, columns, channels): "mean", "max", "grid:N" or "flat"."""
    if pool == "max":
        return x.max(axis=(0, 1))
    if pool == "flat":
        return x.reshape(-1)
    cells = int(pool.partition(":")[2] or 1)
    fine = x.repeat(cells, axis=0).repeat(cells, axis=1)  # N times as many positions, so that every cell has whole ones
    side = len(x)
    return fine.reshape(cells, side, cells, side, -1).mean(axis=(1, 3)).reshape(-1)


def _convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """3 x 3 convolution, zeros around, by one matrix product for each of the nine offsets."""
    height, width, channels = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    total = np.zeros((height * width, kernel.shape[-1]))
    for row in range(3):
        for column in range(3):
            moved = padded[row : row + height, column : column + width].reshape(-1, channels)
            total += moved @ kernel[row, column]
    return total.reshape(height, width, -1)
