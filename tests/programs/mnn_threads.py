"""Print how many threads worked while MNN computed features.

python mnn_threads.py CACHE
"""

import sys
from pathlib import Path

import numpy as np
import psutil

from pipeline.features.engines import make_engine
from pipeline.features.extractor import Extractor
from pipeline.features.weights import weights_from

WORKED = 0.05  # seconds


def thread_times() -> dict[int, float]:
    return {thread.id: thread.user_time + thread.system_time for thread in psutil.Process().threads()}


if __name__ == "__main__":
    engine = make_engine("mnn", [Extractor(weights_from("random:0"), "block5_pool")], 1, Path(sys.argv[1]))
    pixels = np.zeros((1, 224, 224, 3), np.uint8)
    before = thread_times()
    for _ in range(6):
        engine(pixels)
    print(sum(spent - before.get(thread, 0) > WORKED for thread, spent in thread_times().items()))
