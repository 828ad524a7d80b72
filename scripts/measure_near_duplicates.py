"""Misses and false positives of the search for near-duplicates, on the sample's tiles and on handwritten digits.

Each image is changed in one way and looked for among the others (up to 300): a miss is a changed image that is not
found to be a near-duplicate of its original; a false positive is a pair of different images taken for near-duplicates.

    python scripts/measure_near_duplicates.py       # about 3 minutes on two cores
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
AMONG = 300  # originals that a changed image is looked for among
DIGITS_CHANGED = 50

Change = Callable[[Image.Image], Image.Image]


def encoded(image: Image.Image, quality: int) -> Image.Image:
    """An image saved as JPEG and opened again."""
    written = io.BytesIO()
    image.save(written, "JPEG", quality=quality)
    return Image.open(written)


def scaled(image: Image.Image, factor: float) -> Image.Image:
    """An image at another size."""
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def cropped(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """An image without some of its borders, given as shares of its sides."""
    width, height = image.size
    return image.crop(
        (round(width * left), round(height * top), round(width * (1 - right)), round(height * (1 - bottom)))
    )


CHANGES: dict[str, Change] = {
    "JPEG, quality 60": lambda image: encoded(image, 60),
    "JPEG, quality 30": lambda image: encoded(image, 30),
    "half the size": lambda image: scaled(image, 0.5),
    "twice the size": lambda image: scaled(image, 2),
    "cropped by 2 % on each side": lambda image: cropped(image, *(0.02,) * 4),
    "cropped by 5 % on each side": lambda image: cropped(image, *(0.05,) * 4),
    "cropped by 5 % left and top": lambda image: cropped(image, 0.05, 0.05, 0, 0),
    "cropped by 3 %, half the size, JPEG 60": lambda image: encoded(scaled(cropped(image, *(0.03,) * 4), 0.5), 60),
    "cropped by 10 % on each side": lambda image: cropped(image, *(0.1,) * 4),
}


def thumbnails(images: list[Image.Image]) -> np.ndarray:
    """The thumbnails that the feature stage would store."""
    found = []
    for image in images:
        written = io.BytesIO()
        image.convert("RGB").save(written, "PNG")
        found.append(thumbnail(decode(written.getvalue())))
    return np.stack(found)


def count_misses(originals: np.ndarray, changed: np.ndarray) -> int:
    """How many changed images are not found to be near-duplicates of their originals."""
    found = 0
    for row, each in enumerate(changed):
        numbers = number_near_duplicates(np.concatenate([originals, each[None]]))
        found += numbers[-1] == numbers[row]
    return len(changed) - found


def count_false_positives(originals: np.ndarray) -> int:
    """How many pairs of different images share a number."""
    sizes = np.bincount(number_near_duplicates(originals))
    return int((sizes * (sizes - 1) // 2).sum())


def digits() -> list[Image.Image]:
    """Scikit-learn's handwritten digits as images."""
    return [
        Image.fromarray((255 - pixels * 255 / 16).astype(np.uint8)).resize((64, 64), Image.Resampling.NEAREST)
        for pixels in load_digits().images
    ]


def main() -> None:
    """Measure both sets."""
    tiles = [Image.open(file).convert("RGB") for file in sorted((ROOT / "images").glob("*/*.jpg"))]
    sets = {"sample tiles": (tiles, len(tiles)), "digits": (digits(), DIGITS_CHANGED)}
    rows = {change: [change] for change in CHANGES}
    totals = ["**false positives**"]
    for images, changed_count in sets.values():
        originals = thumbnails(images)
        pairs = len(originals) * (len(originals) - 1) // 2
        totals.append(f"{count_false_positives(originals):,} of {pairs:,} pairs")
        for name, change in CHANGES.items():
            changed = thumbnails([change(image) for image in images[:changed_count]])
            rows[name].append(f"{count_misses(originals[:AMONG], changed)} of {changed_count}")
    table(("missed", *sets), [tuple(row) for row in [*rows.values(), totals]])


if __name__ == "__main__":
    main()
