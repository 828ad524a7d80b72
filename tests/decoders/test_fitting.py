import dataclasses
import logging

import numpy as np
import pytest

from pipeline.core.vectors import cosines
from pipeline.decoders.blend import BlendConfig
from pipeline.decoders.callbacks import Callbacks
from pipeline.decoders.fitting import effective_config, fit_decoders
from pipeline.decoders.network import API_STYLES, NETWORK, DecoderSpec, TrainingConfig, predict, target_scale
from pipeline.decoders.training import TrainingData

RANDOM = np.random.default_rng(0)
X = np.maximum(RANDOM.normal(size=(60, 20)), 0).astype(np.float32)
Y = (X[:, :4] @ RANDOM.normal(size=(4, 6)) + 0.5).astype(np.float32)
CONFIG = dataclasses.replace(NETWORK, decoder=DecoderSpec((16,)), epochs=20)


def fitted(scale: float, config: TrainingConfig = CONFIG, y: np.ndarray = Y) -> dict[str, np.ndarray]:
    y = y * np.float32(scale)
    data = TrainingData(X[:45], y[:45], X[45:], y[45:])
    decoders = fit_decoders(data, config, API_STYLES, np.arange(45), 0, Callbacks())
    return {style: predict(model, X[45:]) for style, model in decoders.models.items()}


@pytest.mark.parametrize("output", ["linear", "relu"])
def test_a_network_does_not_depend_on_the_unit_of_the_targets(output: str) -> None:
    config = dataclasses.replace(CONFIG, decoder=DecoderSpec((16,), output_activation=output))
    y = np.abs(Y)
    expected = fitted(1.0, config, y)["functional"]
    assert cosines(expected, y[45:]).mean() > 0.4
    for scale in (1e-3, 1e2):
        for style, predicted in fitted(scale, config, y).items():
            np.testing.assert_allclose(predicted / scale, expected, rtol=2e-2, atol=2e-2, err_msg=style)


def test_a_bounded_output_is_trained_on_unscaled_targets() -> None:
    assert target_scale(100 * Y, "sigmoid") == 1
    assert target_scale(100 * Y, "linear") == pytest.approx(100 * target_scale(Y, "relu"))


def test_the_scale_of_equal_and_of_zero_targets() -> None:
    assert target_scale(np.full((3, 2), 7, np.float32), "linear") == pytest.approx(7)
    assert target_scale(np.zeros((3, 2), np.float32), "linear") == 1


def test_the_memory_budget_includes_targets_and_the_warning_states_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    x = np.zeros((400, 32), np.float32)
    budget = BlendConfig().memory(400, 32, 10)
    narrow, wide = (TrainingData(x, np.zeros((400, dim), np.float32), x, x, memory=budget) for dim in (10, 3000))
    assert isinstance(effective_config(BlendConfig(), narrow), BlendConfig)
    with caplog.at_level(logging.WARNING):
        assert effective_config(BlendConfig(), wide) == NETWORK
    assert "400 features of dimension 32 for targets of dimension 3,000" in caplog.text
