"""The sample: photographs and targets that come with the package, so that a first run needs nothing else."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
# A wheel holds the images inside the package, a checkout beside it.
SAMPLE = next((folder for folder in (_PACKAGE / "images", _PACKAGE.parent / "images") if folder.is_dir()), None)
SAMPLE_TARGETS = "targets.csv"  # in its folder
SAMPLE_WEIGHTS = "random:0"
