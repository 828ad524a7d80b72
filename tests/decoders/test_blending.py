import numpy as np
import pytest

from pipeline.core.keras_backend import import_keras
from pipeline.decoders.blending import Blend, BlendConfig, build_blend, deal_folds, fit_blend

CONFIG = BlendConfig(weight_decays=(3.0, 10.0), units=32, epochs=30, ramps=64)


@pytest.fixture(scope="module", params=[64, 16], ids=["fewer images than features", "more"])
def fitted(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, Blend]:
    random = np.random.default_rng(0)
    x = np.maximum(random.normal(size=(90, request.param)), 0).astype(np.float32)
    y = (x[:, :4] @ random.normal(size=(4, 6)) + 0.3 * random.normal(size=(90, 6)) + 1).astype(np.float32)
    return x, y, fit_blend(x[:60], y[:60], np.arange(60), CONFIG)


def test_it_predicts_better_than_the_mean(fitted: tuple[np.ndarray, np.ndarray, Blend]) -> None:
    x, y, blend = fitted
    predicted = blend.network((x[60:] - blend.mean) / blend.scale)
    assert ((predicted - y[60:]) ** 2).mean() < 0.7 * ((y[:60].mean(axis=0) - y[60:]) ** 2).mean()


def test_out_of_fold_it_is_at_least_as_good_as_each_candidate(fitted: tuple[np.ndarray, np.ndarray, Blend]) -> None:
    errors = dict(fitted[2].errors)
    blend = errors.pop("blend")
    assert len(errors) == 5
    assert blend <= min(errors.values()) + 1e-6


def test_both_styles_have_the_same_bits_and_load_in_safe_mode(fitted, tmp_path) -> None:
    keras = import_keras()
    x, _, blend = fitted
    found = {}
    for style in ("functional", "sequential"):
        build_blend(blend, style).save(tmp_path / f"{style}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{style}.keras", safe_mode=True)
        found[style] = keras.ops.convert_to_numpy(loaded(x[60:]))
    assert np.array_equal(found["functional"], found["sequential"])
    assert np.allclose(found["functional"], blend.network((x[60:] - blend.mean) / blend.scale), atol=1e-3)


def test_noise_gets_next_to_no_share() -> None:
    random = np.random.default_rng(1)
    x, y = random.normal(size=(40, 30)).astype(np.float32), random.normal(size=(40, 5)).astype(np.float32)
    blend = fit_blend(x, y, np.arange(40), CONFIG)
    deviation = blend.network((x - blend.mean) / blend.scale) - y.mean(axis=0)
    assert (deviation**2).mean() < 0.1 * y.var(axis=0).mean()


def test_folds_deal_each_target_evenly_and_keep_duplicates_together() -> None:
    targets = np.repeat(np.eye(4), 10, axis=0)
    duplicates = np.arange(40)
    duplicates[[1, 2]] = 0
    folds = deal_folds(targets, duplicates, seed=0, count=5)
    assert len(set(folds[:3])) == 1
    for label in range(1, 4):
        assert (np.bincount(folds[10 * label : 10 * label + 10], minlength=5) == 2).all()


def test_one_label_is_enough() -> None:
    x, y = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32), np.ones((6, 2), np.float32)
    assert sorted(np.bincount(deal_folds(y, np.zeros(6, int), seed=0, count=5))) == [1, 1, 1, 1, 2]
    blend = fit_blend(x, y, np.zeros(6, int), CONFIG)
    assert np.allclose(blend.network(x), 1)


def test_of_one_image_its_target_is_learned() -> None:
    x, y = np.ones((1, 8), np.float32), np.array([[1, 2]], np.float32)
    blend = fit_blend(x, y, np.arange(1), CONFIG)
    assert np.array_equal(build_blend(blend, "sequential")(x), y)


def test_two_images_are_enough() -> None:
    x, y = np.eye(2, 8, dtype=np.float32), np.eye(2, dtype=np.float32)
    blend = fit_blend(x, y, np.arange(2), CONFIG)
    assert np.isfinite(blend.network(x)).all()
