import numpy as np
import pytest
from sklearn.linear_model import RidgeCV

from pipeline.core.errors import PipelineError
from pipeline.core.keras_backend import import_keras
from pipeline.core.vectors import cosines
from pipeline.data.splits import assign_folds
from pipeline.decoders import xla
from pipeline.decoders.blend import MANY, MOST_STEPS, Blend, BlendConfig, build_blend, fit_blend
from pipeline.decoders.callbacks import Callbacks
from pipeline.decoders.ridge import RidgeFolds

CONFIG = BlendConfig(weight_decays=(3.0, 10.0), units=32, epochs=30, ramps=64)


@pytest.fixture(scope="module", params=[64, 16], ids=["fewer images than features", "more"])
def fitted(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, Blend]:
    random = np.random.default_rng(0)
    x = np.maximum(random.normal(size=(90, request.param)), 0).astype(np.float32)
    y = (x[:, :4] @ random.normal(size=(4, 6)) + 0.3 * random.normal(size=(90, 6)) + 1).astype(np.float32)
    return x, y, fit_blend(x[:60], y[:60], np.arange(60), CONFIG)


def test_the_blend_predicts_better_than_the_mean(fitted: tuple[np.ndarray, np.ndarray, Blend]) -> None:
    x, y, blend = fitted
    predicted = blend.network((x[60:] - blend.mean) / blend.scale)
    assert ((predicted - y[60:]) ** 2).mean() < 0.7 * ((y[:60].mean(axis=0) - y[60:]) ** 2).mean()


def test_both_styles_are_bit_identical_and_load_in_safe_mode(fitted, tmp_path) -> None:
    keras = import_keras()
    x, _, blend = fitted
    predictions = {}
    for style in ("functional", "sequential"):
        build_blend(blend, style).save(tmp_path / f"{style}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{style}.keras", safe_mode=True)
        predictions[style] = keras.ops.convert_to_numpy(loaded(x[60:]))
    assert np.array_equal(predictions["functional"], predictions["sequential"])
    assert np.allclose(predictions["functional"], blend.network((x[60:] - blend.mean) / blend.scale), atol=1e-3)


def test_pure_noise_gets_a_share_near_0() -> None:
    random = np.random.default_rng(1)
    x, y = random.normal(size=(40, 30)).astype(np.float32), 2 + random.normal(size=(40, 5)).astype(np.float32)
    blend = fit_blend(x, y, np.arange(40), CONFIG)
    deviation = blend.network((x - blend.mean) / blend.scale) - y.mean(axis=0)
    assert (deviation**2).mean() < 0.1 * y.var(axis=0).mean()


def test_the_blend_of_few_noisy_images_is_not_the_mean_target() -> None:
    """The mean of centred targets is useless, and a weak prediction is better than none."""
    scores = []
    for seed in range(4):
        random = np.random.default_rng(seed)
        x = np.maximum(random.normal(size=(120, 5)) @ random.normal(size=(5, 64)), 0).astype(np.float32)
        y = (x[:, :8] @ random.normal(size=(8, 40)) / 4 + 2 * random.normal(size=(120, 40))).astype(np.float32)
        y -= y.mean(axis=0)
        blend = fit_blend(x[:20], y[:20], np.arange(20), CONFIG, seed)
        predicted = blend.network((x[20:] - blend.mean) / blend.scale)
        ridge = RidgeCV(np.logspace(-2, 5, 15)).fit(x[:20], y[:20]).predict(x[20:])
        scores.append([cosines(prediction, y[20:]).mean() for prediction in (predicted, ridge)])
    ours, theirs = np.mean(scores, axis=0)
    assert ours > theirs + 0.02


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("count", range(1, 9))
def test_small_and_flat_data_give_finite_predictions(count: int, dim: int) -> None:
    random = np.random.default_rng([count, dim])
    x = np.maximum(random.normal(size=(count, 6)), 0).astype(np.float32)
    y = random.normal(size=(count, dim)).astype(np.float32)
    units = np.arange(count)
    tiny = BlendConfig(weight_decays=(), ramps=8)  # networks take seconds to compile per shape
    cases = {
        "as they are": (x, y, units),
        "equal features": (np.full_like(x, 0.3), y, units),
        "one feature equal": (np.hstack([x, np.full((count, 1), 0.3, np.float32)]), y, units),
        "zero features": (np.zeros_like(x), y, units),
        "duplicates": (np.repeat(x[:1], count, 0), y, np.zeros(count, int)),
        "equal targets": (x, np.ones_like(y), units),
        "zero targets": (x, np.zeros_like(y), units),
        "small": (x * np.float32(1e-4), y * np.float32(1e-4), units),
        "large": (x * np.float32(1e4), y * np.float32(1e4), units),
        "far": (x + np.float32(1e4), y + np.float32(1e4), units),
        "pairs": (x, y, units // 2),
    }
    for name, (features, targets, groups) in cases.items():
        blend = fit_blend(features, targets, groups, tiny)
        predicted = blend.network((features - blend.mean) / blend.scale)
        assert np.isfinite(predicted).all(), name
        assert np.abs(predicted).max() <= 3 * max(np.abs(targets).max(), 1e-30), name


@pytest.mark.parametrize("scale", [1e-3, 1e2])
def test_the_unit_of_the_targets_has_no_effect(fitted: tuple[np.ndarray, np.ndarray, Blend], scale: float) -> None:
    x, y, blend = fitted
    scaled = fit_blend(x[:60], y[:60] * np.float32(scale), np.arange(60), CONFIG)
    expected = blend.network((x[60:] - blend.mean) / blend.scale)
    predicted = scaled.network((x[60:] - scaled.mean) / scaled.scale) / scale
    assert cosines(predicted, expected).min() > 0.999


def test_many_images_use_one_fold_and_a_bounded_number_of_steps() -> None:
    config = BlendConfig()
    assert config.trainings(MANY - 1) == 12
    assert config.trainings(MANY) == 4
    assert config.steps(320) == 1000
    assert config.steps(10 * MANY) == MOST_STEPS


def test_one_fold_is_enough_for_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    x = np.maximum(random.normal(size=(400, 16)), 0).astype(np.float32)
    y = (x[:, :4] @ random.normal(size=(4, 6)) + 0.3 * random.normal(size=(400, 6))).astype(np.float32)
    monkeypatch.setattr("pipeline.decoders.blend.MANY", 200)
    monkeypatch.setattr("pipeline.decoders.blend.COMPARED", 120)
    monkeypatch.setattr("pipeline.decoders.blend.COMPARED_ROWS", 10)
    blend = fit_blend(x[:300], y[:300], np.arange(300), CONFIG)
    predicted = blend.network((x[300:] - blend.mean) / blend.scale)
    assert cosines(predicted, y[300:]).mean() > 0.8


def test_the_memory_estimate_counts_features_targets_and_sums() -> None:
    config = BlendConfig()
    small = config.memory(10_000, 4096, 50)
    assert config.memory(20_000, 4096, 50) > small + 10_000 * 4096 * 4
    assert config.memory(10_000, 8192, 50) > small + 8 * 8192**2
    assert config.memory(10_000, 4096, 15_000) > small + 4 * 10_000 * 15_000


def test_one_label_is_enough() -> None:
    x, y = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32), np.ones((6, 2), np.float32)
    blend = fit_blend(x, y, np.zeros(6, int), CONFIG)
    assert np.allclose(blend.network(x), 1)


