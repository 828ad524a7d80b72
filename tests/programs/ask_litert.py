"""Run a LiteRT file with plain LiteRT, without this package: on the first image, then on the others.

python ask_litert.py FILE PIXELS.npy
"""

import json
import sys
import zipfile

import numpy as np
from ai_edge_litert.interpreter import Interpreter

embed = Interpreter(sys.argv[1]).get_signature_runner()
pixels = np.load(sys.argv[2])
embeddings = np.concatenate([embed(pixels=some)["output_0"] for some in (pixels[:1], pixels[1:])])
card = json.loads(zipfile.ZipFile(sys.argv[1]).read("pipeline.json"))
assert not {"pipeline", "tensorflow", "keras"} & set(sys.modules)
print(json.dumps({"embeddings": embeddings.tolist(), "card": card}))
