"""Compare features by the held-out cosine of the default decoder, over several splits: weights, layers, precisions.

All features are compared on the same splits. The table has the mean cosine of each, its difference from the first (with
the standard error over the splits), and, if only the precision differs, the mean cosine between its vectors and those
of the first after subtracting the first's mean vector ("centred").

    python scripts/compare_features.py IMAGES TARGETS weights=random:0 weights=random:0,precision=int8 --seeds 10
    python scripts/compare_features.py IMAGES TARGETS weights=FILE,layer=block5_pool weights=FILE,layer=block4_pool
"""

import argparse
from pathlib import Path

import numpy as np
from measuring import table

from pipeline.commands.examples import Examples, Source, load_numbered_examples
from pipeline.core.vectors import cosines
from pipeline.data.options import TargetOptions
from pipeline.data.sources import find_images
from pipeline.data.splits import SplitRule, held_out_units, split_images
from pipeline.decoders.blend import BlendConfig, fit_blend
from pipeline.decoders.streaming import in_memory
from pipeline.features.options import ExtractionOptions, ExtractorOptions
from pipeline.features.sources import NetworkSource

HEAD = ("features", "dimensions", "held-out cosine", "minus the first (s.e.)", "centred cosine to the first")


def extractor_options(text: str) -> ExtractorOptions:
    """Parse options such as "weights=random:0,layer=block4_pool+block5_pool,pool=max"."""
    options = dict(part.split("=", 1) for part in text.split(","))
    return ExtractorOptions(**options | {"layer": options.get("layer", "fc2").replace("+", ",")})


def held_out_cosines(
    examples: Examples, duplicates: np.ndarray, rule: SplitRule, seeds: int, most: int | None
) -> list[float]:
    """The held-out mean cosine of the default decoder for each seed, with at most `most` training images."""
    images, y, scores = examples.features.images, examples.targets, []
    units = held_out_units(images, rule, duplicates)
    for seed in range(seeds):
        split = split_images(images, rule, duplicates, seed)
        train = split.train
        if most and most < len(train):
            train = np.sort(np.random.default_rng(seed).choice(train, most, replace=False))
        x = in_memory(examples.features.scaled_by(train).stored())
        blend = fit_blend(x[train], y[train], units[train], BlendConfig(), seed)
        predicted = blend.network((x[split.validation] - blend.mean) / blend.scale)
        scores.append(float(cosines(predicted, y[split.validation]).mean()))
    return scores


def main() -> None:
    """Print each row of the table as soon as it is available."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", metavar="IMAGES")
    parser.add_argument("targets", type=Path, metavar="TARGETS")
    parser.add_argument("features", nargs="+", metavar="NAME=VALUE,...", help="options of extract; join layers by +")
    parser.add_argument("--seeds", type=int, default=5, help="the number of splits")
    parser.add_argument("--split", type=SplitRule.parse, default=SplitRule(), metavar="RULE")
    parser.add_argument("--most", type=int, metavar="N", help="train on at most N images")
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args()
    source = Source.read(find_images(options.images), TargetOptions(options.targets))
    extraction = ExtractionOptions(**({"cache": options.cache} if options.cache else {}))
    table(HEAD, [])
    reference = None
    for text in options.features:
        network = NetworkSource(extractor_options(text).extractors())
        examples, duplicates = load_numbered_examples(source, network, extraction)
        scores = held_out_cosines(examples, duplicates, options.split, options.seeds, options.most)
        kind = {name: value for name, value in network.description.items() if name not in ("precision", "calibration")}
        vectors = examples.features.vectors()
        cells = [text, str(examples.features.dim), f"{np.mean(scores):.4f}"]
        if reference is None:
            reference = kind, vectors, scores
        else:
            differences = np.subtract(scores, reference[2])
            cells.append(f"{differences.mean():+.4f} ({differences.std(ddof=1) / len(scores) ** 0.5:.4f})")
            if kind == reference[0]:
                mean = reference[1].mean(axis=0)
                cells.append(f"{cosines(vectors - mean, reference[1] - mean).mean():.5f}")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
