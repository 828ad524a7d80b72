import dataclasses
import json

import pytest

from pipeline.core.errors import RequestError
from pipeline.decoders.config import PRESETS, TrainingConfig
from pipeline.decoders.spec import DecoderSpec


def test_original_preset_is_trained_as_in_the_question() -> None:
    original = PRESETS["original"]
    assert (original.optimizer, original.learning_rate, original.schedule) == ("adam", 0.01, "constant")
    assert (original.loss, original.epochs, original.keep) == ("mse", 2000, "last")


@pytest.mark.parametrize("name", list(PRESETS))
def test_configs_survive_json(name: str) -> None:
    document = json.loads(json.dumps(dataclasses.asdict(PRESETS[name])))
    assert TrainingConfig.from_json(document) == PRESETS[name]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, not nan"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"patience": 3}, "patience .* needs keep='best'"),
    ],
)
def test_wrong_configs_are_refused_by_parameter(wrong: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        TrainingConfig(DecoderSpec(()), **{"epochs": 1} | wrong)
