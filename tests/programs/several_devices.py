"""Extract with a narrow VGG16 on parts of the CPU that stand in for GPUs, and on the whole CPU, and compare.

python several_devices.py FOLDER
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from narrow_vgg16 import make_narrow, narrow_keras_vgg16
from PIL import Image

make_narrow({3: 3, 64: 4, 128: 4, 256: 4, 512: 4}, {"fc2": 8, "fc1": 8, "block5_pool": 8})

from pipeline.core import keras_backend  # noqa: E402
from pipeline.core.keras_backend import import_keras  # noqa: E402
from pipeline.data.sources import find_images  # noqa: E402
from pipeline.features.engines.keras import KerasEngine  # noqa: E402
from pipeline.features.extraction import extract_features  # noqa: E402
from pipeline.features.extractor import Extractor  # noqa: E402
from pipeline.features.options import ExtractionOptions  # noqa: E402
from pipeline.features.weights import weights_from  # noqa: E402

DEVICES, BATCH, IMAGES = 8, 3, 70
EXTRACTOR = Extractor(weights_from("random:0"), "block5_pool")


def extracted(images: Path, device: str) -> np.ndarray:
    """The features of all images, computed on a device."""
    options = ExtractionOptions(
        engine="keras", device=device, batch_size=BATCH, workers=1, cache=images.parent / device, progress=False
    )
    features = extract_features(find_images(images), EXTRACTOR, options)
    assert (features.computed, features.device) == (IMAGES, device.replace(",", ", "))
    return features.vectors()


def check_devices(backend: str, folder: Path) -> None:
    if backend == "tensorflow":
        import tensorflow

        parts = [tensorflow.config.LogicalDeviceConfiguration()] * DEVICES
        tensorflow.config.set_logical_device_configuration(tensorflow.config.list_physical_devices("CPU")[0], parts)
    images = folder / "images"
    images.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (IMAGES, 8, 8, 3), np.uint8)):
        Image.fromarray(pixels).save(images / f"{number:02}.png")
    expected = extracted(images, "cpu")
    assert len(np.unique(expected, axis=0)) == IMAGES
    with batches_by_device(backend) as batches:
        features = extracted(images, ",".join(f"cpu:{number}" for number in range(DEVICES)))
    np.testing.assert_array_equal(features, expected)
    assert len(batches) == DEVICES
    assert sum(batches.values()) == -(-IMAGES // BATCH)


@contextlib.contextmanager
def batches_by_device(backend: str) -> Iterator[Counter[str]]:
    """Count the batches that are transferred to each device."""
    module, name = {"tensorflow": ("tensorflow", "convert_to_tensor"), "jax": ("jax", "device_put")}[backend]
    transfer = getattr(sys.modules[module], name)
    counts: Counter[str] = Counter()

    def counting(value: Any, *settings: Any, **options: Any) -> Any:
        result = transfer(value, *settings, **options)
        if isinstance(value, np.ndarray) and value.dtype == np.uint8:
            counts[str(result.device)] += 1
        return result

    with patch.object(sys.modules[module], name, counting):
        yield counts


def check_threads(devices: list[str]) -> None:
    """Two batches at a time on each device give the same bits as one after the other on the first."""
    engine, alone = KerasEngine([EXTRACTOR], BATCH, devices), KerasEngine([EXTRACTOR], BATCH, ["cpu"])
    batches = np.random.default_rng(0).integers(0, 255, (12, BATCH, 224, 224, 3), np.uint8)
    with ThreadPoolExecutor(engine.at_once) as threads:
        features = [features for [features] in threads.map(engine, batches)]
    np.testing.assert_array_equal(features, [features for [features] in map(alone, batches)])


def check_unseen_gpu(backend: str, folder: Path) -> None:
    """A GPU that the machine seems to have but the backend does not see."""
    (folder / "dev").mkdir()
    (folder / "dev" / "nvidia0").touch()
    before, keras_backend.DEVICES = keras_backend.DEVICES, folder / "dev"
    assert keras_backend.accelerators() == []
    message = str(keras_backend.unseen_gpu())
    assert message.startswith(f"{backend} does not see the GPU of this machine")
    assert message.endswith(keras_backend.ADVICE[backend][0])
    keras_backend.DEVICES = before


if __name__ == "__main__":
    keras = import_keras()
    keras.applications.VGG16 = narrow_keras_vgg16
    backend, folder = keras.backend.backend(), Path(sys.argv[1])
    if backend == "torch":  # it cannot divide the CPU
        check_threads(["cpu", "cpu"])
    else:
        check_devices(backend, folder)
        check_threads(["cpu:0", "cpu:1"])
    check_unseen_gpu(backend, folder)
