import dataclasses

import numpy as np
import pytest

from pipeline.cli import compare
from pipeline.core.errors import RequestError
from pipeline.decoders.config import PRESETS
from pipeline.decoders.spec import build_decoder
from pipeline.decoders.training import fit
from pipeline.studies.shared_optimizer import _inheriting, document, equivalence

STEPS = 25
RECIPE = dataclasses.replace(PRESETS["original"], epochs=STEPS)


def test_the_question_is_asked_as_it_was() -> None:
    data = question(0)
    assert (data.x.shape, data.y.shape) == ((1, 4096), (1, 200))
    assert data.x.min() >= 0
    assert data.x.max() < 1
    assert (data.y < 0).sum() == 102
    assert not np.array_equal(question(1).x, data.x)


def test_the_inherited_step_counter_is_what_keras_2_carried_over() -> None:
    import tf_keras

    data = question(0)
    ours = [build_decoder(RECIPE.decoder, "sequential", data.x, data.y, seed) for seed in (1, 2)]
    theirs = []
    for model in ours:
        layers = [tf_keras.layers.Dense(units, "sigmoid") for units in (256, 256, 256, 200)]
        theirs.append(tf_keras.Sequential([tf_keras.Input((4096,)), *layers]))
        theirs[-1].set_weights(model.get_weights())
    shared = tf_keras.optimizers.legacy.Adam(0.01)
    losses = []
    for model in theirs:
        model.compile(loss="mse", optimizer=shared)
        losses.append([model.train_on_batch(data.x, data.y) for _ in range(STEPS)])

    first = fit({"first": ours[0]}, data, RECIPE)["first"]
    recipe = dataclasses.replace(RECIPE, optimizer=_inheriting(RECIPE, int(ours[0].optimizer.iterations)))
    second = fit({"second": ours[1]}, data, recipe)["second"]
    np.testing.assert_allclose(first.curves["loss"], losses[0], rtol=1e-4)
    np.testing.assert_allclose(second.curves["loss"], losses[1], rtol=1e-4)
    for model, reference in zip(ours, theirs, strict=True):
        for mine, keras_2 in zip(model.get_weights(), reference.get_weights(), strict=True):
            assert np.linalg.norm(mine - keras_2) <= 1e-3 * np.linalg.norm(keras_2)
    # An optimizer of its own would have gone another way.
    assert not np.allclose(losses[1], losses[0], rtol=1e-2)


@pytest.fixture(scope="module")
def result() -> dict:
    return document(compare(question, dataclasses.replace(RECIPE, epochs=150), seeds=[0]))


def test_scenarios_show_what_they_should(result: dict) -> None:
    scenarios = {scenario["name"]: scenario for scenario in result["scenarios"]}
    assert list(scenarios) == ["shared-optimizer", "separate-optimizers", "zero-init", "same-seed"]
    runs = {name: scenario["runs"][0] for name, scenario in scenarios.items()}
    assert all(set(run) == {"seed", "functional", "sequential"} for run in runs.values())
    assert runs["shared-optimizer"]["sequential"] < runs["shared-optimizer"]["functional"] - 0.05
    assert runs["separate-optimizers"]["sequential"] == pytest.approx(
        runs["separate-optimizers"]["functional"], abs=0.05
    )
    assert scenarios["shared-optimizer"]["max_weight_difference"] > 0
    for name in ("zero-init", "same-seed"):
        assert runs[name]["functional"] == runs[name]["sequential"]
        assert scenarios[name]["max_weight_difference"] == 0
    assert result["ceiling"] == pytest.approx(0.650646, abs=1e-6)


def test_the_cause_is_measured(result: dict) -> None:
    shared, separate, zeros, _ = (scenario["evidence"] for scenario in result["scenarios"])
    # The correction that is missing at step t + 1, from Adam's definition (Kingma and Ba 2015).
    first, later = (np.sqrt(1 - 0.999**step) / (1 - 0.9**step) for step in (1, 151))
    assert shared["first_update_ratio"] == pytest.approx(later / first, rel=1e-3)
    assert shared["inherited_steps"] == 150
    assert shared["saturated_share"]["inherited"] > shared["saturated_share"]["fresh"]
    assert zeros["distinct_hidden_units"] == {"functional": [1, 1, 1], "sequential": [1, 1, 1]}
    assert separate["equivalent"] is None
    verdicts = [scenario["verdict"] for scenario in result["scenarios"]]
    assert f"{shared['first_update_ratio']:.2f} times as large" in verdicts[0]
    assert "One seed cannot tell" in verdicts[1]


def test_one_needs_own_data_held_out_too() -> None:
    random = np.random.default_rng(0)
    x, y = random.random((12, 30), np.float32), random.normal(size=(12, 5)).astype(np.float32)
    study = compare(lambda seed: Data(x[:8], y[:8], x[8:], y[8:]), dataclasses.replace(RECIPE, epochs=3), seeds=[0])
    run = document(study)["scenarios"][1]["runs"][0]
    assert set(run) == {"seed", "functional", "sequential", "functional_held_out", "sequential_held_out"}
    assert run["functional_held_out"] != run["functional"]


def test_a_recipe_that_cannot_be_studied_is_refused() -> None:
    with pytest.raises(RequestError, match="The study needs sigmoid layers"):
        _inheriting(PRESETS["default"], 5)


def test_equivalence_is_two_one_sided_tests() -> None:
    from scipy.stats import t

    differences = np.array([0.001, -0.002, 0.0015, 0.0005])
    found = equivalence(differences)
    error = differences.std(ddof=1) / 2
    p = max(t.sf((differences.mean() + 0.01) / error, 3), t.cdf((differences.mean() - 0.01) / error, 3))
    assert found["p"] == pytest.approx(p)
    half = t.ppf(0.95, 3) * error
    assert found["ci90"] == pytest.approx([differences.mean() - half, differences.mean() + half])
    assert found["equivalent"]
    assert not equivalence(differences + 0.01)["equivalent"]
    assert not equivalence(differences - 0.01)["equivalent"]
    assert not equivalence(np.array([0.0, 0.04]))["equivalent"]  # too wide to tell
    assert equivalence(np.zeros(3))["equivalent"]
    assert not equivalence(np.full(3, 0.02))["equivalent"]
    assert equivalence(np.zeros(1))["equivalent"] is None
