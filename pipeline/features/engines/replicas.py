"""Replicas: compiled copies of a network on devices, with TensorFlow, JAX and PyTorch."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.core import tf32
from pipeline.core.errors import RequestError
from pipeline.core.keras_backend import import_keras

# Pixels (N, 224, 224, 3), uint8 -> the network's outputs, each (N, dim), float32. Thread-safe.
Replica = Callable[[np.ndarray], list[np.ndarray]]


def make_replica(network: Any, device: str, precision: str) -> Replica:
    """Copy a network's weights to a device and compile it there.

    Args:
        network: A `keras.Model` from pixels to an output or a list of outputs.
        device: The device by Keras's name; "cpu" is the whole processor.
        precision: One of `pipeline.features.vgg.PRECISIONS`.

    Returns:
        The replica. It compiles at the first batch of each size.

    Raises:
        RequestError: Keras has another backend.
    """
    backend = import_keras().backend.backend()
    makers = {"tensorflow": _on_tensorflow, "jax": _on_jax, "torch": _on_torch}
    if backend not in makers:
        raise RequestError(f"The engine keras does not run on {backend}; set KERAS_BACKEND to {' or '.join(makers)}.")
    tf32.turn_off(backend)  # it is on if Keras was imported before this package
    replica = makers[backend](network, device)
    if precision != "tf32":
        return replica

    def with_tf32(pixels: np.ndarray) -> list[np.ndarray]:
        with tf32.allowed(backend):
            return replica(pixels)

    return with_tf32


def _outputs(network: Any, weights: list[Any], pixels: Any) -> list[Any]:
    """The outputs of a network with other weights."""
    return import_keras().tree.flatten(network.stateless_call(weights, [], pixels, training=False)[0])


def _on_tensorflow(network: Any, device: str) -> Replica:
    import tensorflow

    # XLA is slower than TensorFlow's kernels on processors.
    use_xla = not device.startswith("cpu") and network.jit_compile
    compute = tensorflow.function(
        lambda weights, pixels: _outputs(network, weights, pixels), autograph=False, jit_compile=use_xla
    )
    batch = tensorflow.TensorSpec(network.inputs[0].shape, "uint8")
    with tensorflow.device(device):
        weights = [tensorflow.identity(variable.value) for variable in network.trainable_variables]
        compute = compute.get_concrete_function(weights, batch)

    def replica(pixels: np.ndarray) -> list[np.ndarray]:
        with tensorflow.device(device):
            return [output.numpy() for output in compute(weights, tensorflow.convert_to_tensor(pixels))]

    return replica


def _on_jax(network: Any, device: str) -> Replica:
    import jax

    kind, _, number = device.partition(":")
    target = next(target for target in jax.devices(kind) if target.id == int(number or target.id))
    weights = jax.device_put([variable.value for variable in network.trainable_variables], target)
    compute = jax.jit(lambda weights, pixels: _outputs(network, weights, pixels))
    return lambda pixels: [np.asarray(output) for output in compute(weights, jax.device_put(pixels, target))]


def _on_torch(network: Any, device: str) -> Replica:
    import torch

    keras = import_keras()
    target = device.replace("gpu", "cuda")
    weights = [variable.value.to(target) for variable in network.trainable_variables]

    def replica(pixels: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode(), keras.device(device):
            outputs = _outputs(network, weights, torch.from_numpy(pixels).to(target))
            return [output.cpu().numpy() for output in outputs]

    return replica
