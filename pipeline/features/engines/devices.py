"""The devices of the Keras engine, and their batch sizes."""

import ctypes
import math
from collections.abc import Sequence

from pipeline.core.errors import RequestError
from pipeline.core.keras_backend import accelerators, import_keras, unseen_gpu, visible_devices

CPU = "cpu"  # the whole processor
IN_FLIGHT = 2  # batches at a time on a GPU: one is transferred while the other is computed
BATCH_SIZE = 32  # on a processor
# GPU memory per image of a batch, in bytes, with two batches in flight: the two largest activations in float32, and as
# much again for the convolutions.
IMAGE_MEMORY = IN_FLIGHT * 2 * 2 * 4 * 224 * 224 * 64
LARGEST_BATCH, UNKNOWN_MEMORY = 256, 16e9


def chosen_devices(names: str | None) -> list[str]:
    """The devices to run on.

    Args:
        names: See `pipeline.features.options.ExtractionOptions`; None for all accelerators that Keras's backend sees,
            or else the processor.

    Returns:
        "cpu", or devices as Keras names them, such as "gpu:0".

    Raises:
        RequestError: The backend does not see one of them.
    """
    if names is None:
        return accelerators() or [CPU]
    if names == CPU:
        return [CPU]
    visible = visible_devices()
    devices: list[str] = []
    for name in names.split(","):
        matches = [device for device in visible if device == name or device.partition(":")[0] == name]
        if not matches:
            seen, hint = [CPU, *visible] if visible != ["cpu:0"] else [CPU], unseen_gpu()
            raise RequestError(
                f"There is no device {name!r}; {import_keras().backend.backend()} sees {', '.join(seen)}."
                + (f" {hint}." if hint else "")
            )
        devices += matches
    return list(dict.fromkeys(devices))


def batches_at_once(devices: Sequence[str]) -> int:
    """The number of batches that devices compute at a time."""
    return sum(1 if device == CPU else IN_FLIGHT for device in devices)


def default_batch_size(devices: Sequence[str]) -> int:
    """The number of images in a batch: 32 on a processor, up to 256 on a GPU, as its memory allows."""
    if all(device.startswith(CPU) for device in devices):
        return BATCH_SIZE
    memory = min(_memory(int(device.partition(":")[2])) for device in devices)
    return max(BATCH_SIZE, min(LARGEST_BATCH, 2 ** int(math.log2(memory / IMAGE_MEMORY))))


def _memory(number: int) -> float:
    """The total memory of a GPU in bytes, from NVIDIA's driver.

    Not the free memory, so that a resumed run has the same batches.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:  # a GPU of another vendor
        return UNKNOWN_MEMORY
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    steps = (
        lambda: driver.cuInit(0),
        lambda: driver.cuDeviceGet(ctypes.byref(device), number),
        lambda: driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device),
    )
    return UNKNOWN_MEMORY if any(step() for step in steps) else memory.value
