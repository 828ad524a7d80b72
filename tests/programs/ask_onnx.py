"""Run an ONNX file with plain ONNX Runtime, without this package: on the first image, then on the others.

python ask_onnx.py FILE PIXELS.npy
"""

import json
import sys

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
pixels = np.load(sys.argv[2])
embeddings = np.concatenate([session.run(None, {"pixels": some})[0] for some in (pixels[:1], pixels[1:])])
card = json.loads(session.get_modelmeta().custom_metadata_map["pipeline.json"])
assert not {"pipeline", "tensorflow", "keras"} & set(sys.modules)
print(json.dumps({"embeddings": embeddings.tolist(), "card": card}))
