"""Print the number of cores that this process would use.

python usable_cores.py [THE-ONLY-CORE-IT-MAY-RUN-ON]
"""

import os
import sys

from pipeline.core.machine import usable_cores

for core in sys.argv[1:]:
    os.sched_setaffinity(0, {int(core)})
print(usable_cores())
