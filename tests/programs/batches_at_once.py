"""Compute batches in two threads with a narrow VGG16, and compare with computing them in turn."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from narrow_vgg16 import make_narrow, narrow_keras_vgg16

make_narrow({3: 3, 64: 4, 128: 4, 256: 4, 512: 4}, {"fc2": 8, "fc1": 8, "block5_pool": 8})

from pipeline.core.keras_backend import import_keras  # noqa: E402
from pipeline.features.engines.keras import KerasEngine  # noqa: E402
from pipeline.features.extractor import Extractor  # noqa: E402
from pipeline.features.weights import weights_from  # noqa: E402

import_keras().applications.VGG16 = narrow_keras_vgg16
extractor = Extractor(weights_from("random:0"), "block5_pool")
engine = KerasEngine([extractor], 2, devices=["cpu:0"])
assert engine.at_once == 2
batches = np.random.default_rng(0).integers(0, 255, (12, 2, 224, 224, 3), np.uint8)
with ThreadPoolExecutor(engine.at_once) as threads:
    found = [features for [features] in threads.map(engine, batches)]
expected = [features for [features] in map(engine, batches)]
assert np.std(expected) > 0
np.testing.assert_array_equal(found, expected)
