"""Print which heavy libraries are imported by `import pipeline`."""

import sys

import pipeline  # noqa: F401

print([name for name in ("numpy", "keras", "tensorflow", "lance") if name in sys.modules])
