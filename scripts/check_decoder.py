"""Is the default decoder at least level with ridge regression? On the sample and on handwritten digits, five seeds.

Each seed makes another split, other initial weights and another order of the batches; the decoder, ridge and the mean
baseline see the same images. Held-out cosine and top-1, means over the seeds; and the paired difference of the decoder
to ridge with its 95 % interval (Student's t).

    python scripts/make_digits.py DIGITS
    python scripts/check_decoder.py DIGITS        # about 5 minutes on two cores, most of it VGG16
"""

import argparse
from pathlib import Path

import numpy as np
from measuring import table
from scipy.stats import ttest_1samp

from pipeline.cli import extract
from pipeline.core.vectors import cosines
from pipeline.data.near_duplicates import find_near_duplicates
from pipeline.data.sources import find_images
from pipeline.data.splits import SplitRule
from pipeline.data.targets import pair, read_targets
from pipeline.decoders.baselines import Baselines
from pipeline.decoders.config import PRESETS
from pipeline.decoders.spec import build_decoder
from pipeline.decoders.training import fit, predict
from pipeline.evaluation.retrieval import Candidates, retrieve
from pipeline.features.extraction import ExtractionOptions
from pipeline.features.extractor import Extractor
from pipeline.features.weights import weights_from

ROOT = Path(__file__).resolve().parent.parent
SEEDS = range(5)


def held_out(folder: Path, targets: Path, computing: ExtractionOptions) -> dict[str, np.ndarray]:
    """Name -> held-out cosine and top-1 of each seed, shape (seeds, 2)."""
    images = find_images(folder)
    table = read_targets(targets, images)
    pairs = pair(extract(images, Extractor(weights_from("random:0")), computing), table)
    candidates = Candidates(zip(table.rows, table.vectors, strict=True))
    copies, x, y = find_near_duplicates(pairs.features), pairs.features.stored(), pairs.targets
    found = {"ours": [], "ridge": [], "mean": []}
    for seed in SEEDS:
        sides = split(pairs, SplitRule(), copies, seed)
        rows, others = sides.train, sides.validation
        data = Data(x.subset(rows), y[rows], x.subset(others), y[others]).loaded()
        model = build_decoder(PRESETS["default"].decoder, "functional", data.x, data.y, seed)
        fit({"functional": model}, data, PRESETS["default"], seed)
        predictions = Baselines.fit(data.x, data.y).predict(data.x_validation)
        for name, predicted in {"ours": predict(model, data.x_validation), **predictions}.items():
            top1 = retrieve(predicted, data.y_validation, candidates).summary()["top1"]
            found[name].append([cosines(predicted, data.y_validation).mean(), top1])
    return {name: np.array(values) for name, values in found.items()}


def main() -> None:
    """Check both sets."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("digits", type=Path, metavar="DIGITS", help="what make_digits.py has written")
    parser.add_argument("--cache", type=Path)
    asked = parser.parse_args()
    computing = ExtractionOptions(**({"cache": asked.cache} if asked.cache else {}))
    sets = {
        "sample": (ROOT / "images", ROOT / "images" / "targets.csv"),
        "digits": (asked.digits, ROOT / "scripts" / "digits_targets.csv"),
    }
    rows = []
    for name, (folder, targets) in sets.items():
        found = held_out(folder, targets, computing)
        for which, values in found.items():
            cosine, top1 = values.mean(axis=0)
            rows.append((name, which, f"{cosine:.4f}", f"{top1:.1%}", ""))
        difference = ttest_1samp(found["ours"][:, 0] - found["ridge"][:, 0], 0)
        low, high = difference.confidence_interval(0.95)
        mean = (found["ours"] - found["ridge"])[:, 0].mean()
        rows[-3] = (*rows[-3][:-1], f"{mean:+.4f} ({low:+.4f} to {high:+.4f})")
    table(("five seeds", "", "held-out cosine", "top-1", "cosine, paired difference to ridge"), rows)


if __name__ == "__main__":
    main()
