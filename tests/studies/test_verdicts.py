"""The whole study: the results of its scenarios, and their verdicts."""

import dataclasses

import numpy as np
import pytest

from pipeline.decoders.network import ORIGINAL
from pipeline.studies.equivalence import Equivalence
from pipeline.studies.shared_optimizer import Study, original_data, run_study
from pipeline.studies.verdicts import study_ceiling, summarize


@pytest.fixture(scope="module")
def study() -> Study:
    return run_study(original_data, dataclasses.replace(ORIGINAL, epochs=150), seeds=[0])


def test_scenarios_show_the_expected_results(study: Study) -> None:
    scenarios = {scenario.name: scenario for scenario in summarize(study)}
    assert list(scenarios) == ["shared-optimizer", "separate-optimizers", "zero-init", "same-seed"]
    runs = {name: scenario.runs[0] for name, scenario in scenarios.items()}
    assert all(set(run) == {"seed", "functional", "sequential"} for run in runs.values())
    assert runs["shared-optimizer"]["sequential"] < runs["shared-optimizer"]["functional"] - 0.05
    separate = runs["separate-optimizers"]
    assert separate["sequential"] == pytest.approx(separate["functional"], abs=0.05)
    assert scenarios["shared-optimizer"].max_weight_difference > 0
    for name in ("zero-init", "same-seed"):
        assert runs[name]["functional"] == runs[name]["sequential"]
        assert scenarios[name].max_weight_difference == 0
    assert study_ceiling(study) == pytest.approx(0.650646, abs=1e-6)


def test_the_cause_is_measured(study: Study) -> None:
    # The missing bias correction at step t + 1, from Adam's definition (Kingma and Ba 2015).
    first, later = (np.sqrt(1 - 0.999**step) / (1 - 0.9**step) for step in (1, 151))
    assert study.first_steps.first_update_ratio == pytest.approx(later / first, rel=1e-3)
    assert study.first_steps.inherited_steps == 150
    saturated = study.first_steps.saturated_share
    assert saturated["inherited"] > saturated["fresh"]
    assert study.distinct_units == {"functional": [1, 1, 1], "sequential": [1, 1, 1]}
    assert study.equivalence.equivalent is None


def test_verdicts_state_the_numbers(study: Study) -> None:
    steps = dataclasses.replace(study.first_steps, first_update={"fresh": 0.01, "inherited": 0.0294})
    shared, separate, zeros, same = (
        scenario.verdict for scenario in summarize(dataclasses.replace(study, first_steps=steps))
    )
    assert "2.94 times larger (0.0294 per weight instead of 0.0100" in shared
    assert "One seed cannot show" in separate
    assert "to the last bit" in zeros
    assert "The API style changes nothing" in same


@pytest.mark.parametrize(
    ("equivalent", "expected"), [(True, "are equivalent"), (False, "cannot be shown to be equivalent")]
)
def test_the_verdict_on_several_seeds_follows_the_tests(study: Study, equivalent: bool, expected: str) -> None:
    equivalence = Equivalence(difference=0.001, margin=0.01, ci90=(-0.002, 0.004), p=0.03, equivalent=equivalent)
    verdict = summarize(dataclasses.replace(study, equivalence=equivalence))[1].verdict
    assert f"The two API styles {expected}" in verdict
    assert "interval -0.00200 to +0.00400" in verdict


def test_a_short_training_shows_no_effect_of_the_counter(study: Study) -> None:
    steps = dataclasses.replace(study.first_steps, first_update={"fresh": 0.01, "inherited": 0.0098})
    shared = summarize(dataclasses.replace(study, first_steps=steps))[0].verdict
    assert "the first update is 0.98 times as large. Use more --epochs." in shared
    assert "saturated" not in shared
