"""Fitting decoders: a blend that chooses its own strength, or a single network as configured."""

import dataclasses
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.core.errors import PipelineError
from pipeline.decoders.blending import BlendConfig, build_blend, fit_blend
from pipeline.decoders.config import TrainingConfig
from pipeline.decoders.presets import NETWORK
from pipeline.decoders.spec import ApiStyle, build_decoder
from pipeline.decoders.training import Callbacks, Diverged, History, TrainingData, fit

log = logging.getLogger(__name__)

Config = TrainingConfig | BlendConfig
BLEND_COPIES = 3  # of the features, that fitting a blend holds


@dataclass(frozen=True)
class FittedDecoders:
    """Trained decoders.

    Attributes:
        models: API style -> `keras.Model`.
        histories: API style -> how the training went; without curves for a blend.
        epochs: API style -> the number of epochs trained.
        shares: Candidate -> its share of a blend; empty for a single network.
        diverged: The error if the loss became NaN or infinite after some epochs; the models have finite weights.
    """

    models: Mapping[str, Any]
    histories: Mapping[str, History]
    epochs: Mapping[str, int]
    shares: Mapping[str, float] = field(default_factory=dict)
    diverged: PipelineError | None = None


def fit_decoders(
    data: TrainingData,
    config: Config,
    styles: Sequence[ApiStyle],
    units: np.ndarray,
    seed: int,
    callbacks: Callbacks,
) -> FittedDecoders:
    """Fit a decoder in each API style; all styles get the same bits.

    Args:
        data: Training and validation data, loaded; a blend does not look at the validation data. Features that are
            not in memory are streamed, through a single network.
        config: A blend, or a single network.
        styles: The API styles to build it in.
        units: A number for each training image, shape (N,), int; images with the same number share a fold.
        seed: Random seed.
        callbacks: Progress bar, checkpoint and TensorBoard.

    Returns:
        The decoders.

    Raises:
        RequestError: Keras does not know an activation, the optimizer or the loss.
        Diverged: The loss was not finite from the start.
    """
    config = effective_config(config, data)
    if isinstance(config, BlendConfig):
        return _fit_blend(data, config, styles, units, seed, callbacks)
    return _fit_networks(data, config, styles, seed, callbacks)


def effective_config(config: Config, data: TrainingData) -> Config:
    """The config that is used: a single network where the memory budget is too small for a blend of the features."""
    fits = BLEND_COPIES * math.prod(data.x.shape) * data.x.dtype.itemsize <= data.memory
    if isinstance(config, TrainingConfig) or fits:
        return config
    log.warning("The memory budget is too small for a blend of these features; a single network is trained.")
    return NETWORK


def _fit_blend(
    data: TrainingData,
    config: BlendConfig,
    styles: Sequence[ApiStyle],
    units: np.ndarray,
    seed: int,
    callbacks: Callbacks,
) -> FittedDecoders:
    log.info("The decoder chooses its strength by %d short trainings on the training images.", config.trainings)
    start = time.perf_counter()
    blend = fit_blend(data.x, data.y, units, config, seed, callbacks.progress)
    seconds = time.perf_counter() - start
    return FittedDecoders(
        models={style: build_blend(blend, style) for style in styles},
        histories={style: History(kept_epoch=config.epochs, seconds=seconds) for style in styles},
        epochs=dict.fromkeys(styles, config.epochs),
        shares=blend.shares,
    )


def _fit_networks(
    data: TrainingData, config: TrainingConfig, styles: Sequence[ApiStyle], seed: int, callbacks: Callbacks
) -> FittedDecoders:
    models: dict[str, Any] = {style: build_decoder(config.decoder, style, data.x, data.y, seed) for style in styles}
    diverged = None
    try:
        histories = fit(models, data, config, seed, callbacks)
    except Diverged as error:
        if not all(history.kept_epoch for history in error.histories.values()):
            if callbacks.checkpoint:
                callbacks.checkpoint.unlink(missing_ok=True)
            raise
        diverged, histories = error, error.histories
    epochs = {style: history.epochs for style, history in histories.items()}
    return FittedDecoders(models, histories, epochs, diverged=diverged)


def fit_shuffled(data: TrainingData, config: Config, units: np.ndarray, seed: int) -> Any:
    """Fit a decoder to shuffled targets: what it reaches needs no relation between images and targets.

    Args:
        data: Training and validation data, loaded; only the training targets are shuffled.
        config: A blend, or a single network, which is always trained for all epochs and keeps the last.
        units: See `fit_decoders`.
        seed: Random seed.

    Returns:
        The `keras.Model`.
    """
    data = dataclasses.replace(data, y=np.random.default_rng(seed).permutation(data.y))
    if isinstance(config, TrainingConfig):
        config = dataclasses.replace(config, keep="last", patience=None)
    return fit_decoders(data, config, ["functional"], units, seed, Callbacks()).models["functional"]


def config_from_json(document: Mapping[str, Any]) -> Config:
    """Read what `dataclasses.asdict` returned for a config, after a round trip through JSON."""
    return TrainingConfig.from_json(document) if "decoder" in document else BlendConfig.from_json(document)
