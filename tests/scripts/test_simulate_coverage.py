import dataclasses

import pytest
import simulate_coverage
from simulate_coverage import CLASSES, RANDOM, Outcome, Setting, coverages, retrained, simulated


def test_a_few_runs_fill_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate_coverage, "POOL", 200)
    monkeypatch.setattr(simulate_coverage, "UNITS", 20)
    rows = simulated(Setting("short", RANDOM, labels=40), 3, "ridge")
    assert [row[2] for row in rows] == ["new images of these labels", "other labels that are also trained on"]
    assert [row[3] for row in rows] == ["100%", "100%"]
    rows = simulated(Setting("folds", CLASSES, labels=12, folds=3), 2, "ridge")
    assert [row[2] for row in rows] == [
        "another training and unseen labels",
        "another training and unseen labels, retrained",
    ]
    assert all(row[4].endswith("%") for row in rows if row[3] != "0%")


def test_coverage_counts_truths_inside_the_intervals() -> None:
    inside = Outcome("question", "decoder", (0.4, 0.6), 0.5, label_set=0)
    outside, withheld = dataclasses.replace(inside, truth=0.7), dataclasses.replace(inside, bounds=None)
    assert coverages([inside, inside, inside, outside]) == ["75.0%", "", ""]
    # The mean truth of a label set is over all its runs: 0.5, 0.7 and 0.5.
    assert [outcome.truth for outcome in retrained([inside, outside, withheld])] == pytest.approx([1.7 / 3] * 2)
