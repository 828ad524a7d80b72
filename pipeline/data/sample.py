"""The bundled sample of photographs and targets, so that a first run needs no other data."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
# In a wheel, the images are inside the package; in a checkout, next to it.
SAMPLE = next((folder for folder in (_PACKAGE / "images", _PACKAGE.parent / "images") if folder.is_dir()), None)
SAMPLE_TARGETS = "targets.csv"  # in the folder of the images
SAMPLE_WEIGHTS = "random:0"
