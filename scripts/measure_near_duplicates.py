"""Count misses and false positives of near-duplicate detection, on the sample's tiles and on handwritten digits.

Each image is altered in one way and searched for among up to 300 others. A miss is an altered image that is not
detected as a near-duplicate of its original; a false positive is a pair of different images detected as
near-duplicates.

    python scripts/measure_near_duplicates.py               # some minutes on two cores
    python scripts/measure_near_duplicates.py --many 20000  # time and recall against a comparison of all pairs
    python scripts/measure_near_duplicates.py --many 200000 # time
"""

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring import peak_memory, table
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.data import near_duplicates
from pipeline.data.decoding import THUMBNAIL, decode, thumbnail
from pipeline.data.near_duplicates import duplicate_groups, number_near_duplicates

ROOT = Path(__file__).resolve().parent.parent
AMONG = 300  # number of originals among which an altered image is searched for
ALL_PAIRS = 20_000  # images up to which all pairs are compared; the time is quadratic
DIGITS_CHANGED = 50

Change = Callable[[Image.Image], Image.Image]


def encoded(image: Image.Image, quality: int) -> Image.Image:
    """Save an image as JPEG and open it again."""
    written = io.BytesIO()
    image.save(written, "JPEG", quality=quality)
    return Image.open(written)


def scaled(image: Image.Image, factor: float) -> Image.Image:
    """Resize an image."""
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def cropped(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """Crop the borders of an image, as shares of its sides."""
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
    made = []
    for image in images:
        written = io.BytesIO()
        image.convert("RGB").save(written, "PNG")
        made.append(thumbnail(decode(written.getvalue())))
    return np.stack(made)


def count_misses(originals: np.ndarray, changed: np.ndarray) -> int:
    """Count altered images that are not detected as near-duplicates of their originals."""
    hits = 0
    for row, altered in enumerate(changed):
        numbers = number_near_duplicates(np.concatenate([originals, altered[None]]))
        hits += numbers[-1] == numbers[row]
    return len(changed) - hits


def count_false_positives(originals: np.ndarray) -> int:
    """Count pairs of different images with the same number."""
    sizes = np.bincount(number_near_duplicates(originals))
    return int((sizes * (sizes - 1) // 2).sum())


def digits() -> list[Image.Image]:
    """scikit-learn's handwritten digits as images."""
    return [
        Image.fromarray((255 - pixels * 255 / 16).astype(np.uint8)).resize((64, 64), Image.Resampling.NEAREST)
        for pixels in load_digits().images
    ]


def made_images(count: int) -> list[Image.Image]:
    """Small grey images, each an overlay of two windows of the sample's tiles; a tenth are altered copies."""
    random = np.random.default_rng(0)
    tiles = [Image.open(file).convert("L") for file in sorted((ROOT / "images").glob("*/*.jpg"))]

    def window() -> Image.Image:
        tile = tiles[random.integers(len(tiles))]
        side = random.uniform(0.3, 0.7) * min(tile.size)
        left, top = random.uniform(0, tile.width - side), random.uniform(0, tile.height - side)
        return tile.resize((72, 72), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))

    originals = [Image.blend(window(), window(), random.uniform(0.2, 0.8)) for _ in range(count * 9 // 10)]
    changes = [change for name, change in CHANGES.items() if "10 %" not in name]
    return originals + [changes[row % len(changes)](originals[row]) for row in range(count - len(originals))]


def small(image: Image.Image) -> np.ndarray:
    """The thumbnail of a small grey image."""
    return np.asarray(image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR))


def pairs(numbers: np.ndarray) -> set[tuple[int, int]]:
    """The pairs of rows with the same number."""
    groups = duplicate_groups(numbers)
    return {(a, b) for group in groups for place, a in enumerate(group) for b in group[place + 1 :]}


def compare_all(thumbnails: np.ndarray) -> np.ndarray:
    """The rule of `number_near_duplicates`, applied to all pairs without an index; shape (N,)."""
    views = np.stack([near_duplicates._unit_vectors(crop) for crop in near_duplicates._crops(thumbnails)])
    count, block = views.shape[1], near_duplicates.BLOCK
    reach, near = np.empty(count, np.float32), []
    for by_reach in (True, False):
        for start in range(0, count, block):
            rows = np.arange(start, min(start + block, count))
            best = views[0, rows] @ views[0].T
            for view in views[1:]:
                np.maximum(best, views[0, rows] @ view.T, out=best)
                np.maximum(best, view[rows] @ views[0].T, out=best)
            distance = 1 - best
            distance[np.arange(len(rows)), rows] = np.inf
            if by_reach:
                rank = min(near_duplicates.NEIGHBOUR, count - 1) - 1
                reach[rows] = np.partition(distance, rank, axis=1)[:, rank]
            else:
                limit = near_duplicates.RATIO * np.minimum(reach[rows, None], reach)
                ours, theirs = np.nonzero(distance <= np.maximum(limit, near_duplicates.ALWAYS_NEAR))
                near.append((rows[ours], theirs))
    return near_duplicates._connected(*np.concatenate(near, axis=1), count)


def measure_many(count: int) -> None:
    """Time and memory of the search among many images and, if there are few enough, its recall."""
    images = np.stack([small(image) for image in made_images(count)])
    start = time.perf_counter()
    detected = pairs(number_near_duplicates(images, progress=True))
    rows = [("the search", f"{time.perf_counter() - start:.1f} s, {len(detected):,} pairs")]
    rows.append(("peak memory", f"{peak_memory() / 1e9:.2f} GB"))
    if count <= ALL_PAIRS:
        start = time.perf_counter()
        exact = pairs(compare_all(images))
        rows.append(("all pairs", f"{time.perf_counter() - start:.1f} s, {len(exact):,} pairs"))
        rows.append(("of these found by the search", f"{len(exact & detected) / len(exact):.4f}"))
        rows.append(("found by the search alone", f"{len(detected - exact)}"))
    table((f"{count:,} images", "measured"), rows)


def main() -> None:
    """Measure both sets, or many generated images."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--many", type=int, metavar="N", help="measure the search among N generated images instead")
    if many := parser.parse_args().many:
        return measure_many(many)
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
