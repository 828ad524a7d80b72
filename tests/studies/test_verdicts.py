import dataclasses

import pytest

from pipeline.studies.equivalence import Equivalence
from pipeline.studies.shared_optimizer import Study
from pipeline.studies.verdicts import summarize


def test_verdicts_name_the_numbers(study: Study) -> None:
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
    found = Equivalence(difference=0.001, margin=0.01, ci90=(-0.002, 0.004), p=0.03, equivalent=equivalent)
    verdict = summarize(dataclasses.replace(study, equivalence=found))[1].verdict
    assert f"The two API styles {expected}" in verdict
    assert "interval -0.00200 to +0.00400" in verdict


def test_a_short_training_shows_no_effect_of_the_counter(study: Study) -> None:
    steps = dataclasses.replace(study.first_steps, first_update={"fresh": 0.01, "inherited": 0.0098})
    shared = summarize(dataclasses.replace(study, first_steps=steps))[0].verdict
    assert "the first update is 0.98 times as large. Use more --epochs." in shared
    assert "saturated" not in shared
