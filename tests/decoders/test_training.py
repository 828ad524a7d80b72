import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import are_equal, run_program

from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.vectors import cosines
from pipeline.decoders import training
from pipeline.decoders.callbacks import Callbacks
from pipeline.decoders.network import API_STYLES, ORIGINAL, DecoderSpec, TrainingConfig, build_decoder, predict
from pipeline.decoders.streaming import epoch_order
from pipeline.decoders.training import CURVES, Diverged, History, TrainingData, fit

CONFIG = TrainingConfig(DecoderSpec((16,)), epochs=8, batch_size=8)
EXPLODING = dataclasses.replace(CONFIG, optimizer="sgd", learning_rate=1e30, schedule="constant")


def make_data(seed: int = 0) -> TrainingData:
    random = np.random.default_rng(seed)
    x = random.random((50, 40)).astype(np.float32)
    y = np.tanh(x @ random.normal(size=(40, 6))).astype(np.float32)
    return TrainingData(x[:42], y[:42], x[42:], y[42:])


def train(
    config: TrainingConfig, data: TrainingData, seed: int = 0, callbacks: Callbacks | None = None
) -> tuple[Any, History]:
    model = build_decoder(config.decoder, "functional", data.x, data.y, seed)
    return model, fit({"functional": model}, data, config, seed, callbacks)["functional"]


def have_equal_weights(ours: Any, theirs: Any) -> bool:
    return are_equal(ours.get_weights(), theirs.get_weights())


def squared_error(model: Any, data: TrainingData) -> float:
    return float(np.mean((predict(model, data.x_validation) - data.y_validation) ** 2))


def cosine(model: Any, data: TrainingData) -> float:
    return float(cosines(predict(model, data.x_validation), data.y_validation).mean())


@pytest.mark.parametrize("config", [CONFIG, dataclasses.replace(ORIGINAL, epochs=20)])
def test_api_styles_train_to_bit_identical_weights(config: TrainingConfig) -> None:
    data = make_data()
    models = {style: build_decoder(config.decoder, style, data.x, data.y, 0) for style in API_STYLES}
    histories = fit(models, data, config)
    ours, theirs = models.values()
    assert have_equal_weights(ours, theirs)
    assert np.array_equal(predict(ours, data.x_validation), predict(theirs, data.x_validation))
    assert histories["functional"].curves == histories["sequential"].curves
    assert ours.optimizer is not theirs.optimizer
    assert (
        int(ours.optimizer.iterations)
        == int(theirs.optimizer.iterations)
        == config.epochs * -(-42 // config.batch_size)
    )


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [("Adam", {}), ("SGD", {"momentum": 0.9}), ("AdamW", {"weight_decay": 0.01})],
)
@pytest.mark.parametrize("loss", ["mse", "cosine_similarity"])
def test_the_steps_are_those_of_keras_fit(optimizer: str, options: dict, loss: str) -> None:
    import keras

    data, epochs = make_data(), 5
    spec = DecoderSpec((16,), start_at_mean=False)
    ours, theirs = (build_decoder(spec, "functional", data.x, data.y, 3) for _ in range(2))
    make = getattr(keras.optimizers, optimizer)
    config = TrainingConfig(spec, epochs, batch_size=8, optimizer=make(learning_rate=0.01, **options), loss=loss)
    curves = fit({"ours": ours}, data, config, seed=7)["ours"].curves

    theirs.compile(optimizer=make(learning_rate=0.01, **options), loss=loss)
    start = theirs.get_weights()
    for epoch in range(epochs):
        rows = epoch_order(42, 7, epoch)  # 5 batches of 8, and one of 2
        validation = data.x_validation, data.y_validation
        keras_own = theirs.fit(
            data.x[rows], data.y[rows], batch_size=8, shuffle=False, verbose=0, validation_data=validation
        ).history
        assert curves["loss"][epoch] == pytest.approx(keras_own["loss"][0], rel=1e-5)
        assert curves["validation_loss"][epoch] == pytest.approx(keras_own["val_loss"][0], rel=1e-5)
    for mine, keras_own, before in zip(ours.get_weights(), theirs.get_weights(), start, strict=True):
        assert np.linalg.norm(mine - keras_own) <= 1e-5 * np.linalg.norm(keras_own)
        assert np.linalg.norm(mine - before) > 1e-2 * np.linalg.norm(mine)


