"""Run a SavedModel on image files with plain TensorFlow, without this package.

python ask_savedmodel.py FOLDER FILE...
"""

import json
import sys
from pathlib import Path

import tensorflow as tf

loaded = tf.saved_model.load(sys.argv[1])
files = tf.constant([Path(file).read_bytes() for file in sys.argv[2:]])
[embeddings] = loaded.signatures["serve_bytes"](files=files).values()
assert "pipeline" not in sys.modules
print(json.dumps(embeddings.numpy().tolist()))
