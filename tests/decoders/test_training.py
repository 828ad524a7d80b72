import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from pipeline.core.errors import PipelineError, RequestError
from pipeline.decoders import training
from pipeline.decoders.config import PRESETS, TrainingConfig
from pipeline.decoders.spec import API_STYLES, DecoderSpec, build_decoder
from pipeline.decoders.training import CURVES, Callbacks, Diverged, History, fit, predict

RECIPE = TrainingConfig(DecoderSpec((16,)), epochs=8, batch_size=8)
EXPLODING = dataclasses.replace(RECIPE, optimizer="sgd", learning_rate=1e30, schedule="constant")


def made(seed: int = 0) -> Data:
    random = np.random.default_rng(seed)
    x = random.random((50, 40)).astype(np.float32)
    y = np.tanh(x @ random.normal(size=(40, 6))).astype(np.float32)
    return Data(x[:42], y[:42], x[42:], y[42:])


def trained(recipe: TrainingConfig, data: Data, seed: int = 0, watch: Callbacks | None = None):
    model = build_decoder(recipe.decoder, "functional", data.x, data.y, seed)
    return model, fit({"functional": model}, data, recipe, seed, watch)["functional"]


def equal_weights(ours, theirs) -> bool:
    return all(np.array_equal(*pair) for pair in zip(ours.get_weights(), theirs.get_weights(), strict=True))


@pytest.mark.parametrize("recipe", [RECIPE, dataclasses.replace(PRESETS["original"], epochs=20)])
def test_api_styles_end_bit_identical(recipe: TrainingConfig) -> None:
    data = made()
    models = {style: build_decoder(recipe.decoder, style, data.x, data.y, 0) for style in API_STYLES}
    fitted = fit(models, data, recipe)
    ours, theirs = models.values()
    assert equal_weights(ours, theirs)
    assert np.array_equal(predict(ours, data.x_validation), predict(theirs, data.x_validation))
    assert fitted["functional"].curves == fitted["sequential"].curves
    assert ours.optimizer is not theirs.optimizer
    assert (
        int(ours.optimizer.iterations)
        == int(theirs.optimizer.iterations)
        == recipe.epochs * -(-42 // recipe.batch_size)
    )


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [("Adam", {}), ("SGD", {"momentum": 0.9}), ("AdamW", {"weight_decay": 0.01})],
)
@pytest.mark.parametrize("loss", ["mse", "cosine_similarity"])
def test_the_same_steps_as_keras_fit(optimizer: str, options: dict, loss: str) -> None:
    import keras

    data, epochs = made(), 5
    spec = DecoderSpec((16,), start_at_mean=False)
    ours, theirs = (build_decoder(spec, "functional", data.x, data.y, 3) for _ in range(2))
    make = getattr(keras.optimizers, optimizer)
    recipe = TrainingConfig(spec, epochs, batch_size=8, optimizer=make(learning_rate=0.01, **options), loss=loss)
    fitted = fit({"ours": ours}, data, recipe, seed=7)["ours"]

    theirs.compile(optimizer=make(learning_rate=0.01, **options), loss=loss)
    start = theirs.get_weights()
    for epoch in range(epochs):
        rows = order(42, 7, epoch)  # 5 batches of 8, and one of 2
        history = theirs.fit(data.x[rows], data.y[rows], batch_size=8, shuffle=False, verbose=0,
                             validation_data=(data.x_validation, data.y_validation)).history  # fmt: skip
        assert fitted.curves["loss"][epoch] == pytest.approx(history["loss"][0], rel=1e-5)
        assert fitted.curves["validation_loss"][epoch] == pytest.approx(history["val_loss"][0], rel=1e-5)
    for mine, keras_own, before in zip(ours.get_weights(), theirs.get_weights(), start, strict=True):
        assert np.linalg.norm(mine - keras_own) <= 1e-5 * np.linalg.norm(keras_own)
        assert np.linalg.norm(mine - before) > 1e-2 * np.linalg.norm(mine)


@pytest.mark.parametrize("optimizer", ["nadam", "lion", "rmsprop", "adafactor", "adamax"])
def test_any_keras_optimizer_may_be_named(optimizer: str) -> None:
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer, loss="huber", epochs=3)
    curves = trained(recipe, made())[1].curves
    assert np.isfinite(curves["loss"]).all()
    assert curves["loss"][-1] < curves["loss"][0]


