"""Export a narrow VGG16 as ONNX and LiteRT, and print their differences from the Keras model, as JSON.

python export_narrow.py FOLDER LAYERS/POOL/PROJECT...
"""

import json
import sys
from pathlib import Path

import numpy as np
from narrow_vgg16 import make_narrow, narrow_keras_vgg16

make_narrow({3: 3, 64: 4, 128: 4, 256: 4, 512: 4}, {"fc2": 16, "fc1": 16, "block5_pool": 8})

from pipeline.core.keras_backend import import_keras  # noqa: E402  (those below read the layers when imported)
from pipeline.core.model_files import ModelCard  # noqa: E402
from pipeline.export.litert_file import LiteRTFile, write_litert  # noqa: E402
from pipeline.export.onnx_file import OnnxFile, write_onnx_file  # noqa: E402
from pipeline.export.whole_model import join_models  # noqa: E402
from pipeline.features.extractor import describe, extractors_for, total_dim  # noqa: E402
from pipeline.features.weights import weights_from  # noqa: E402

keras = import_keras()
keras.applications.VGG16 = narrow_keras_vgg16
pixels = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)


def differences(layers: str, pool: str, project: str, folder: Path) -> dict[str, float]:
    """Format -> the largest difference from the Keras model's output, relative to its range."""
    settings = {"project": project} if project else {}
    extractors = extractors_for(weights_from("random:0"), layers, pool or None, **settings)
    scales = tuple(0.5 + number for number in range(len(extractors))) if len(extractors) > 1 else ()
    dim = total_dim(extractors)
    card = ModelCard("random:0", "", describe(extractors), dim, 5, "linear", scales)
    decoder = keras.Sequential([keras.Input((dim,)), keras.layers.Dense(5)])
    joined = join_models(extractors, card, decoder)
    expected = np.asarray(joined(pixels))
    onnx, litert = folder / "narrow.onnx", folder / "narrow.tflite"
    write_onnx_file(extractors, card, decoder, {}, onnx)
    write_litert(joined, {}, litert)
    answers = {"onnx": OnnxFile(onnx)(pixels), "litert": LiteRTFile(litert)(pixels)}
    return {kind: float(np.abs(each - expected).max() / np.ptp(expected)) for kind, each in answers.items()}


print(json.dumps({case: differences(*case.split("/"), Path(sys.argv[1])) for case in sys.argv[2:]}))
