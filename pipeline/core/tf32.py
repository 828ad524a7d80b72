"""TF32: NVIDIA GPUs since Ampere can round the factors of float32 products to 10 bits, which is faster.

By default, TensorFlow and JAX do so, and PyTorch does so in convolutions; this package does so only if TF32 is
selected. While one thread allows it, TensorFlow and PyTorch allow it in all threads.
"""

import contextlib
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_blocks = 0  # running blocks with TF32


def turn_off(backend: str) -> None:
    """Turn TF32 off in this process, except in `allowed` blocks.

    Args:
        backend: Keras's backend.
    """
    if backend == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
    else:
        _count(backend, 0)


@contextlib.contextmanager
def allowed(backend: str) -> Iterator[None]:
    """Allow TF32 in this block; blocks of several threads may overlap.

    Args:
        backend: Keras's backend.
    """
    if backend == "jax":
        import jax

        with jax.default_matmul_precision("tensorfloat32"):
            yield
        return
    _count(backend, 1)
    try:
        yield
    finally:
        _count(backend, -1)


def _count(backend: str, step: int) -> None:
    global _blocks
    with _lock:
        _blocks += step
        _allow(backend, _blocks > 0)


def _allow(backend: str, is_allowed: bool) -> None:
    if backend == "tensorflow":
        import tensorflow

        tensorflow.config.experimental.enable_tensor_float_32_execution(is_allowed)
    elif backend == "torch":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_allowed