def test_curves_are_the_models_own() -> None:
    from pipeline.core.vectors import cosines

    data = made()
    model, fitted = trained(dataclasses.replace(RECIPE, epochs=60), data)
    assert {name: len(values) for name, values in fitted.curves.items()} == dict.fromkeys(CURVES, 60)
    assert fitted.curves["loss"][-1] < fitted.curves["loss"][0] / 2
    predicted = predict(model, data.x_validation)
    assert np.mean((predicted - data.y_validation) ** 2) == pytest.approx(
        fitted.curves["validation_loss"][-1], rel=1e-4
    )
    expected = cosines(predicted, data.y_validation).mean()
    assert expected == pytest.approx(fitted.curves["validation_cosine"][-1], rel=1e-4)


def test_the_held_out_images_change_nothing() -> None:
    data = made()
    other = dataclasses.replace(data, y_validation=data.y_validation[::-1] * 3)
    assert equal_weights(trained(RECIPE, data)[0], trained(RECIPE, other)[0])


def overfitting() -> tuple[TrainingConfig, Data]:
    data = made()
    noise = np.random.default_rng(1).normal(size=data.y.shape).astype(np.float32)
    return dataclasses.replace(RECIPE, epochs=60, schedule="constant"), dataclasses.replace(data, y=data.y + noise)


def test_the_best_epoch_is_kept_where_asked() -> None:
    recipe, data = overfitting()
    model, fitted = trained(dataclasses.replace(recipe, keep="best"), data)
    losses = fitted.curves["validation_loss"]
    assert fitted.kept_epoch == 1 + int(np.argmin(losses)) < 60
    assert np.mean((predict(model, data.x_validation) - data.y_validation) ** 2) == pytest.approx(min(losses), rel=1e-5)
    assert trained(recipe, data)[1].kept_epoch == 60


def test_early_stopping_waits_for_its_patience() -> None:
    recipe, data = overfitting()
    whole = trained(recipe, data)[1].curves["validation_loss"]
    stopped = trained(dataclasses.replace(recipe, keep="best", patience=7), data)[1]
    best = min(
        epoch for epoch in range(1, 54) if min(whole[epoch : epoch + 7]) >= min(whole[:epoch]) == whole[epoch - 1]
    )
    assert (stopped.kept_epoch, stopped.epochs) == (best, best + 7)
    assert stopped.curves["validation_loss"] == whole[: best + 7]


def test_a_loss_that_explodes_stops_the_run_and_keeps_the_best_weights() -> None:
    data = made()
    with pytest.raises(Diverged, match=r"no longer finite after epoch \d of 8.*--learning-rate") as raised:
        trained(EXPLODING, data)
    assert raised.value.fitted["functional"].kept_epoch == 0
    model = build_decoder(EXPLODING.decoder, "functional", data.x, data.y, 0)
    start = build_decoder(EXPLODING.decoder, "functional", data.x, data.y, 0)
    with pytest.raises(Diverged):
        fit({"functional": model}, data, EXPLODING)
    assert equal_weights(model, start)

    import keras

    # A schedule that is sound for three epochs of six steps, and then is not.
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([17], [0.01, 1e30])
    recipe = dataclasses.replace(RECIPE, optimizer=keras.optimizers.SGD(rate))
    model = build_decoder(recipe.decoder, "functional", data.x, data.y, 0)
    with pytest.raises(Diverged, match="after epoch 4 of 8") as raised:
        fit({"functional": model}, data, recipe)
    fitted = raised.value.fitted["functional"]
    assert fitted.kept_epoch == 3
    error = np.mean((predict(model, data.x_validation) - data.y_validation) ** 2)
    assert error == pytest.approx(fitted.curves["validation_loss"][2], rel=1e-5)


@pytest.mark.parametrize(
    "wrong", [{"optimizer": "downhill"}, {"loss": "regret"}, {"loss": "sparse_categorical_crossentropy"}]
)
def test_unknown_names_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(RequestError, match="cannot be trained so"):
        trained(dataclasses.replace(RECIPE, **wrong), made())


def test_one_optimizer_for_two_decoders_is_refused() -> None:
    import keras

    data, recipe = made(), dataclasses.replace(RECIPE, optimizer=keras.optimizers.Adam(0.01))
    models = {style: build_decoder(RECIPE.decoder, style, data.x, data.y, 0) for style in API_STYLES}
    with pytest.raises(RequestError, match=r"One Adam cannot train several decoders.*an optimizer of its own"):
        fit(models, data, recipe)
    trained(recipe, data)
    with pytest.raises(RequestError, match="It has a step counter, which stands at 48 now"):
        trained(recipe, data)


