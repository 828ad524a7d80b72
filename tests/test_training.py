import dataclasses

import numpy as np
import pytest

from pipeline.decoders import API_STYLES, PRESETS, DecoderSpec, Recipe, build_decoder
from pipeline.errors import PipelineError, RequestError
from pipeline.training import Data, fit, predict

RECIPE = Recipe(DecoderSpec((16,)), epochs=8, batch_size=8)


def made(seed: int = 0) -> Data:
    random = np.random.default_rng(seed)
    x = random.random((50, 40)).astype(np.float32)
    y = np.tanh(x @ random.normal(size=(40, 6))).astype(np.float32)
    return Data(x[:42], y[:42], x[42:], y[42:])


def trained(recipe: Recipe, style: str, data: Data, seed: int = 0):
    model = build_decoder(recipe.decoder, style, data.x, data.y, seed)
    return model, fit(model, data, recipe, seed, progress=False)


@pytest.mark.parametrize("recipe", [RECIPE, dataclasses.replace(PRESETS["seed"], epochs=20)])
def test_api_styles_end_bit_identical(recipe: Recipe) -> None:
    data = made()
    (ours, our_curves), (theirs, their_curves) = (trained(recipe, style, data) for style in API_STYLES)
    for pair in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert np.array_equal(*pair)
    assert np.array_equal(predict(ours, data.x_validation), predict(theirs, data.x_validation))
    assert our_curves == their_curves


def test_each_model_has_an_optimizer_of_its_own() -> None:
    data = made()
    (ours, _), (theirs, _) = (trained(RECIPE, style, data) for style in API_STYLES)
    assert ours.optimizer is not theirs.optimizer
    assert int(ours.optimizer.iterations) == int(theirs.optimizer.iterations) == 8 * 6


def test_training_learns_and_reports_each_epoch() -> None:
    data = made()
    model, curves = trained(dataclasses.replace(RECIPE, epochs=60), "functional", data)
    assert len(curves["loss"]) == len(curves["validation_loss"]) == 60
    assert curves["loss"][-1] < curves["loss"][0] / 2
    error = np.mean((predict(model, data.x_validation) - data.y_validation) ** 2)
    assert error == pytest.approx(curves["validation_loss"][-1], rel=1e-4)


def test_the_held_out_images_change_nothing() -> None:
    data = made()
    other = dataclasses.replace(data, y_validation=data.y_validation[::-1] * 3)
    (ours, _), (theirs, _) = trained(RECIPE, "functional", data), trained(RECIPE, "functional", other)
    assert all(np.array_equal(*pair) for pair in zip(ours.get_weights(), theirs.get_weights(), strict=True))


def test_a_loss_that_explodes_stops_the_run() -> None:
    recipe = dataclasses.replace(RECIPE, optimizer="sgd", learning_rate=1e30, schedule="constant")
    with pytest.raises(PipelineError, match=r"The loss became (nan|inf) in epoch \d+.*--learning-rate"):
        trained(recipe, "functional", made())


@pytest.mark.parametrize("wrong", [{"optimizer": "downhill"}, {"loss": "regret"}])
def test_unknown_names_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(RequestError, match="cannot be trained so"):
        trained(dataclasses.replace(RECIPE, **wrong), "functional", made())
