"""`train --compare-layers`: the layer is chosen on training images."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import SMALL, decoder_weights, make_images, write_targets
from scipy import stats
from splits_in_memory import InMemory, split_of

from pipeline.commands.examples import SplitExamples
from pipeline.commands.layer_comparison import ComparedLayers, compare_layers
from pipeline.commands.training_options import ExampleOptions, FoldOptions, TrainOptions
from pipeline.core.errors import RequestError
from pipeline.core.model_files import read_card
from pipeline.core.vectors import ArrayRows, cosines
from pipeline.decoders.blend import BlendConfig
from pipeline.decoders.fitting import fit_decoders
from pipeline.decoders.network import predict
from pipeline.decoders.options import DecoderOptions
from pipeline.evaluation.intervals import within
from pipeline.evaluation.layers import LayerComparison, LayerPredictions
from pipeline.features.options import ExtractionOptions, ExtractorOptions

BLEND = BlendConfig(weight_decays=(), ramps=32)
LAYERS = ExtractorOptions(layer="early,late")
TRAIN, HELD_OUT = 60, 40


@dataclass(frozen=True)
class Layered(InMemory):
    """The features of the layers "early" and "late", six numbers each."""

    def of_layer(self, number: int) -> InMemory:
        return InMemory(self.images, ArrayRows(self.values[:][:, 6 * number : 6 * number + 6], self.values.rows))

    @property
    def layers(self) -> list:
        return [SimpleNamespace(extractor=SimpleNamespace(layer=name, dim=6)) for name in ("early", "late")]

    def subset(self, rows: np.ndarray) -> "Layered":
        return Layered(self.images.subset(rows), self.values.subset(rows))


def layered(seed: int = 0, held_out_layer: int = 0) -> SplitExamples:
    """Training targets are linear in the early layer, held-out targets in one of the layers, both with noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(TRAIN + HELD_OUT, 12))
    parts, coefficients = (x[:, :6], x[:, 6:]), random.normal(size=(6, 3))
    y = parts[0] @ coefficients + 0.6 * random.normal(size=(len(x), 3))
    # The late layer repeats the early one for held-out images only, where the early one is noise.
    if held_out_layer == 1:
        x[TRAIN:, 6:], x[TRAIN:, :6] = x[TRAIN:, :6].copy(), random.normal(size=(HELD_OUT, 6))
        x[:TRAIN, 6:] = x[:TRAIN, :6] + 1.5 * random.normal(size=(TRAIN, 6))
    split = split_of(x, y, np.arange(len(x)) % 5, TRAIN)
    features = split.all.features
    return replace(split, all=replace(split.all, features=Layered(features.images, features.values)))


def compared(split: SplitExamples) -> ComparedLayers:
    options = TrainOptions(
        compare_layers=True,
        api="functional",
        examples=ExampleOptions(seed=3),
        extractor=LAYERS,
        extraction=ExtractionOptions(progress=False),
    )
    return compare_layers(split, BLEND, options)


@pytest.mark.parametrize("held_out_layer", [0, 1])
def test_the_layer_is_chosen_on_training_images(held_out_layer: int) -> None:
    """Even if another layer predicts the held-out images far better."""
    result = compared(layered(held_out_layer=held_out_layer))
    early, late = result.comparison.layers
    assert early.out_of_fold > late.out_of_fold + 0.05
    assert (early.chosen, late.chosen) == (True, False)
    assert (late.cosine > early.cosine + 0.2) == (held_out_layer == 1)
    assert result.extractor.layer == "early"
    assert result.examples.all.features.dim == 6


def test_scores_are_those_of_separate_trainings() -> None:
    split = layered()
    result = compared(split)
    targets, values = split.held_out.targets, []
    for number in range(2):
        part = replace(split, all=replace(split.all, features=split.all.features.of_layer(number)))
        fitted = fit_decoders(part.training_data(), BLEND, units=part.units[part.train], seed=3)
        values.append(cosines(predict(fitted.models["functional"], part.held_out.features.stored()), targets))
        score = result.comparison.layers[number]
        assert score.cosine == values[number].mean()
        assert score.out_of_fold == fitted.out_of_fold
    late = result.comparison.layers[1]
    assert late.difference == (values[1] - values[0]).mean()
    labels = split.held_out.features.images.labels
    interval = within(values[1] - values[0], labels).bounds(2.0)
    assert (late.difference_ci95, late.difference_ci95_same_labels) == (None, interval)
    assert interval[1] < 0
    text = " ".join(result.comparison.section().paragraphs)
    assert "early was chosen" in text
    assert f"({interval[0]:+.4f} to {interval[1]:+.4f}): shown to differ" in text.replace("95 % interval ", "")


