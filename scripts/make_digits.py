"""Write scikit-learn's handwritten digits as image files, a second data set.

Writes 1,797 digits of the UCI test set (Alpaydin and Kaynak 1998; CC BY 4.0), 8 x 8 pixels with 17 grey levels, as
OUT/zero/0000.png ... OUT/nine/1796.png, enlarged to 64 x 64 pixels. `digits_targets.csv` next to this script has the
GloVe 6B 50-d vectors of the names (Pennington, Socher, Manning 2014; public domain, PDDL).

    python scripts/make_digits.py OUT
    python -m pipeline train OUT --targets scripts/digits_targets.csv --weights random:0
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TARGETS = Path(__file__).resolve().parent / "digits_targets.csv"
SIDE = 64
DARKEST = 16  # scikit-learn's largest grey level; these images have dark ink on white


def write_digits(out: Path) -> None:
    """Write all digits, each into the folder of its name."""
    digits = load_digits()
    for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        file = out / NAMES[digit] / f"{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.rint(255 - pixels * 255 / DARKEST).astype(np.uint8))
        image.resize((SIDE, SIDE), Image.Resampling.NEAREST).save(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    write_digits(parser.parse_args().out)
