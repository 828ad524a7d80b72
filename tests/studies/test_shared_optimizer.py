import dataclasses

import numpy as np
import pytest

from pipeline.core.errors import RequestError
from pipeline.decoders.network import NETWORK, ORIGINAL, build_decoder
from pipeline.decoders.training import fit
from pipeline.studies.shared_optimizer import _optimizer_at_step, original_data

STEPS = 25
CONFIG = dataclasses.replace(ORIGINAL, epochs=STEPS)


def test_the_data_are_those_of_the_original_question() -> None:
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
    config = dataclasses.replace(CONFIG, optimizer=_optimizer_at_step(CONFIG, int(ours[0].optimizer.iterations)))
    second = fit({"second": ours[1]}, data, config)["second"]
    np.testing.assert_allclose(first.curves["loss"], losses[0], rtol=1e-4)
    np.testing.assert_allclose(second.curves["loss"], losses[1], rtol=1e-4)
    for model, reference in zip(ours, theirs, strict=True):
        for mine, keras_2 in zip(model.get_weights(), reference.get_weights(), strict=True):
            assert np.linalg.norm(mine - keras_2) <= 1e-3 * np.linalg.norm(keras_2)
    # A separate optimizer would take another path.
    assert not np.allclose(losses[1], losses[0], rtol=1e-2)


def test_an_unsuitable_config_is_refused() -> None:
    with pytest.raises(RequestError, match="The study needs sigmoid layers"):
        _optimizer_at_step(NETWORK, 5)
