"""Compile decoders with the optimizer and the loss of a config."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.core.errors import RequestError, first_line
from pipeline.core.keras_backend import import_keras
from pipeline.decoders.config import TrainingConfig
from pipeline.decoders.spec import build_decoder


def compile_decoders(models: Mapping[str, Any], config: TrainingConfig, rows: int) -> None:
    """Compile each decoder with the loss and its own optimizer.

    Args:
        models: Name -> `keras.Model`.
        config: Optimizer, learning rate, schedule, loss, batch size and number of epochs.
        rows: The number of training images; it sets the length of the schedule.

    Raises:
        RequestError: Keras does not know the optimizer or loss, or several decoders share one optimizer.
    """
    keras = import_keras()
    if not isinstance(config.optimizer, str):
        _refuse_shared(config.optimizer, len(models))
    for model in models.values():
        optimizer = _named_optimizer(config, rows) if isinstance(config.optimizer, str) else config.optimizer
        try:
            loss = keras.losses.get("cosine_similarity" if config.loss == "cosine" else config.loss)
            model.compile(optimizer=optimizer, loss=loss)
            probe = keras.ops.ones((1, model.output_shape[-1]))
            model.compute_loss(y=probe, y_pred=probe)
        except Exception as error:  # Keras and its backends raise many types of errors for an unsuitable loss
            raise RequestError(f"The decoder cannot be compiled: {first_line(error)}") from error


def check_names(config: TrainingConfig) -> None:
    """Refuse names that Keras does not know before any image is read, by compiling a tiny decoder.

    Args:
        config: The layers and their training; an optimizer object is not checked.

    Raises:
        RequestError: Keras does not know the activation, the initializer, the optimizer or the loss.
    """
    x, y = np.zeros((1, 1), np.float32), np.zeros((1, 2), np.float32)
    spec = dataclasses.replace(config.decoder, hidden=(1,) * len(config.decoder.hidden))
    model = build_decoder(spec, "sequential", x, y, seed=0)
    if isinstance(config.optimizer, str):
        compile_decoders({"sequential": model}, config, rows=1)


def _named_optimizer(config: TrainingConfig, rows: int) -> Any:
    """Create the optimizer that the config names, with its schedule."""
    keras = import_keras()
    try:
        optimizer = type(keras.optimizers.get(config.optimizer))
    except (ValueError, TypeError, KeyError) as error:  # KeyError: an optimizer that wraps another
        raise RequestError(
            f"optimizer {config.optimizer!r} is unknown; use a Keras optimizer, such as adam, adamw or sgd."
        ) from error
    rate = config.learning_rate
    if config.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, config.epochs * math.ceil(rows / config.batch_size))
    decay = {"weight_decay": config.weight_decay} if config.weight_decay else {}
    return optimizer(learning_rate=rate, **decay)


def _refuse_shared(optimizer: Any, decoders: int) -> None:
    steps = int(optimizer.iterations)
    if decoders > 1 or optimizer.built:
        count = f", now at {steps}" if steps else ""
        raise RequestError(
            f"One {type(optimizer).__name__} cannot train several decoders. It has a step counter{count}, and Adam "
            "uses the counter to correct the bias of its averages. The second decoder would start without that "
            "correction: its first steps would be about three times too large and would saturate sigmoid layers "
            "(`python -m pipeline compare` shows it). Give each decoder its own optimizer: a name such as 'adam', or "
            "a new object for each call of fit."
        )
