"""Decode mutated images, and print the number refused and the memory growth, as JSON.

python fuzz_images.py FOLDER-OF-SEEDS COUNT
"""

import faulthandler
import json
import random
import sys
from pathlib import Path

from measuring import peak_memory
from mutations import mutated

from pipeline.core.errors import ImageError
from pipeline.data.decoding import decode

seeds = [file.read_bytes() for file in sorted(Path(sys.argv[1]).iterdir())]
chance = random.Random(0)
before, refused = peak_memory(), 0
for _ in range(int(sys.argv[2])):
    data = mutated(chance.choice(seeds), chance)
    faulthandler.dump_traceback_later(20, exit=True)  # kills this process if it hangs
    try:
        assert decode(data, 10_000_000).shape == (224, 224, 3)
    except ImageError:
        refused += 1
    faulthandler.cancel_dump_traceback_later()
grown = peak_memory() - before
print(json.dumps({"refused": refused, "grown": grown}))
