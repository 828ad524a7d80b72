import dataclasses

import numpy as np
import pytest

from pipeline.core.errors import RequestError
from pipeline.decoders.presets import NETWORK, ORIGINAL
from pipeline.decoders.spec import build_decoder
from pipeline.decoders.training import TrainingData, fit
from pipeline.studies.shared_optimizer import Study, _inheriting, original_data, run_study
from pipeline.studies.verdicts import study_ceiling, summarize

STEPS = 25
CONFIG = dataclasses.replace(ORIGINAL, epochs=STEPS)


def test_the_original_data_are_those_of_the_question() -> None:
    data = original_data(0)
    assert (data.x.shape, data.y.shape) == ((1, 4096), (1, 200))
    assert data.x.min() >= 0
    assert data.x.max() < 1
    assert (data.y < 0).sum() == 102
    assert not np.array_equal(original_data(1).x, data.x)


def test_the_inherited_step_counter_is_what_keras_2_carried_over() -> None:
    import tf_keras

    data = original_data(0)
    ours = [build_decoder(CONFIG.decoder, "sequential", data.x, data.y, seed) for seed in (1, 2)]
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

    first = fit({"first": ours[0]}, data, CONFIG)["first"]
    config = dataclasses.replace(CONFIG, optimizer=_inheriting(CONFIG, int(ours[0].optimizer.iterations)))
    second = fit({"second": ours[1]}, data, config)["second"]
    np.testing.assert_allclose(first.curves["loss"], losses[0], rtol=1e-4)
    np.testing.assert_allclose(second.curves["loss"], losses[1], rtol=1e-4)
    for model, reference in zip(ours, theirs, strict=True):
        for mine, keras_2 in zip(model.get_weights(), reference.get_weights(), strict=True):
            assert np.linalg.norm(mine - keras_2) <= 1e-3 * np.linalg.norm(keras_2)
    # An optimizer of its own would have gone another way.
    assert not np.allclose(losses[1], losses[0], rtol=1e-2)


def test_scenarios_show_what_they_should(study: Study) -> None:
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
    # The correction that is missing at step t + 1, from Adam's definition (Kingma and Ba 2015).
    first, later = (np.sqrt(1 - 0.999**step) / (1 - 0.9**step) for step in (1, 151))
    assert study.first_steps.first_update_ratio == pytest.approx(later / first, rel=1e-3)
    assert study.first_steps.inherited_steps == 150
    saturated = study.first_steps.saturated_share
    assert saturated["inherited"] > saturated["fresh"]
    assert study.distinct_units == {"functional": [1, 1, 1], "sequential": [1, 1, 1]}
    assert study.equivalence.equivalent is None


def test_one_needs_own_data_held_out_too() -> None:
    random = np.random.default_rng(0)
    x, y = random.random((12, 30), np.float32), random.normal(size=(12, 5)).astype(np.float32)
    own = TrainingData(x[:8], y[:8], x[8:], y[8:])
    run = summarize(run_study(lambda seed: own, dataclasses.replace(CONFIG, epochs=3), seeds=[0]))[1].runs[0]
    assert set(run) == {"seed", "functional", "sequential", "functional_held_out", "sequential_held_out"}
    assert run["functional_held_out"] != run["functional"]


def test_a_config_that_does_not_fit_is_refused() -> None:
    with pytest.raises(RequestError, match="The study needs sigmoid layers"):
        _inheriting(NETWORK, 5)
