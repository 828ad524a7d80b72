"""Misses and false alarms of the search for near-copies, on the sample's photographs and on handwritten digits.

Each picture is changed in one way, alone, and looked for among the others (up to 300): a miss is a changed picture
that is not found to be a copy of its own original; a false alarm is a pair of different pictures taken for copies.

    python scripts/measure_copies.py
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring import table
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.data.decoding import decode, thumbnail
from pipeline.data.near_duplicates import number_near_duplicates

ROOT = Path(__file__).resolve().parent.parent
DIGITS, AMONG = 1797, 300
Picture = Image.Image


def encoded(picture: Picture, quality: int) -> Picture:
    """A picture saved as JPEG and opened again."""
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=quality)
    return Image.open(held)


def scaled(picture: Picture, factor: float) -> Picture:
    """A picture at another size."""
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BICUBIC)


def cropped(picture: Picture, left: float, above: float, right: float, below: float) -> Picture:
    """A picture without some of its borders, given as shares of its sides."""
    width, height = picture.size
    return picture.crop(
        (round(width * left), round(height * above), round(width * (1 - right)), round(height * (1 - below)))
    )


CHANGES: dict[str, Callable[[Picture], Picture]] = {
    "JPEG, quality 60": lambda picture: encoded(picture, 60),
    "JPEG, quality 30": lambda picture: encoded(picture, 30),
    "half the size": lambda picture: scaled(picture, 0.5),
    "twice the size": lambda picture: scaled(picture, 2),
    "cropped by 2 % each side": lambda picture: cropped(picture, *(0.02,) * 4),
    "cropped by 5 % each side": lambda picture: cropped(picture, *(0.05,) * 4),
    "cropped by 5 % left and above": lambda picture: cropped(picture, 0.05, 0.05, 0, 0),
    "cropped by 3 %, half the size, JPEG 60": lambda picture: encoded(scaled(cropped(picture, *(0.03,) * 4), 0.5), 60),
    "cropped by 10 % each side": lambda picture: cropped(picture, *(0.1,) * 4),
}


def thumbnails(pictures: list[Picture]) -> np.ndarray:
    """The thumbnails that the feature stage would keep."""
    found = []
    for picture in pictures:
        held = io.BytesIO()
        picture.convert("RGB").save(held, "PNG")
        found.append(thumbnail(decode(held.getvalue())))
    return np.stack(found)


def misses(originals: np.ndarray, changed: np.ndarray) -> int:
    """How many of the changed pictures are not found to be copies of their originals."""
    found = 0
    for row, each in enumerate(changed):
        numbers = number_near_duplicates(np.concatenate([originals, each[None]]))
        found += numbers[-1] == numbers[row]
    return len(changed) - found


def alarms(originals: np.ndarray) -> int:
    """How many pairs of different pictures share a number."""
    sizes = np.bincount(number_near_duplicates(originals))
    return int((sizes * (sizes - 1) // 2).sum())


def digits(count: int) -> list[Picture]:
    """Handwritten digits of scikit-learn, as pictures."""
    return [Image.fromarray((255 - image * 255 / 16).astype(np.uint8)).resize((64, 64), Image.Resampling.NEAREST)
            for image in load_digits().images[:count]]  # fmt: skip


def main() -> None:
    """Measure both."""
    photographs = [Image.open(file).convert("RGB") for file in sorted((ROOT / "images").glob("*/*.jpg"))]
    sets = {"sample tiles": (photographs, len(photographs)), "digits": (digits(DIGITS), 50)}
    rows = {change: [change] for change in CHANGES}
    totals = ["false alarms"]
    for pictures, looked_for in sets.values():
        originals = thumbnails(pictures)
        totals.append(f"{alarms(originals)} of {len(originals) * (len(originals) - 1) // 2} pairs")
        for change, apply in CHANGES.items():
            changed = thumbnails([apply(picture) for picture in pictures[:looked_for]])
            rows[change].append(f"{misses(originals[:AMONG], changed)} of {looked_for}")
    table(("missed", *sets), [tuple(row) for row in [*rows.values(), totals]])


if __name__ == "__main__":
    main()
