import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pytest

from pipeline.commands.cross_validation import cross_validate, fold_result
from pipeline.commands.examples import Examples, SplitExamples
from pipeline.commands.training_options import FoldOptions, TrainOptions
from pipeline.commands.training_run import FoldResult
from pipeline.core.json_values import typed
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.splits import Split, SplitRule
from pipeline.data.targets import TargetTable
from pipeline.decoders.network import DecoderSpec, TrainingConfig


@dataclass
class Layered:
    """Features of two layers in memory; they record the rows used for scaling."""

    images: ImageSet
    vectors: np.ndarray
    scaled: list[list[int]] = field(default_factory=list)
    bands: dict[str, int] = field(default_factory=lambda: {"first": 3, "second": 5})

    def scaled_by(self, rows: np.ndarray) -> "Layered":
        self.scaled.append(rows.tolist())
        return replace(self, vectors=self.vectors / self.vectors[rows].std())

    def stored(self) -> "Rows":
        return Rows(self.vectors)


class Rows(np.ndarray):
    def __new__(cls, vectors: np.ndarray) -> "Rows":
        return np.asarray(vectors, np.float32).view(cls)

    def subset(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self[rows])


def examples_of(labels: Sequence[str]) -> Examples:
    random = np.random.default_rng(0)
    paths = [f"{number:02}.png" for number in range(len(labels))]
    images = ImageSet("images", paths, [ImageRef(path) for path in paths], labels)
    names = sorted(set(labels))
    vectors = random.normal(size=(len(names), 4)).astype(np.float32)
    table = TargetTable("targets.csv", dict(zip(names, range(len(names)), strict=True)), vectors)
    x = random.normal(size=(len(labels), 8)).astype(np.float32)
    features = Layered(images, x)
    return Examples(features, list(labels), vectors[[names.index(label) for label in labels]], table, images)


def test_folds_score_baselines_and_scale_layers_with_their_training_images() -> None:
    examples = examples_of(list("abc" * 4))
    network = TrainingConfig(DecoderSpec(hidden=()), epochs=1)
    nothing = np.array([], np.intp)
    split = SplitExamples(examples, SplitRule(), Split(np.arange(12), nothing, nothing), nothing, np.arange(12))
    options = TrainOptions(api="functional")
    found = cross_validate(split, network, options, FoldOptions(3, repeats=2))
    assert [len(rows) for rows in examples.features.scaled] == [8] * 6
    for repeat in (examples.features.scaled[:3], examples.features.scaled[3:]):
        left_out = [row for rows in repeat for row in set(range(12)) - set(rows)]
        assert sorted(left_out) == list(range(12))
    assert set(found.result.baselines) == {"mean", "ridge", "conse"}
    assert set(found.predictions) == {"functional", *found.result.baselines}
    assert found.training.folds.tolist() != sorted(found.training.folds)  # in the order of the images
    assert (np.bincount(found.training.folds) == 4).all()
    differences = {each.minus: each for each in found.result.differences}
    assert set(differences) == {"mean", "ridge", "conse"}
    for name, each in differences.items():
        decoder, baseline = found.result.validation_cosine["functional"], found.result.baselines[name]
        assert each.mean == pytest.approx(decoder.mean - baseline.mean)
        assert each.ci95 is None  # of 12 images


def test_differences_over_folds_are_paired() -> None:
    scores = {"functional": [0.5, 0.7, 0.6], "ridge": [0.4, 0.6, 0.5]}
    result = fold_result(scores, ["functional"], FoldOptions(3), 30)
    [difference] = result.differences
    assert (difference.of, difference.minus) == ("functional", "ridge")
    assert difference.ci95 == pytest.approx((0.1, 0.1))  # the same in every fold, although the folds differ
    # t(0.975; 2) = 4.303, variance 0.01 times 1/3 + 1/2
    half = 4.3027 * (0.01 * (1 / 3 + 1 / 2)) ** 0.5
    assert result.baselines["ridge"].ci95 == pytest.approx((0.5 - half, 0.5 + half), abs=1e-4)


def test_there_is_no_interval_over_folds_for_few_images() -> None:
    scores = {"functional": [0.5, 0.7, 0.6], "ridge": [0.4, 0.6, 0.5]}
    result = fold_result(scores, ["functional"], FoldOptions(3), 28)
    assert result.validation_cosine["functional"].ci95 is result.differences[0].ci95 is None


def test_fold_results_survive_json_including_earlier_versions() -> None:
    result = fold_result({"functional": [0.5, 0.7], "mean": [0.1, 0.2]}, ["functional"], FoldOptions(2), 30)
    document = json.loads(json.dumps(asdict(result)))
    assert json.loads(json.dumps(asdict(typed(FoldResult, document)))) == document
    del document["baselines"], document["differences"]
    assert typed(FoldResult, document).baselines == {}
