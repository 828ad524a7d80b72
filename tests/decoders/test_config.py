import dataclasses
import json

import pytest

from pipeline.core.errors import RequestError
from pipeline.decoders.compilation import check_names
from pipeline.decoders.config import TrainingConfig
from pipeline.decoders.presets import NETWORK, ORIGINAL
from pipeline.decoders.spec import DecoderSpec


def test_original_preset_is_trained_as_in_the_question() -> None:
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
def test_names_that_keras_does_not_know_are_refused_without_data(config: TrainingConfig, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_names(config)


def test_presets_are_made_of_names_that_keras_knows() -> None:
    check_names(NETWORK)
    check_names(ORIGINAL)
