import dataclasses
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from himalaya.kernel_ridge import MultipleKernelRidgeCV
from himalaya.ridge import GroupRidgeCV
from himalaya.scoring import r2_score_split
from sklearn.linear_model import Ridge as SklearnRidge

from pipeline.core.errors import RequestError
from pipeline.data.splits import assign_folds
from pipeline.decoders import banded as module
from pipeline.decoders.banded import (
    ALPHAS,
    Banded,
    BandedConfig,
    band_slices,
    build_banded,
    explained_squares,
    fit_banded,
)
from pipeline.decoders.fitting import config_from_json, effective_config, fit_decoders, fit_shuffled
from pipeline.decoders.network import API_STYLES, predict
from pipeline.decoders.training import TrainingData

CONFIG = BandedConfig(draws=10)
BANDS = (5, 40, 25)


def simulated(images: int, dim: int = 4, signal: int = 0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features in BANDS of different units and means, and targets that only one band predicts."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(images, sum(BANDS)))
    band = band_slices(BANDS)[signal]
    weights = np.random.default_rng(9).normal(size=(BANDS[signal], dim)) / BANDS[signal] ** 0.5
    y = x[:, band] @ weights + 0.3 * random.normal(size=(images, dim))
    units = np.repeat([1.0, 10.0, 0.1], BANDS)
    return (x * units + 20).astype(np.float32), ((y + 7) * np.logspace(-6, 3, dim)).astype(np.float32)


def predicted(banded: Banded, x: np.ndarray) -> np.ndarray:
    return predict(build_banded(banded, "functional"), x)


def mean_r2(y: np.ndarray, predictions: np.ndarray, centre: np.ndarray) -> float:
    return float(np.mean(1 - np.square(y - predictions).sum(axis=0) / np.square(y - centre).sum(axis=0)))


@pytest.mark.parametrize("images", [40, 200])  # fewer and more than features
def test_predictions_are_those_of_himalaya(images: int) -> None:
    x, y = simulated(images)
    new = simulated(30, seed=1)[0]
    units = np.arange(images) // 2  # pairs of images share a fold
    ours = predicted(fit_banded(x, y, BANDS, units, CONFIG, seed=3), new)
    mean = x.mean(axis=0, dtype=np.float64)
    deviation = y.std(axis=0, dtype=np.float64)
    lengths = [np.square(x[:, band] - mean[band]).sum(axis=1).mean() ** 0.5 for band in band_slices(BANDS)]
    z, z_new = (
        [(values[:, band] - mean[band]) / length for band, length in zip(band_slices(BANDS), lengths, strict=True)]
        for values in (x, new)
    )
    folds = assign_folds(y, units, 3, CONFIG.folds)
    settings = {
        "fit_intercept": True,
        "cv": [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(CONFIG.folds)],
        "random_state": 3,
        "solver_params": {"n_iter": CONFIG.draws, "alphas": ALPHAS, "progress_bar": False},
    }
    if images > sum(BANDS):
        theirs = GroupRidgeCV("input", **settings).fit(z, y / deviation).predict(z_new)
    else:
        kernels = np.stack([part @ part.T for part in z])
        model = MultipleKernelRidgeCV("precomputed", **settings).fit(kernels, y / deviation)
        theirs = model.predict(np.stack([part @ fit.T for part, fit in zip(z_new, z, strict=True)]))
    np.testing.assert_allclose((ours - y.mean(axis=0)) / deviation, theirs - (y / deviation).mean(axis=0), atol=1e-4)


@pytest.mark.parametrize("images", [40, 200])
def test_one_band_with_one_penalty_is_scikit_learns_ridge(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = simulated(images)
    monkeypatch.setattr(module, "ALPHAS", np.array([0.1]))
    ours = fit_banded(x, y, (), np.arange(images))
    length = np.square(x - x.mean(axis=0, dtype=np.float64)).sum(axis=1).mean()
    theirs = SklearnRidge(0.1 * length).fit(x.astype(np.float64), y.astype(np.float64))
    scale = np.abs(theirs.coef_.T).max(axis=0)
    np.testing.assert_allclose(ours.ridge.coefficients / scale, theirs.coef_.T / scale, atol=1e-5)
    np.testing.assert_allclose(predicted(ours, x), theirs.predict(x), rtol=1e-4)


@pytest.mark.parametrize(("images", "signal"), [(60, 0), (60, 2), (300, 1)])
def test_the_layer_with_the_signal_explains_nearly_all(images: int, signal: int) -> None:
    x, y = simulated(images, signal=signal)
    new, truth = simulated(100, signal=signal, seed=1)
    model = build_banded(fit_banded(x, y, BANDS, np.arange(images), CONFIG), "sequential")
    explained, total = explained_squares(model, new, truth, BANDS)
    r2 = (explained / total).mean(axis=1)
    assert r2[signal] > (0.55 if signal == 2 else 0.8)
    assert np.abs(np.delete(r2, signal)).max() < 0.05
    assert r2.sum() == pytest.approx(mean_r2(truth, predict(model, new), y.mean(axis=0)), abs=1e-3)


def test_parts_of_r2_are_himalayas_product_measure() -> None:
    x, y = simulated(60)
    new, truth = simulated(50, seed=1)
    banded = fit_banded(x, y, BANDS, np.arange(60), CONFIG)
    explained, total = explained_squares(build_banded(banded, "functional"), new, truth, BANDS)
    deviation = truth.std(axis=0, dtype=np.float64)
    parts = [(new[:, band] - banded.mean[band]) @ banded.ridge.coefficients[band] for band in band_slices(BANDS)]
    with pytest.warns(UserWarning, match="zero-mean"):  # targets are centred on the training mean
        theirs = r2_score_split((truth - banded.ridge.intercept) / deviation, np.stack(parts) / deviation)
    np.testing.assert_allclose(explained / total, theirs, atol=1e-4)


def test_irrelevant_layers_cost_less_than_in_ridge_regression() -> None:
    x, y = simulated(60)
    new, truth = simulated(200, seed=1)
    together, apart = (predicted(fit_banded(x, y, bands, np.arange(60), CONFIG), new) for bands in ((), BANDS))
    assert mean_r2(truth, apart, y.mean(axis=0)) > mean_r2(truth, together, y.mean(axis=0)) + 0.05


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("images", [1, 2, 3, 5])
@pytest.mark.parametrize("bands", [(), BANDS])
def test_few_images(images: int, bands: tuple[int, ...]) -> None:
    x, y = simulated(images, dim=1)
    for units in (np.arange(images), np.zeros(images, int)):
        predictions = predicted(fit_banded(x, y, bands, units, CONFIG), x)
        assert predictions.shape == (images, 1)
        assert (np.abs(predictions - y.mean()) <= np.ptp(y) + 1e-5).all()


@pytest.mark.parametrize("images", [20, 200])
@pytest.mark.filterwarnings("error")
def test_what_is_constant_predicts_the_mean_target(images: int) -> None:
    x, y = simulated(images)
    y[:, 1] = 0.1
    x[:, band_slices(BANDS)[1]] = 1e4 / 3
    banded = fit_banded(x, y, BANDS, np.arange(images), CONFIG)
    np.testing.assert_allclose(predicted(banded, x)[:, 1], 0.1, rtol=1e-6)
    x[:] = 1e4 / 3
    flat = predicted(fit_banded(x, y, BANDS, np.arange(images), CONFIG), x)
    np.testing.assert_allclose(flat, np.tile(y.mean(axis=0), (images, 1)), rtol=1e-5)


def test_small_batches_give_the_same_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = simulated(60, dim=7)
    whole = predicted(fit_banded(x, y, BANDS, np.arange(60), CONFIG), x)
    monkeypatch.setattr(module, "VALUES", 3 * 60)
    settings = module._settings(module._Bands.of(x, x.mean(axis=0), BANDS), CONFIG, np.arange(60) % 5, 0)
    assert (settings["solver_params"]["n_alphas_batch"], settings["solver_params"]["n_targets_batch"]) == (1, 3)
    parts = predicted(fit_banded(x, y, BANDS, np.arange(60), CONFIG), x)
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-6)


def test_both_styles_and_the_same_seed_give_the_same_bits() -> None:
    x, y = simulated(40)
    data = TrainingData(x, y, x[:1], y[:1], bands=BANDS)
    first, second = (fit_decoders(data, CONFIG, API_STYLES, seed=4) for _ in range(2))
    expected = first.models["functional"].get_weights()
    for model in (first.models["sequential"], *second.models.values()):
        for ours, theirs in zip(model.get_weights(), expected, strict=True):
            assert np.array_equal(ours, theirs)
    assert first.epochs == {"functional": 0, "sequential": 0}
    shuffled = predict(fit_shuffled(data, CONFIG, np.arange(40), 0), x)
    assert (
        mean_r2(y, shuffled, y.mean(axis=0)) < 0.5 < mean_r2(y, predict(first.models["functional"], x), y.mean(axis=0))
    )


def test_the_memory_budget_is_an_error_that_says_what_to_do() -> None:
    x, y = simulated(60)
    config = BandedConfig()
    data = TrainingData(x, y, x[:1], y[:1], bands=BANDS)
    assert effective_config(config, data) == config
    assert effective_config(config, dataclasses.replace(data, bands=())) == BandedConfig(draws=1)
    for small in (config, CONFIG):
        with pytest.raises(RequestError, match=r"dimension 70 for targets of dimension 4 takes about 0.3 GB.*1GB"):
            effective_config(small, dataclasses.replace(data, memory=2**26))


def test_wide_targets_and_many_images_need_more_memory() -> None:
    memory: Callable[..., int] = BandedConfig().memory
    assert 1000 * 50_000 * 8 < memory(1000, 1280, 50_000, 3) < 2**32
    assert memory(8000, 25_088, 300, 1) > 8 * 8000**2 + 4 * 8000 * 25_088


def test_a_config_survives_json() -> None:
    assert config_from_json(dataclasses.asdict(CONFIG)) == CONFIG


@pytest.mark.parametrize("images", [40, 100])
def test_targets_fitted_in_blocks_give_the_same_regression(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = simulated(images, dim=7)
    config = BandedConfig(draws=2)
    whole = fit_banded(x, y, BANDS, np.arange(images), config)
    monkeypatch.setattr(module, "FEWEST", 3)
    parts = fit_banded(x, y, BANDS, np.arange(images), config, memory=0)
    np.testing.assert_allclose(parts.ridge.coefficients, whole.ridge.coefficients, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(parts.ridge.intercept, whole.ridge.intercept, rtol=1e-6)


def test_wide_targets_are_fitted_within_the_memory_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VALUES", 2**16)
    x, y = simulated(50, dim=20_000)
    config, shape = BandedConfig(draws=1), (50, x.shape[1], 20_000)
    budget = config.memory(*shape, 1, 5000)
    assert config.targets_at_once(*shape, 1, budget) == 5000
    tracemalloc.start()
    try:
        fit_banded(x, y, (), np.arange(50), config, memory=budget)
        peak = tracemalloc.get_traced_memory()[1] + x.nbytes + y.nbytes
    finally:
        tracemalloc.stop()
    assert peak < 1.25 * budget < 0.7 * config.memory(*shape, 1)
