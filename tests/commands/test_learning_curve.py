"""`train --learning-curve`, with a blend of ridge regression and ramps, which is quick."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from splits_in_memory import split_of

from pipeline.commands.examples import SplitExamples
from pipeline.commands.learning_curve import learning_curve, nested_parts
from pipeline.commands.training_options import ExampleOptions, FoldOptions, TrainOptions
from pipeline.core.errors import RequestError
from pipeline.core.vectors import cosines
from pipeline.decoders.blend import BlendConfig
from pipeline.decoders.fitting import fit_decoders
from pipeline.decoders.network import predict
from pipeline.evaluation.intervals import within
from pipeline.evaluation.learning_curve import LearningCurve
from pipeline.features.options import ExtractionOptions

BLEND = BlendConfig(weight_decays=(), ramps=32)
OPTIONS = TrainOptions(
    learning_curve=True,
    api="functional",
    examples=ExampleOptions(seed=5),
    extraction=ExtractionOptions(progress=False),
)


def examples(noise: float, dim: int, train: int = 160, seed: int = 0) -> SplitExamples:
    random = np.random.default_rng(seed)
    x = random.normal(size=(train + 60, dim))
    y = x @ random.normal(size=(dim, 8)) / np.sqrt(dim) + noise * random.normal(size=(len(x), 8))
    return split_of(x, y, np.arange(len(x)) % 6, train)


def predicted(split: SplitExamples, rows: np.ndarray | None = None) -> np.ndarray:
    units = split.units[split.train] if rows is None else split.units[split.train][rows]
    model = fit_decoders(split.training_data(part=rows), BLEND, units=units, seed=5).models["functional"]
    return predict(model, split.held_out.features.stored())


def curve_of(split: SplitExamples) -> LearningCurve:
    curve = learning_curve(split, BLEND, OPTIONS, predicted(split))
    assert curve
    return curve


def test_points_are_separate_trainings_on_the_same_held_out_images() -> None:
    split = examples(noise=0.3, dim=40)
    curve, targets = curve_of(split), split.held_out.targets
    assert [point.images for point in curve.points] == [10, 20, 40, 80, 160]
    parts = nested_parts(split.units[split.train], split.strata, 5)
    values = [cosines(predicted(split, rows), targets) for rows in (parts[0], parts[-1], None)]
    assert [curve.points[place].cosine for place in (0, -2, -1)] == [value.mean() for value in values]
    labels = split.held_out.features.images.labels
    assert curve.points[0].ci95_same_labels == within(values[0], labels).bounds(1.0)
    assert curve.gain == (values[2] - values[1]).mean()
    assert curve.gain_ci95_same_labels == within(values[2] - values[1], labels).bounds(2.0)


def test_more_images_are_shown_to_help_only_if_they_do() -> None:
    rising, flat = curve_of(examples(noise=0.3, dim=120)), curve_of(examples(noise=0.6, dim=4, train=1600))
    assert np.all(np.diff([point.cosine for point in rising.points]) > 0)
    assert rising.gain_ci95_same_labels[0] > 0
    assert "instead of 80" in rising.sentence()
    assert rising.sentence().endswith("more images helped.")
    assert abs(flat.gain) < 0.01
    assert flat.sentence().endswith("more images are not shown to have helped.")
    tables = rising.section().tables
    assert [row[0] for row in tables[0].rows] == ["10", "20", "40", "80", "160"]


@pytest.mark.parametrize("per_unit", [1, 4])
def test_parts_are_nested_stratified_and_keep_units_together(per_unit: int) -> None:
    units = np.arange(192) // per_unit
    strata = np.repeat([0, 1, 2], [96, 64, 32])
    parts = nested_parts(units, strata, 1)
    assert [len(part) for part in parts] == [12, 24, 48, 96]
    for part, larger in zip(parts, [*parts[1:], np.arange(192)], strict=True):
        assert set(part) <= set(larger)
        assert set(units[part]).isdisjoint(np.delete(units, part))
        shares = np.bincount(strata[part], minlength=3)
        assert shares == pytest.approx(len(part) * np.array([3, 2, 1]) / 6, abs=per_unit)
    assert not np.array_equal(parts[0], nested_parts(units, strata, 2)[0])


@pytest.mark.parametrize(("train", "sizes"), [(12, [2, 3, 6]), (5, [2])])
def test_parts_of_few_images_are_left_out(train: int, sizes: list[int]) -> None:
    parts = nested_parts(np.arange(train), np.zeros(train, int), 0)
    assert list(map(len, parts)) == sizes


def test_a_curve_with_fewer_sizes_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert len(curve_of(examples(noise=0.3, dim=10, train=160)).points) == 5
    assert caplog.messages == []
    assert len(curve_of(examples(noise=0.3, dim=10, train=12)).points) == 4
    assert caplog.messages == ["The learning curve has 4 sizes instead of 5: 12 training images are too few for more."]


def test_too_few_images_have_no_curve(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    split = examples(noise=0.3, dim=2, train=2)
    assert learning_curve(split, BLEND, OPTIONS, predicted(split)) is None
    assert "2 training images are too few" in caplog.text
    assert learning_curve(split, BLEND, replace(OPTIONS, learning_curve=False), predicted(split)) is None


def test_folds_have_no_learning_curve() -> None:
    with pytest.raises(RequestError, match="leave out the folds"):
        TrainOptions(learning_curve=True, folds=FoldOptions(3))
