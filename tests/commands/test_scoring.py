from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.commands.examples import Examples
from pipeline.commands.saved_decoder import SavedDecoder
from pipeline.commands.scoring import EvaluationInputs, score_decoders
from pipeline.core.model_files import ModelCard
from pipeline.core.runs import RunRecord, SplitRecord, write_run
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.targets import TargetTable
from pipeline.decoders.fitting import PRESETS
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


@pytest.mark.parametrize("preset", ["default", "banded", "network"])
def test_advice_on_a_network_is_for_single_networks(preset: str, tmp_path: Path) -> None:
    inputs, model = inputs_of(["all alike"] * IMAGES), {"train_cosine": 0.999}
    fitted = {"models": {"functional": model}, "shares": {}}
    split = SplitRecord("random:0.2", {}, dict.fromkeys(inputs.examples.features.paths, ""))
    write_run(tmp_path, RunRecord({"images": "photos"}, {}, asdict(PRESETS[preset]), 0, split, "", {}, fitted=fitted))
    decoder = replace(inputs.decoders["functional"], file=tmp_path / "functional.keras")
    advice = " ".join(score_decoders(replace(inputs, decoders={"functional": decoder})).conclusions)
    assert "Training on more images usually narrows that gap" in advice
    assert ("A smaller hidden layer" in advice) == (preset == "network")


def test_scores_are_tested_by_permutations(tmp_path: Path) -> None:
    """Sixty images with a target each, twelve labels of five images."""
    labels = [f"category {number % 12}" for number in range(IMAGES)]
    result = score_decoders(inputs_of(labels, permutations=99), tmp_path / "report.html")
    document = result.to_json()
    assert document["permutations"] == {"count": 99, "kind": "label", "clusters": 12, "whole": True, "too_few": None}
    test = document["models"]["functional"]["permutation_test"]
    assert test["centred_cosine"] == test["identification"] == test["pearson"] == 0.01
    assert (test["significant_dimensions"], test["tested_dimensions"]) == (5, 5)
    assert document["baselines"]["mean"]["permutation_test"]["centred_cosine"] == 1
    assert "99 permutations of the targets among 12 labels: p = 0.01" in result.conclusions[-1]
    page = (tmp_path / "report.html").read_text()
    assert '<h2 id="permutations">' in page
    assert "5 of 5" in page


def test_too_few_labels_have_no_p_value_and_a_reason() -> None:
    result = score_decoders(inputs_of([f"category {number % 3}" for number in range(IMAGES)], permutations=99))
    assert result.models["functional"].scores.permutation_test is None
    assert "gives 6 different results; p < 0.05 takes 21." in result.conclusions[-1]
    assert score_decoders(inputs_of(["all alike"] * IMAGES)).to_json()["permutations"] is None
