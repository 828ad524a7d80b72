"""Training: fit a decoder to pairs of features and targets."""

import math
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from pipeline.backend import import_keras
from pipeline.decoders import Recipe
from pipeline.errors import PipelineError, RequestError

PREDICTED_AT_ONCE = 1024


@dataclass(frozen=True)
class Data:
    """What a decoder learns from, and what it is judged on.

    Attributes:
        x: Training features, shape (N, F), float32.
        y: Training targets, shape (N, D), float32.
        x_validation: Held-out features, shape (M, F), float32.
        y_validation: Held-out targets, shape (M, D), float32.
    """

    x: np.ndarray
    y: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray


def fit(model, data: Data, recipe: Recipe, seed: int, progress: bool = True) -> dict[str, list[float]]:
    """Train a decoder in place with an optimizer of its own.

    The held-out images are only looked at: they choose neither the epoch nor anything else, so that their cosine
    stays an honest estimate.

    Args:
        model: The decoder.
        data: Training and held-out data.
        recipe: Optimizer, learning rate, loss, batch size and number of epochs.
        seed: Seeds the shuffling.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The learning curves: "loss" and "validation_loss", a value for each epoch.

    Raises:
        RequestError: Keras knows no such optimizer or loss.
        PipelineError: The loss became NaN or infinite.
    """
    keras = import_keras()
    keras.utils.set_random_seed(seed)
    rate = recipe.learning_rate
    if recipe.schedule == "cosine":
        steps = recipe.epochs * math.ceil(len(data.x) / recipe.batch_size)
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    try:
        optimizer = keras.optimizers.get({"class_name": recipe.optimizer, "config": {"learning_rate": rate}})
        model.compile(optimizer=optimizer, loss=keras.losses.get(recipe.loss))
    except (ValueError, TypeError) as error:
        raise RequestError(f"The decoder cannot be trained so: {str(error).splitlines()[0]}") from error

    bar = tqdm(total=recipe.epochs, unit="epoch", desc=model.name, disable=None if progress else True)
    with bar:
        watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: _watch(bar, epoch, logs))
        history = model.fit(
            data.x, data.y, validation_data=(data.x_validation, data.y_validation), epochs=recipe.epochs,
            batch_size=recipe.batch_size, validation_batch_size=len(data.x_validation), verbose=0, callbacks=[watch],
        )  # fmt: skip
    return {"loss": history.history["loss"], "validation_loss": history.history["val_loss"]}


def _watch(bar: tqdm, epoch: int, logs: dict[str, float]) -> None:
    if not np.isfinite(logs["loss"]):
        raise PipelineError(
            f"The loss became {logs['loss']} in epoch {epoch + 1}; the decoder was not saved. "
            "Try a lower --learning-rate, or targets of a smaller scale."
        )
    bar.set_postfix(loss=f"{logs['loss']:.4f}", validation=f"{logs['val_loss']:.4f}", refresh=False)
    bar.update()


def predict(model, x: np.ndarray) -> np.ndarray:
    """A decoder's predictions.

    Args:
        model: The decoder.
        x: Features, shape (N, F), float32.

    Returns:
        Predicted embeddings, shape (N, D), float32.
    """
    blocks = (x[start : start + PREDICTED_AT_ONCE] for start in range(0, len(x), PREDICTED_AT_ONCE))
    convert = import_keras().ops.convert_to_numpy
    # Called, not `predict`: that compiles a function for each model and shape, which costs more than it saves here.
    return np.concatenate([convert(model(block, training=False)) for block in blocks])
