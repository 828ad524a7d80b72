"""The engine benchmark on a narrow VGG16, with a cache that does not exist yet.

python benchmark_narrow.py CACHE
"""

import sys
from collections.abc import Callable
from pathlib import Path

from narrow_vgg16 import make_narrow, narrow_keras_vgg16

make_narrow({3: 3, 64: 8, 128: 8, 256: 16, 512: 32}, {"fc2": 64, "fc1": 64, "block5_pool": 32})

import engine_peers  # noqa: E402  (it reads the layers when it is imported)

from pipeline.core.keras_backend import import_keras  # noqa: E402


def narrow_keras(cache: Path) -> engine_peers.Peer:
    import_keras().applications.VGG16 = narrow_keras_vgg16
    return keras(cache)


all_peers = engine_peers.peers()
keras = all_peers["Keras predict, batch 32"]
KEPT: dict[str, Callable[[Path], engine_peers.Peer]] = {"Keras predict, batch 32": narrow_keras}
KEPT |= {name: peer for name, peer in all_peers.items() if name.startswith(("MNN", "ONNX"))}
engine_peers.peers = lambda: KEPT

import benchmark_extraction  # noqa: E402  (it takes the peers)

if __name__ == "__main__":  # it is imported again in the process of each peer
    benchmark_extraction.engines(Path(sys.argv[1]), 1)
