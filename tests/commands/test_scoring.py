from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.commands.examples import Examples
from pipeline.commands.saved_decoder import SavedDecoder
from pipeline.commands.scoring import EvaluationInputs, score_decoders
from pipeline.core.model_files import ModelCard
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.targets import TargetTable
from pipeline.features.options import ExtractorOptions
from pipeline.features.sources import NetworkSource

IMAGES = 60


@dataclass
class Named:
    """Features that only provide image names."""

    images: ImageSet

    @property
    def paths(self) -> Sequence[str]:
        return self.images.paths


def inputs_of(labels: Sequence[str], groups: Sequence[str] | None = None, **options) -> EvaluationInputs:
    """One target per image, like responses to single pictures."""
    random = np.random.default_rng(0)
    paths = [f"{number:02}.png" for number in range(IMAGES)]
    images = ImageSet("images", paths, [ImageRef(path) for path in paths], labels, groups)
    targets = random.normal(size=(IMAGES, 5)).astype(np.float32)
    table = TargetTable("targets.csv", dict(zip(paths, range(IMAGES), strict=True)), targets)
    examples = Examples(Named(images), paths, targets, table, images)
    predictions = targets + random.normal(size=targets.shape).astype(np.float32)
    source = NetworkSource(ExtractorOptions("random:0").extractors())
    card = ModelCard("random:0", "", {}, 4096, 5, "linear")
    decoders = {"functional": SavedDecoder(Path("functional.keras"), card, source)}
    scored = {"functional": predictions, "mean": np.tile(targets.mean(axis=0), (IMAGES, 1))}
    return EvaluationInputs(examples, decoders, {"functional": "functional"}, scored, None, **options)


@pytest.mark.parametrize(
    ("labels", "groups", "cluster", "kind", "count"),
    [
        ([f"category {number % 12}" for number in range(IMAGES)], None, None, "label", 12),
        (
            [f"category {number % 12}" for number in range(IMAGES)],
            [f"{n % 15}" for n in range(IMAGES)],
            None,
            "group",
            15,
        ),
        ([f"category {number % 12}" for number in range(IMAGES)], None, "image", "image", IMAGES),
        (["all alike"] * IMAGES, None, None, "image", IMAGES),
        ([f"{number:02}" for number in range(IMAGES)], None, None, "image", IMAGES),
    ],
)
def test_intervals_generalize_over_shared_groups_and_labels(labels, groups, cluster, kind, count) -> None:
    """Images of a category resemble each other, even if each has its own target."""
    result = score_decoders(inputs_of(labels, groups, cluster=cluster))
    assert (result.clusters.kind, result.clusters.count) == (kind, count)
    assert f"{kind}s" in result.clusters.question