def test_a_checkpoint_is_gone_on_from_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, data = dataclasses.replace(RECIPE, epochs=40, keep="best"), made()
    undisturbed, whole = trained(recipe, data)

    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    kept = tmp_path / "checkpoint.npz"

    class Killed(Exception):
        pass

    def killed_later(file: Path, arrays: dict) -> None:
        write(file, arrays)
        if arrays["functional/curves"].shape[1] > 5:
            raise Killed

    write = training.write_checkpoint
    monkeypatch.setattr(training, "write_checkpoint", killed_later)
    with pytest.raises(Killed):
        trained(recipe, data, watch=Callbacks(checkpoint=kept))
    monkeypatch.setattr(training, "write_checkpoint", write)
    went_on, rest = trained(recipe, data, seed=0, watch=Callbacks(checkpoint=kept))
    assert equal_weights(undisturbed, went_on)
    assert (rest.curves, rest.kept_epoch) == (whole.curves, whole.kept_epoch)

    with pytest.raises(PipelineError, match="checkpoint of another training"):
        trained(dataclasses.replace(recipe, decoder=DecoderSpec((3,))), data, watch=Callbacks(checkpoint=kept))
    kept.write_bytes(kept.read_bytes()[:-100])
    with pytest.raises(PipelineError, match=r"checkpoint\.npz is damaged"):
        trained(recipe, data, watch=Callbacks(checkpoint=kept))


def test_another_backend_trains_to_the_same_result(tmp_path: Path) -> None:
    data = made()
    recipe = dataclasses.replace(RECIPE, epochs=12, keep="best", patience=6)
    model = build_decoder(recipe.decoder, "functional", data.x, data.y, 0)
    model.save_weights(tmp_path / "start.weights.h5")  # backends draw different numbers from the same seed
    np.savez(
        tmp_path / "data.npz", **{name: getattr(data, name) for name in ("x", "y", "x_validation", "y_validation")}
    )
    code = (
        "import json, sys, numpy as np\n"
        "from pipeline.decoders import DecoderSpec, TrainingConfig, build_decoder\n"
        "from pipeline.training import Data, fit, predict\n"
        "data = Data(**np.load(sys.argv[1]))\n"
        "recipe = TrainingConfig(DecoderSpec((16,)), epochs=12, batch_size=8, keep='best', patience=6)\n"
        "model = build_decoder(recipe.decoder, 'functional', data.x, data.y, 0)\n"
        "model.load_weights(sys.argv[2])\n"
        "fitted = fit({'functional': model}, data, recipe)['functional']\n"
        "print(json.dumps([fitted.curves, fitted.kept_epoch, predict(model, data.x_validation).tolist()]))\n"
        "assert 'tensorflow' not in sys.modules"
    )
    arguments = [str(tmp_path / "data.npz"), str(tmp_path / "start.weights.h5")]
    finished = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True,
                              env=os.environ | {"KERAS_BACKEND": "jax"})  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    curves, kept_epoch, predicted = json.loads(finished.stdout)
    fitted = fit({"functional": model}, data, recipe)["functional"]
    assert (kept_epoch, len(curves["loss"])) == (fitted.kept_epoch, fitted.epochs)
    for name in CURVES:
        np.testing.assert_allclose(curves[name], fitted.curves[name], rtol=1e-4)
    np.testing.assert_allclose(predicted, predict(model, data.x_validation), rtol=1e-3, atol=1e-4)


def test_tensorboard_finds_the_curves_under_keras_names(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorflow import make_ndarray

    def read(part: str, tag: str) -> list[float]:
        events = EventAccumulator(str(tmp_path / "functional" / part)).Reload()
        assert [event.step for event in events.Tensors(tag)] == list(range(8))
        return [float(make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]

    fitted: History = trained(RECIPE, made(), watch=Callbacks(tensorboard=tmp_path))[1]
    assert read("train", "epoch_loss") == pytest.approx(fitted.curves["loss"])
    assert read("validation", "epoch_loss") == pytest.approx(fitted.curves["validation_loss"])
    assert read("validation", "epoch_cosine_similarity") == pytest.approx(fitted.curves["validation_cosine"])