def test_the_verdict_is_about_the_next_best_layer_on_training_images() -> None:
    """The best of several layers by their held-out scores would differ from the chosen one too often."""
    random = np.random.default_rng(0)
    targets = random.normal(size=(40, 5))
    predictions = [
        LayerPredictions(name, 6, score, targets + noise * random.normal(size=targets.shape))
        for name, score, noise in (("a", 0.9, 1), ("b", 0.7, 0.1), ("c", 0.8, 1), ("d", None, 1))
    ]
    comparison = LayerComparison.of(predictions, 0, targets, [str(row) for row in range(40)])
    text = " ".join(comparison.section().paragraphs)
    assert "the difference of c, the next best on the training images, is" in text
    assert comparison.layers[1].difference_ci95[0] > 0.2
    assert "of many equally good layers" in text


def test_one_of_many_equally_good_layers_seems_to_differ_but_rarely_the_next_best() -> None:
    random, names, times = np.random.default_rng(0), "abcdefgh", 200
    several = [str(row) for row in range(60)]
    some = next_best = 0
    for _ in range(times):
        targets, common = random.normal(size=(2, 60, 20))
        noise = [common + random.normal(size=targets.shape) / 2 for _ in names]
        layers = [
            LayerPredictions(name, 6, -number, targets + error)
            for number, (name, error) in enumerate(zip(names, noise, strict=True))
        ]
        others = LayerComparison.of(layers, 0, targets, several).layers[1:]
        intervals = [layer.difference_ci95 or (0, 0) for layer in others]
        differ = [not low <= 0 <= high for low, high in intervals]
        some, next_best = some + any(differ), next_best + differ[0]
    assert some > 0.15 * times
    assert next_best <= stats.binom.ppf(0.999, times, 0.05)


def test_the_out_of_fold_score_is_like_that_of_new_images() -> None:
    """Over several data sets, it is as high as the held-out score, which the choice does not use."""
    pairs = []
    for seed in range(8):
        early = compared(layered(seed)).comparison.layers[0]
        pairs.append((early.out_of_fold, early.cosine))
    out_of_fold, held_out = np.mean(pairs, axis=0)
    assert out_of_fold == pytest.approx(held_out, abs=0.03)


@pytest.mark.slow
def test_the_run_is_that_of_the_chosen_layer(run, tmp_path: Path) -> None:
    for number, label in enumerate(("blue", "green", "red")):
        make_images(tmp_path / "photos" / label, range(8 * number, 8 * number + 8))
    named = ("--targets", write_targets(tmp_path, "blue", "green", "red"), "--models", tmp_path / "models")
    common = ("train", tmp_path / "photos", *named, *SMALL, "--api", "functional", "--json")
    result = run(*common, "--layer", "block5_conv3,block5_pool", "--compare-layers").json
    chosen = next(layer for layer in result["layers"]["layers"] if layer["chosen"])
    best = max(result["layers"]["layers"], key=lambda layer: layer["out_of_fold"])
    assert chosen == best
    assert chosen["cosine"] == result["models"]["functional"]["validation_cosine"]
    alone = run(*common, "--layer", chosen["layer"]).json
    assert all(map(np.array_equal, *(decoder_weights(trained["run"], ["functional"]) for trained in (result, alone))))
    folder = Path(result["run"])
    assert read_card(folder / "functional.keras").extractor["layer"] == chosen["layer"]
    evaluated = run("evaluate", folder, "--quiet", "--json").json
    assert evaluated["models"]["functional"]["cosine"]["mean"] == pytest.approx(chosen["cosine"])
    assert 'id="layers"' in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "compare_layers=True needs several layers: layer="),
        ({"extractor": ExtractorOptions(layer="fc2")}, "needs several layers"),
        ({"extractor": LAYERS, "decoder": DecoderOptions(hidden=(8,))}, "out-of-fold predictions, which only"),
        ({"extractor": LAYERS, "folds": FoldOptions(3)}, "leave out the folds"),
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        TrainOptions(compare_layers=True, **options)


def test_a_layer_that_does_not_fit_into_memory_is_named() -> None:
    split = layered()
    options = TrainOptions(compare_layers=True, memory=2**26, extractor=LAYERS)
    with pytest.raises(RequestError, match="The layer early is too large to be compared"):
        compare_layers(split, BlendConfig(ramps=2_000_000), options)
