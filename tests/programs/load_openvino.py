"""Load a quantized network into OpenVINO, and print the connections that this process requests.

python load_openvino.py NETWORK
"""

import sys
from pathlib import Path

from pipeline.features.engines.int8 import _openvino

if __name__ == "__main__":
    sys.addaudithook(lambda event, details: print(event, details) if event.startswith("socket.") else None)
    _openvino(Path(sys.argv[1]), [])
