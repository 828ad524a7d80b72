"""Train a decoder on a backend without TensorFlow.

python train_elsewhere.py FOLDER   # reads data.npz and start.weights.h5, writes result.npz
"""

import sys
from pathlib import Path

import numpy as np

from pipeline.decoders.network import DecoderSpec, TrainingConfig, build_decoder, predict
from pipeline.decoders.training import TrainingData, fit

folder = Path(sys.argv[1])
with np.load(folder / "data.npz") as arrays:
    data = TrainingData(**arrays)
config = TrainingConfig(DecoderSpec((16,)), epochs=12, batch_size=8, keep="best", patience=6)
model = build_decoder(config.decoder, "functional", data.x, data.y, 0)
model.load_weights(folder / "start.weights.h5")
history = fit({"functional": model}, data, config)["functional"]
np.savez(
    folder / "result.npz",
    **history.curves,
    kept_epoch=history.kept_epoch,
    predicted=predict(model, data.x_validation),
)
assert "tensorflow" not in sys.modules
