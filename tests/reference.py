"""VGG16 in float64 NumPy, written from the paper alone, to compare the engines with."""

import numpy as np

CONVOLUTIONS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def features(pixels: np.ndarray, weights: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """The features of one image, float64, by layer: "block5_pool", "fc1" and "fc2".

    Args:
        pixels: RGB, shape (224, 224, 3), uint8.
        weights: Layer name -> kernel and bias, in Keras's layout.
    """
    x = pixels[..., ::-1].astype(np.float64) - [103.939, 116.779, 123.68]
    for block, convolutions in enumerate(CONVOLUTIONS, start=1):
        for number in range(1, len(convolutions) + 1):
            kernel, bias = weights[f"block{block}_conv{number}"]
            x = np.maximum(_convolve(x, kernel.astype(np.float64)) + bias, 0)
        x = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max(axis=(1, 3))
    found = {"block5_pool": x.mean(axis=(0, 1))}
    x = x.reshape(-1)
    for name in ("fc1", "fc2"):
        kernel, bias = weights[name]
        x = found[name] = np.maximum(x @ kernel.astype(np.float64) + bias, 0)
    return found


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
