import dataclasses
import json

import numpy as np
import pytest
from helpers import ROOT

from pipeline.core.errors import RequestError
from pipeline.decoders.network import (
    API_STYLES,
    NETWORK,
    ORIGINAL,
    DecoderSpec,
    TrainingConfig,
    build_decoder,
    check_names,
    output_ceiling,
)


def data(features: int = 30, dim: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.random((20, features), np.float32) * 7 + 3, random.normal(size=(20, dim)).astype(np.float32)


def test_the_original_preset_is_the_network_of_the_question() -> None:
    x, y = data(4096, 200)
    for style in API_STYLES:
        model = build_decoder(ORIGINAL.decoder, style, x, y, seed=0)
        assert model.count_params() == 1_231_816
        assert [(layer.units, layer.activation.__name__) for layer in model.layers if hasattr(layer, "units")] == [
            (256, "sigmoid"),
            (256, "sigmoid"),
            (256, "sigmoid"),
            (200, "sigmoid"),
        ]


@pytest.mark.parametrize("config", [NETWORK, ORIGINAL], ids=["network", "original"])
def test_both_api_styles_start_from_the_same_weights(config: TrainingConfig) -> None:
    import keras

    x, y = data()
    models = [build_decoder(config.decoder, style, x, y, seed=4) for style in API_STYLES]
    assert isinstance(models[1], keras.Sequential)
    assert not isinstance(models[0], keras.Sequential)
    for ours, theirs in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        assert np.array_equal(ours, theirs)
    other = build_decoder(config.decoder, "functional", x, y, seed=5)
    assert any(not np.array_equal(*pair) for pair in zip(models[0].get_weights(), other.get_weights(), strict=True))


def test_the_network_starts_as_the_mean_baseline() -> None:
    x, y = data()
    model = build_decoder(NETWORK.decoder, "functional", x, y, seed=0)
    np.testing.assert_allclose(model.predict(x, verbose=0), np.tile(y.mean(axis=0), (20, 1)), rtol=1e-6)


def test_normalization_centres_and_divides_by_one_number() -> None:
    x, y = data()
    model = build_decoder(DecoderSpec(()), "sequential", x, y, seed=0)
    normalized = np.asarray(model.layers[0](x))
    np.testing.assert_allclose(normalized, (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0).mean()), rtol=1e-3, atol=1e-4)


def test_output_ceiling_of_the_target_in_the_question() -> None:
    target = np.loadtxt(ROOT / "pipeline" / "studies" / "target_200d.csv")[None]
    assert output_ceiling("sigmoid", target) == pytest.approx(0.650646, abs=1e-6)
    assert output_ceiling("tanh", target) == output_ceiling("linear", target) == 1


def test_the_output_ceiling_is_the_cosine_of_the_best_positive_vector() -> None:
    from scipy.optimize import nnls

    random = np.random.default_rng(1)
    for y in (random.normal(size=6), -random.random(6)):
        # The best direction in the positive orthant minimizes ||u - y||, or is an axis if that minimum is zero.
        best, _ = nnls(np.eye(6), y)
        directions = [best, *np.eye(6)] if best.any() else list(np.eye(6))
        reached = max(u @ y / np.linalg.norm(u) / np.linalg.norm(y) for u in directions)
        assert output_ceiling("relu", y[None]) == pytest.approx(reached)
    assert output_ceiling("sigmoid", np.zeros((1, 3))) == 0


def test_wrong_specifications_are_refused() -> None:
    with pytest.raises(RequestError, match="output_activation 'swish' is unknown"):
        DecoderSpec((), output_activation="swish")
    with pytest.raises(RequestError, match="hidden takes layer sizes"):
        DecoderSpec((0,))
    with pytest.raises(RequestError, match=r"cannot be built.*wiggle"):
        build_decoder(DecoderSpec((3,), activation="wiggle"), "functional", *data(), seed=0)


def test_the_original_preset_is_trained_as_in_the_question() -> None:
    assert (ORIGINAL.optimizer, ORIGINAL.learning_rate, ORIGINAL.schedule) == ("adam", 0.01, "constant")
    assert (ORIGINAL.loss, ORIGINAL.weight_decay, ORIGINAL.epochs, ORIGINAL.keep) == ("mse", 0.0, 2000, "last")


@pytest.mark.parametrize("config", [NETWORK, ORIGINAL], ids=["network", "original"])
def test_configs_survive_json(config: TrainingConfig) -> None:
    document = json.loads(json.dumps(dataclasses.asdict(config)))
    assert TrainingConfig.from_json(document) == config


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, not nan"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0, not -1.0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"patience": 3}, "patience .* needs keep='best'"),
    ],
)
def test_wrong_configs_are_refused_by_parameter(wrong: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        TrainingConfig(DecoderSpec(()), **{"epochs": 1} | wrong)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TrainingConfig(DecoderSpec((4,), activation="wiggle"), epochs=1), "cannot be built"),
        (TrainingConfig(DecoderSpec((4,), initializer="zero-ish"), epochs=1), "cannot be built"),
        (TrainingConfig(DecoderSpec((4,)), epochs=1, optimizer="downhill"), "'downhill' is unknown"),
        (TrainingConfig(DecoderSpec((4,)), epochs=1, loss="gain"), "cannot be compiled"),
    ],
)
def test_names_unknown_to_keras_are_refused_without_data(config: TrainingConfig, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_names(config)


def test_presets_use_names_known_to_keras() -> None:
    check_names(NETWORK)
    check_names(ORIGINAL)
