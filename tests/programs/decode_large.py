"""Decode an image file, and print the memory growth in bytes per pixel, as JSON: python decode_large.py FILE."""

import json
import sys
from pathlib import Path

from measuring import peak_memory

from pipeline.data.decoding import decode, decode_with_thumbnail

decode(Path(sys.argv[2]).read_bytes())  # loads the libraries of the format
data = Path(sys.argv[1]).read_bytes()
before = peak_memory()
_, _, pixel_count = decode_with_thumbnail(data)
print(json.dumps({"bytes_a_pixel": (peak_memory() - before) / pixel_count}))