@pytest.mark.parametrize("optimizer", ["nadam", "lion", "rmsprop", "adafactor", "adamax"])
def test_any_keras_optimizer_can_be_used(optimizer: str) -> None:
    config = dataclasses.replace(CONFIG, optimizer=optimizer, loss="huber", epochs=3)
    curves = train(config, make_data())[1].curves
    assert np.isfinite(curves["loss"]).all()
    assert curves["loss"][-1] < curves["loss"][0]


def test_curves_are_those_of_the_model() -> None:
    data = make_data()
    model, history = train(dataclasses.replace(CONFIG, epochs=60), data)
    assert {name: len(values) for name, values in history.curves.items()} == dict.fromkeys(CURVES, 60)
    assert history.curves["loss"][-1] < history.curves["loss"][0] / 2
    assert squared_error(model, data) == pytest.approx(history.curves["validation_loss"][-1], rel=1e-4)
    assert cosine(model, data) == pytest.approx(history.curves["validation_cosine"][-1], rel=1e-4)


def test_held_out_images_do_not_affect_training() -> None:
    data = make_data()
    other = dataclasses.replace(data, y_validation=data.y_validation[::-1] * 3)
    assert have_equal_weights(train(CONFIG, data)[0], train(CONFIG, other)[0])


def overfitting() -> tuple[TrainingConfig, TrainingData]:
    data = make_data()
    noise = np.random.default_rng(1).normal(size=data.y.shape).astype(np.float32)
    return dataclasses.replace(CONFIG, epochs=60, schedule="constant"), dataclasses.replace(data, y=data.y + noise)


def test_keep_best_keeps_the_best_epoch() -> None:
    config, data = overfitting()
    model, history = train(dataclasses.replace(config, keep="best"), data)
    curve = history.curves["validation_cosine"]
    assert history.kept_epoch == 1 + int(np.argmax(curve)) < 60
    assert cosine(model, data) == pytest.approx(max(curve), rel=1e-5)
    assert train(config, data)[1].kept_epoch == 60


def test_early_stopping_waits_for_its_patience() -> None:
    config, data = overfitting()
    whole = train(config, data)[1].curves["validation_cosine"]
    stopped = train(dataclasses.replace(config, keep="best", patience=7), data)[1]
    best = next(
        epoch for epoch in range(1, 54) if max(whole[epoch : epoch + 7]) <= max(whole[:epoch]) == whole[epoch - 1]
    )
    assert (stopped.kept_epoch, stopped.epochs) == (best, best + 7)
    assert stopped.curves["validation_cosine"] == whole[: best + 7]


