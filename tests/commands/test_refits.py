"""`train --refits`, with a blend of ridge regression and ramps: without networks, refits are quick."""

import numpy as np
import pytest
from splits_in_memory import split_of

from pipeline.commands.refits import _half, refit
from pipeline.commands.training_options import ExampleOptions, FoldOptions, TrainOptions
from pipeline.core.errors import RequestError
from pipeline.core.vectors import cosines
from pipeline.decoders.blend import BlendConfig
from pipeline.decoders.fitting import fit_decoders
from pipeline.decoders.network import predict
from pipeline.features.options import ExtractionOptions

BLEND = BlendConfig(weight_decays=(), ramps=32)


def test_refits_change_the_seed_and_the_training_images_only() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 6))
    split = split_of(x, x @ random.normal(size=(6, 3)), np.arange(60) % 4, 40)
    options = TrainOptions(
        refits=2, api="functional", examples=ExampleOptions(seed=7), extraction=ExtractionOptions(progress=False)
    )

    def predicted(seed: int) -> np.ndarray:
        model = fit_decoders(split.training_data(), BLEND, seed=seed).models["functional"]
        return predict(model, split.held_out.features.stored())

    refits = refit(split, BLEND, options, predicted(7))
    targets = split.held_out.targets
    by_seed = [float(cosines(predicted(seed), targets).mean()) for seed in (8, 9)]
    assert refits.cosine == pytest.approx(cosines(predicted(7), targets).mean())
    assert refits.seeds.mean == pytest.approx(np.mean(by_seed))
    assert refits.seeds.deviation == pytest.approx(np.std(by_seed, ddof=1))
    assert (refits.seeds.lowest, refits.seeds.highest) == pytest.approx((min(by_seed), max(by_seed)))
    assert (refits.count, refits.half) == (2, 20)
    assert refits.halves != refits.seeds
    assert refits.halves.lowest < refits.halves.highest


@pytest.mark.parametrize(
    ("units", "halves"), [(np.arange(9), {4, 5}), (np.arange(12) // 3, {6}), (np.zeros(5, int), {5})]
)
def test_a_half_is_made_of_whole_units(units: np.ndarray, halves: set[int]) -> None:
    draws = [_half(units, np.zeros(len(units), int), seed) for seed in range(20)]
    for rows in draws:
        assert len(rows) in halves
        assert set(units[rows]).isdisjoint(np.delete(units, rows))
    if len(np.unique(units)) > 1:
        assert len({tuple(rows) for rows in draws}) > 3


def test_a_half_has_half_of_each_label() -> None:
    labels = np.repeat([0, 1, 2, 3], [2, 4, 6, 5])
    draws = [_half(np.arange(17), labels, seed) for seed in range(40)]
    assert all(np.bincount(labels[rows])[:3].tolist() == [1, 2, 3] for rows in draws)
    assert {len(rows) for rows in draws} == {8, 9}
    alone = [_half(np.arange(10), np.arange(10), seed) for seed in range(20)]  # a label for each image
    assert {len(rows) for rows in alone} == {5}
    assert len({tuple(rows) for rows in alone}) > 10


def test_folds_have_no_refits() -> None:
    with pytest.raises(RequestError, match="folds show how much the score moves with repeats"):
        TrainOptions(refits=2, folds=FoldOptions(3))
