"""The reference engine: `keras.applications.VGG16`, on any backend and device of Keras."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from pipeline.core.errors import PipelineError
from pipeline.core.keras_backend import accelerators, import_keras
from pipeline.data.decoding import SIDE
from pipeline.features.extractor import Extractor, read_weights
from pipeline.features.pooling import cell_weights
from pipeline.features.vgg import PRE

log = logging.getLogger(__name__)

BATCH_SIZE = 32
# Parts of the errors of TensorFlow and JAX (RESOURCE_EXHAUSTED, OOM) and PyTorch (out of memory).
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "OOM when allocating", "out of memory", "Out of memory")


class KerasEngine:
    """VGG16 in Keras, cut after the deepest layer. See `pipeline.features.engines.Engine`.

    On a single accelerator it processes two batches at a time, so that one is transferred while the other is computed.

    Args:
        extractors: The extractors to run.
        batch_size: Images in a batch; None for 32. It is rounded up to a multiple of the number of devices.
        devices: The devices to run on, as Keras names them; None means all accelerators that its backend sees.
    """

    name = "keras"

    def __init__(
        self, extractors: Sequence[Extractor], batch_size: int | None = None, devices: list[str] | None = None
    ) -> None:
        self._extractors = extractors
        self.batch_size = batch_size or BATCH_SIZE
        self._part = self.batch_size  # images that fit into the devices' memory
        devices = accelerators() if devices is None else devices
        self.device = ", ".join(devices) or "cpu"
        self.at_once = 2 if len(devices) == 1 else 1
        self._scope: Callable[[], AbstractContextManager] = contextlib.nullcontext
        if len(devices) > 1 and (scope := data_parallel(devices)):
            self._scope = scope
            self.batch_size = self._part = -(-self.batch_size // len(devices)) * len(devices)
        with self._scope():
            self._network = build_network(extractors)
        self._run = _thread_safe(self._network) if self._scope is contextlib.nullcontext else self._run_shared

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Compute features; see `pipeline.features.engines.Engine`. If memory runs out, the batch is halved."""
        while True:
            part = self._part
            try:
                parts = [self._predict(pixels[at : at + part]) for at in range(0, len(pixels), part)]
                return list(map(_joined, self._extractors, zip(*parts, strict=True)))
            except Exception as error:  # each backend has its own error type for this
                if not any(sign in str(error) for sign in OUT_OF_MEMORY):
                    raise
                if part == 1:
                    raise PipelineError("The device has too little memory for one image at a time.") from error
                self._part = min(self._part, -(-part // 2))  # a batch in another thread may have halved it already
                log.warning("Out of memory; continuing with %d images at a time.", self._part)

    def _predict(self, pixels: np.ndarray) -> list[Any]:
        pooled = self._run(pixels)
        return pooled if isinstance(pooled, list) else [pooled]

    def _run_shared(self, pixels: np.ndarray) -> Any:
        with self._scope():  # `predict` distributes a batch, `predict_on_batch` does not
            return self._network.predict(pixels, batch_size=len(pixels), verbose=0)


def _joined(extractor: Extractor, parts: Sequence[Any]) -> np.ndarray:
    """The features of an extractor, joined from the parts of a batch, each of shape (n, pooled_dim)."""
    features = np.concatenate([np.asarray(part, np.float32) for part in parts])
    return extractor.projection(features) if extractor.projection else features


def _thread_safe(network: Any) -> Callable[[np.ndarray], Any]:
    """A thread-safe function that runs a model on a batch.

    Keras's `predict_on_batch` is thread-safe, except on JAX, where each call donates the weights and takes them back.
    """
    if import_keras().backend.backend() != "jax":
        network.make_predict_function()
        return network.predict_on_batch
    import jax

    weights = [variable.value for variable in network.trainable_variables]
    call = jax.jit(lambda weights, pixels: network.stateless_call(weights, [], pixels, training=False)[0])
    return lambda pixels: call(weights, pixels)


def data_parallel(devices: list[str]) -> Callable[[], AbstractContextManager] | None:
    """A scope in which Keras copies each weight to each device and distributes every batch among them.

    Args:
        devices: Two or more devices, as Keras names them.

    Returns:
        A function that creates the scope; None on PyTorch, where Keras uses one device.
    """
    keras = import_keras()
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        return tensorflow.distribute.MirroredStrategy(devices).scope
    if keras.backend.backend() == "jax":
        return keras.distribution.DataParallel(devices=devices).scope
    log.warning("On PyTorch, Keras uses one of the %d devices; on TensorFlow and JAX it would use all.", len(devices))
    return None


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
    keras.config.set_dtype_policy(extractors[0].precision)
    try:
        network = getattr(keras.applications, vgg.name.upper())(
            weights=None, include_top=not last.startswith("block"), input_shape=(SIDE, SIDE, 3)
        )
        pixels = keras.Input((SIDE, SIDE, 3), dtype="uint8")
        planes = keras.ops.cast(pixels, "float32")[..., ::-1] - extractors[0].weights.preprocessing.mean
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
