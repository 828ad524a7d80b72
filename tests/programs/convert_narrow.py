"""Convert a narrow VGG16 with all 512 features, under the name of the full one with weights random:0.

python convert_narrow.py CACHE
"""

import sys
from pathlib import Path

from narrow_vgg16 import make_narrow

make_narrow({3: 3, 64: 8, 128: 8, 256: 8, 512: 8}, {"fc2": 4096, "fc1": 4096, "block5_pool": 512})

from pipeline.features.engines.mnn import converted_network  # noqa: E402  (it reads the layers when it is imported)
from pipeline.features.extractor import Extractor  # noqa: E402
from pipeline.features.weights import weights_from  # noqa: E402

converted_network([Extractor(weights_from("random:0"), "block5_pool")], Path(sys.argv[1]))
