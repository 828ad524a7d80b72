"""The extra cost of several layers in one pass over the deepest layer alone; a part of benchmark_extraction.py."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from measuring import in_turn, table

from pipeline.data.decoding import decode
from pipeline.features.engines import make_engine
from pipeline.features.extractor import Extractor, describe, extractors_for
from pipeline.features.weights import weights_from

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = "random:0"
LISTS = (
    extractors_for(weights_from(WEIGHTS), "fc2,block4_conv3,block5_pool"),
    extractors_for(weights_from(WEIGHTS), "fc2,fc1,block5_pool,block3_conv3:pre", pool="grid:2"),
    extractors_for(weights_from(WEIGHTS), "fc2,block1_conv1,block2_conv2,block3_conv3,block4_conv3,block5_conv3"),
)


def layers(cache: Path, rounds: int) -> dict[str, float]:
    """The time of a batch for lists of layers, relative to fc2 alone, for both engines, measured in turn.

    Args:
        cache: The cache folder.
        rounds: Measured rounds.

    Returns:
        "ENGINE LAYERS" -> time of the list relative to fc2 alone.
    """
    alone = extractors_for(weights_from(WEIGHTS), "fc2")
    tiles = sorted((ROOT / "images").glob("*/*.jpg"))[:32]
    images = np.stack([decode(tile.read_bytes()) for tile in tiles])
    ratios, rows = {}, []
    for name, batch in (("mnn", 8), ("keras", 32)):
        engines = {_names(extractors): make_engine(name, extractors, batch, cache) for extractors in (alone, *LISTS)}
        tasks = {layers: partial(engine, images[:batch]) for layers, engine in engines.items()}
        in_turn(tasks, 1)
        seconds = in_turn(tasks, rounds)
        for extractors in LISTS:
            layers, pool = _names(extractors), describe(extractors).get("pool", "mean")
            ratio = ratios[f"{name} {layers}"] = seconds[layers] / seconds[_names(alone)]
            rows.append((name, layers, pool, f"{batch / seconds[layers]:.1f}", f"{ratio:.3f}"))
    table(("engine", "layers", "pool", "images a second", "time against fc2 alone"), rows)
    return ratios


def _names(extractors: Sequence[Extractor]) -> str:
    return describe(extractors)["layer"]
