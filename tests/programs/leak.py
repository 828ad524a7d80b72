"""Run an engine on a narrow VGG16, and print its memory and file handles after each batch, as JSON.

python leak.py mnn|keras CACHE BATCHES
"""

import json
import sys
from pathlib import Path

import numpy as np
import psutil
from narrow_vgg16 import make_narrow, narrow_keras_vgg16

make_narrow({3: 3, 64: 2, 128: 2, 256: 2, 512: 4}, {"fc2": 8, "fc1": 8, "block5_pool": 4})

from pipeline.features.engines import make_engine  # noqa: E402
from pipeline.features.extractor import Extractor  # noqa: E402
from pipeline.features.weights import weights_from  # noqa: E402

if __name__ == "__main__":
    if sys.argv[1] == "keras":
        from pipeline.core.keras_backend import import_keras

        import_keras().applications.VGG16 = narrow_keras_vgg16
    engine = make_engine(sys.argv[1], [Extractor(weights_from("random:0"))], 2, Path(sys.argv[2]))
    process, pixels = psutil.Process(), np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    memory, handles = [], []
    for _ in range(int(sys.argv[3])):
        assert engine(pixels)[0].shape == (2, 8)
        memory.append(process.memory_info().rss)
        handles.append(process.num_fds())
    print(json.dumps({"memory": memory, "handles": handles}))