def test_a_loss_that_explodes_at_once_keeps_the_initial_weights() -> None:
    data = make_data()
    model, start = (build_decoder(EXPLODING.decoder, "functional", data.x, data.y, 0) for _ in range(2))
    with pytest.raises(Diverged, match=r"not finite after epoch \d of 8.*lower learning rate") as raised:
        fit({"functional": model}, data, EXPLODING)
    assert raised.value.histories["functional"].kept_epoch == 0
    assert have_equal_weights(model, start)


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_loss_that_explodes_later_keeps_finite_weights(keep: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    monkeypatch.setattr(training, "MOST_EPOCHS", 1)  # one epoch per block, so that the last finite block is epoch 3
    data = make_data()
    # A schedule that works for three epochs of six steps and then explodes.
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([17], [0.01, 1e30])
    config = dataclasses.replace(CONFIG, optimizer=keras.optimizers.SGD(rate), keep=keep)
    model = build_decoder(config.decoder, "functional", data.x, data.y, 0)
    with pytest.raises(Diverged, match="after epoch 4 of 8") as raised:
        fit({"functional": model}, data, config)
    history = raised.value.histories["functional"]
    assert history.kept_epoch == 3
    assert squared_error(model, data) == pytest.approx(history.curves["validation_loss"][2], rel=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"optimizer": "downhill"},
            "^optimizer 'downhill' is unknown; use a Keras optimizer, such as adam",
        ),
        ({"optimizer": "lossscaleoptimizer"}, "^optimizer 'lossscaleoptimizer' is unknown"),  # it wraps another one
        ({"loss": "regret"}, "cannot be compiled"),
        ({"loss": "sparse_categorical_crossentropy"}, "cannot be compiled"),
    ],
)
def test_unknown_names_are_refused(wrong: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        train(dataclasses.replace(CONFIG, **wrong), make_data())


def test_one_optimizer_for_two_decoders_is_refused() -> None:
    import keras

    data, config = make_data(), dataclasses.replace(CONFIG, optimizer=keras.optimizers.Adam(0.01))
    models = {style: build_decoder(CONFIG.decoder, style, data.x, data.y, 0) for style in API_STYLES}
    with pytest.raises(RequestError, match=r"One Adam cannot train several decoders.*its own optimizer"):
        fit(models, data, config)
    train(config, data)
    with pytest.raises(RequestError, match="It has a step counter, now at 48"):
        train(config, data)


def test_training_resumes_from_a_checkpoint_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, data = dataclasses.replace(CONFIG, epochs=40, keep="best"), make_data()
    undisturbed, whole = train(config, data)

    monkeypatch.setattr("pipeline.decoders.callbacks.CHECKPOINT_EVERY", 0.0)
    checkpoint = tmp_path / "checkpoint.npz"

    class Killed(Exception):
        pass

    def killed_later(file: Path, arrays: dict) -> None:
        write(file, arrays)
        if arrays["functional/curves"].shape[1] > 5:
            raise Killed

    write = training.write_checkpoint
    monkeypatch.setattr(training, "write_checkpoint", killed_later)
    with pytest.raises(Killed):
        train(config, data, callbacks=Callbacks(checkpoint=checkpoint))
    monkeypatch.setattr(training, "write_checkpoint", write)
    resumed, rest = train(config, data, seed=0, callbacks=Callbacks(checkpoint=checkpoint))
    assert have_equal_weights(undisturbed, resumed)
    assert (rest.curves, rest.kept_epoch) == (whole.curves, whole.kept_epoch)

    with pytest.raises(PipelineError, match="checkpoint of another training"):
        train(dataclasses.replace(config, decoder=DecoderSpec((3,))), data, callbacks=Callbacks(checkpoint=checkpoint))
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(PipelineError, match=r"checkpoint\.npz is damaged"):
        train(config, data, callbacks=Callbacks(checkpoint=checkpoint))


def test_other_backends_reach_the_same_result(tmp_path: Path) -> None:
    data = make_data()
    config = dataclasses.replace(CONFIG, epochs=12, keep="best", patience=6)
    model = build_decoder(config.decoder, "functional", data.x, data.y, 0)
    model.save_weights(tmp_path / "start.weights.h5")  # backends draw different numbers from the same seed
    np.savez(
        tmp_path / "data.npz", **{name: getattr(data, name) for name in ("x", "y", "x_validation", "y_validation")}
    )
    run_program("train_elsewhere", tmp_path, KERAS_BACKEND="jax")
    history = fit({"functional": model}, data, config)["functional"]
    with np.load(tmp_path / "result.npz") as theirs:
        assert (theirs["kept_epoch"], len(theirs["loss"])) == (history.kept_epoch, history.epochs)
        for name in CURVES:
            np.testing.assert_allclose(theirs[name], history.curves[name], rtol=1e-4)
        np.testing.assert_allclose(theirs["predicted"], predict(model, data.x_validation), rtol=1e-3, atol=1e-4)


def test_tensorboard_shows_the_curves_under_keras_names(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorflow import make_ndarray

    def read(part: str, tag: str) -> list[float]:
        events = EventAccumulator(str(tmp_path / "functional" / part)).Reload()
        assert [event.step for event in events.Tensors(tag)] == list(range(8))
        return [float(make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]

    _, history = train(CONFIG, make_data(), callbacks=Callbacks(tensorboard=tmp_path))
    assert read("train", "epoch_loss") == pytest.approx(history.curves["loss"])
    assert read("validation", "epoch_loss") == pytest.approx(history.curves["validation_loss"])
    assert read("validation", "epoch_cosine_similarity") == pytest.approx(history.curves["validation_cosine"])
