"""The command line, with a line of progress every fifth of a second and an estimate for any number of images."""

from pipeline.cli import main
from pipeline.core import progress
from pipeline.features import extraction

progress.INTERVAL, extraction.LONG = 0.2, 0

if __name__ == "__main__":
    main()