def test_one_image_learns_its_target() -> None:
    x, y = np.ones((1, 8), np.float32), np.array([[1, 2]], np.float32)
    blend = fit_blend(x, y, np.arange(1), CONFIG)
    assert np.array_equal(build_blend(blend, "sequential")(x), y)


def test_two_images_are_enough() -> None:
    x, y = np.eye(2, 8, dtype=np.float32), np.eye(2, dtype=np.float32)
    blend = fit_blend(x, y, np.arange(2), CONFIG)
    assert np.isfinite(blend.network(x)).all()


def test_a_blend_resumes_after_the_last_trained_network(monkeypatch, tmp_path) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(30, 12)).astype(np.float32), random.normal(size=(30, 4)).astype(np.float32)
    undisturbed = fit_blend(x, y, np.arange(30), CONFIG)
    monkeypatch.setattr("pipeline.decoders.callbacks.CHECKPOINT_EVERY", 0.0)
    callbacks, trained, train_network = Callbacks(checkpoint=tmp_path / "checkpoint.npz"), [], xla.train_network

    def interrupted(*arguments):
        trained.append(arguments)
        if len(trained) == 8:
            raise KeyboardInterrupt
        return train_network(*arguments)

    monkeypatch.setattr(xla, "train_network", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_blend(x, y, np.arange(30), CONFIG, callbacks=callbacks)
    resumed = fit_blend(x, y, np.arange(30), CONFIG, callbacks=callbacks)
    assert len(trained) == 1 + CONFIG.trainings(30)  # the eighth network twice
    assert resumed.shares == undisturbed.shares
    assert np.array_equal(resumed.network.out, undisturbed.network.out)
    with pytest.raises(PipelineError, match="checkpoint of another training"):
        fit_blend(x, y + 1, np.arange(30), CONFIG, callbacks=callbacks)


@pytest.mark.parametrize("shape", [(60, 12), (40, 50)])
def test_the_ridge_baseline_reuses_the_eigendecomposition(shape: tuple[int, int], monkeypatch) -> None:
    random = np.random.default_rng(0)
    x = (random.normal(size=shape) + 3).astype(np.float32)
    y = (x[:, :4] + random.normal(size=(len(x), 4))).astype(np.float32)
    blend = fit_blend(x, y, np.arange(len(x)), BlendConfig(weight_decays=(), ramps=8))
    own = RidgeFolds(x, y, assign_folds(y, np.arange(len(x)), 0, 5)).best()
    monkeypatch.delattr("pipeline.decoders.ridge.RidgePath")
    shared = blend.ridge()
    assert np.allclose(shared.coefficients, own.coefficients, atol=1e-4)
    assert np.allclose(shared.intercept, own.intercept, atol=1e-3)
