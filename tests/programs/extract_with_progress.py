"""`extract` that logs its progress every 0.05 s and treats any extraction as long."""

import sys

from pipeline import cli
from pipeline.core import progress
from pipeline.features.backends import local

if __name__ == "__main__":
    progress.INTERVAL, local.LONG = 0.05, 0
    sys.argv[1:1] = ["extract"]
    cli.main()
