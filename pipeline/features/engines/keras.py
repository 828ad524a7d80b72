"""The reference engine: `keras.applications.VGG16`, on any backend and device of Keras."""

import logging
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np

from pipeline.core.errors import PipelineError
from pipeline.core.keras_backend import import_keras
from pipeline.data.decoding import SIDE
from pipeline.features.engines.advice import warn_about_processor
from pipeline.features.engines.devices import CPU, batches_at_once, chosen_devices, default_batch_size
from pipeline.features.engines.replicas import Replica, make_replica
from pipeline.features.extractor import Extractor, read_weights
from pipeline.features.pooling import cell_weights
from pipeline.features.vgg import PRE

log = logging.getLogger(__name__)

# Parts of the errors of TensorFlow and JAX (RESOURCE_EXHAUSTED, OOM) and PyTorch (out of memory).
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "OOM when allocating", "out of memory", "Out of memory")


class KerasEngine:
    """VGG16 in Keras, cut after the deepest layer. See `pipeline.features.engines.Engine`.

    Each device has a replica. A GPU has two batches at a time, so that one is transferred while the other is computed;
    the processor, which all threads share, has one. A batch goes to the next free replica, so a feature does not depend
    on the number of devices if all are the same model.

    Args:
        extractors: The extractors to run.
        batch_size: Images per batch; None for a size that suits the devices.
        devices: The devices to run on; see `chosen_devices`.
    """

    name = "keras"

    def __init__(
        self, extractors: Sequence[Extractor], batch_size: int | None = None, devices: Sequence[str] | None = None
    ) -> None:
        self._extractors = extractors
        devices = devices or chosen_devices(None)
        self.device = ", ".join(devices)
        self.batch_size = batch_size or default_batch_size(devices)
        self.at_once = batches_at_once(devices)
        self._part = self.batch_size  # images that fit into a device's memory
        precision = extractors[0].precision
        if all(device.startswith(CPU) for device in devices):
            warn_about_processor(precision)
        with import_keras().device(devices[0]):
            network = build_network(extractors)
        replicas = [make_replica(network, device, precision) for device in devices]
        self._free: SimpleQueue[Replica] = SimpleQueue()
        for number in range(self.at_once):
            self._free.put(replicas[number % len(replicas)])

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Compute features; see `pipeline.features.engines.Engine`. If memory runs out, the batch is halved."""
        replica = self._free.get()
        try:
            parts = self._compute(replica, pixels)
        finally:
            self._free.put(replica)
        return list(map(_joined, self._extractors, zip(*parts, strict=True)))

    def _compute(self, replica: Replica, pixels: np.ndarray) -> list[list[np.ndarray]]:
        """The outputs of a replica for each part of a batch."""
        while True:
            part = self._part
            try:
                return [replica(pixels[at : at + part]) for at in range(0, len(pixels), part)]
            except Exception as error:  # each backend has its own error type for this
                if not any(sign in str(error) for sign in OUT_OF_MEMORY):
                    raise
                if part == 1:
                    raise PipelineError("The device has too little memory for one image at a time.") from error
                self._part = min(self._part, -(-part // 2))  # a batch in another thread may have halved it already
                log.warning("Out of memory; continuing with %d images at a time.", self._part)


def _joined(extractor: Extractor, parts: Sequence[np.ndarray]) -> np.ndarray:
    """The features of an extractor, joined from the parts of a batch, each of shape (n, pooled_dim)."""
    features = np.concatenate(parts)
    return extractor.projection(features) if extractor.projection else features


def build_network(extractors: Sequence[Extractor]) -> Any:
    """Build the Keras model from pixels to pooled layers, with the extractors' weights.

    Args:
        extractors: Weights, layers, pooling and precision.

    Returns:
        A `keras.Model` from (N, 224, 224, 3) uint8 RGB to (N, pooled_dim), or a list of these for several extractors.
    """
    keras = import_keras()
    vgg = extractors[0].weights.network
    last = vgg.deepest(extractor.layer for extractor in extractors)
    policy = keras.config.dtype_policy()
    precision = extractors[0].precision
    keras.config.set_dtype_policy("float32" if precision == "tf32" else precision)
    try:
        network = getattr(keras.applications, vgg.name.upper())(
            weights=None, include_top=not last.startswith("block"), input_shape=(SIDE, SIDE, 3)
        )
        pixels = keras.Input((SIDE, SIDE, 3), dtype="uint8")
        planes = keras.ops.flip(keras.ops.cast(pixels, "float32"), -1) - extractors[0].weights.preprocessing.mean
        activations = _activations(network, planes, last)
        features = [_pool(activations[extractor.layer], extractor) for extractor in extractors]
    finally:
        keras.config.set_dtype_policy(policy)
    for name, arrays in read_weights(extractors).items():
        network.get_layer(name).set_weights(arrays)
    return keras.Model(pixels, features)


def _activations(network: Any, planes: Any, last: str) -> dict[str, Any]:
    """The layers of VGG16 up to `last`, and the values before their activations, from preprocessed pixels."""
    linear = import_keras().activations.linear
    activations = {}
    for layer in network.layers[1:]:  # a chain, after its input
        if layer.weights:
            activation, layer.activation = layer.activation, linear
            activations[f"{layer.name}{PRE}"] = layer(planes)
            planes = activation(activations[f"{layer.name}{PRE}"])
        else:
            planes = layer(planes)
        activations[layer.name] = planes
        if layer.name == last:
            break
    return activations


def _pool(activation: Any, extractor: Extractor) -> Any:
    """Pool a layer in float32, to shape (N, pooled_dim)."""
    ops, pooling = import_keras().ops, extractor.pooling
    activation = ops.cast(activation, "float32")
    if pooling is None:
        return activation
    if pooling.kind == "max":
        activation = ops.max(activation, axis=(1, 2))
    elif pooling.kind == "mean":
        activation = ops.mean(activation, axis=(1, 2))
    elif pooling.kind == "grid":
        weights = cell_weights(pooling.cells, extractor.side)
        activation = ops.einsum("gy,hx,nyxc->nghc", weights, weights, activation)
    return ops.reshape(activation, (-1, extractor.pooled_dim))
