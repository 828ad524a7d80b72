"""Options of a run, taken from its `run.json`."""

import pytest

from pipeline.cli.train import repeated
from pipeline.core.errors import RequestError


def test_options_are_repeated_as_they_are_typed() -> None:
    options = {"images": "/images", "epochs": 3, "learning_rate": 1e-4, "tensorboard": True, "targets": None, "old": 1}
    typed = {"images": "/images", "epochs": "3", "learning_rate": "0.0001", "tensorboard": True}
    assert repeated(options) == typed


def test_the_original_preset_had_another_name_in_old_runs() -> None:
    assert repeated({"preset": "seed"}) == {"preset": "original"}


@pytest.mark.parametrize("name", ["models", "cache", "quiet", "workers", "as_json", "resume", "config"])
def test_a_run_does_not_choose_where_files_are_written(name: str) -> None:
    assert repeated({"images": "/images", name: "/elsewhere"}) == {"images": "/images"}


@pytest.mark.parametrize("options", [{"tensorboard": "yes"}, {"tensorboard": 1}, {"epochs": True}, {"targets": False}])
def test_flags_and_values_are_not_mixed(options: dict) -> None:
    with pytest.raises(RequestError, match=f"no proper value of the option {next(iter(options))}"):
        repeated(options)
