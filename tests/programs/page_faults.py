"""Print the page faults of the second of two equal arrays; with an argument, the memory of the first is kept."""

import resource
import sys

import numpy as np

from pipeline.core.machine import keep_freed_memory

SIZE = 2**26
if len(sys.argv) > 1:
    keep_freed_memory(up_to=SIZE)
np.ones(SIZE // 2, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(SIZE // 2, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
