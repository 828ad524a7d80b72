"""Compute features with a narrow VGG16 on two halves of the CPU and on the whole CPU, and compare."""

import numpy as np
from narrow_vgg16 import make_narrow, narrow_keras_vgg16

make_narrow({3: 3, 64: 4, 128: 4, 256: 4, 512: 4}, {"fc2": 8, "fc1": 8, "block5_pool": 8})

from pipeline.core.keras_backend import import_keras  # noqa: E402
from pipeline.features.engines.keras import KerasEngine  # noqa: E402
from pipeline.features.extractor import Extractor  # noqa: E402
from pipeline.features.weights import weights_from  # noqa: E402

keras = import_keras()
keras.applications.VGG16 = narrow_keras_vgg16
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    half = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [half, half])
extractor = Extractor(weights_from("random:0"), "block5_pool")
pixels = np.random.default_rng(0).integers(0, 255, (4, 224, 224, 3), np.uint8)
spread = KerasEngine([extractor], 3, devices=["cpu:0", "cpu:1"])
assert spread.batch_size == 4
found, whole = spread(pixels)[0], KerasEngine([extractor], 4, devices=[])(pixels)[0]
assert whole.std() > 0
np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-3)
kernel = spread._network.weights[0].value
copies = kernel.values if keras.backend.backend() == "tensorflow" else kernel.sharding.device_set
assert len(copies) == 2, copies
