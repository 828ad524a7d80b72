"""Fit decoders: a blend, with automatic regularization, a single network, or banded ridge regression."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.core.errors import Parameter, PipelineError, RequestError
from pipeline.decoders.banded import FEWEST, BandedConfig, build_banded, fit_banded
from pipeline.decoders.blend import BlendConfig, build_blend, fit_blend
from pipeline.decoders.callbacks import Callbacks
from pipeline.decoders.network import (
    NETWORK,
    ORIGINAL,
    ApiStyle,
    TrainingConfig,
    build_decoder,
    multiply_output,
    target_scale,
)
from pipeline.decoders.ridge import Ridge
from pipeline.decoders.training import Diverged, History, TrainingData, fit

log = logging.getLogger(__name__)

Config = TrainingConfig | BlendConfig | BandedConfig
PRESETS: dict[str, Config] = {  # of --preset
    "default": BlendConfig(),
    "network": NETWORK,
    "original": ORIGINAL,
    "banded": BandedConfig(),
}


@dataclass(frozen=True)
class FittedDecoders:
    """Trained decoders.

    Attributes:
        models: API style -> `keras.Model`.
        histories: API style -> how the training went; with curves only for a single network.
        epochs: API style -> the number of epochs trained; 0 for banded ridge regression.
        shares: Candidate -> its share of a blend, all 0 if the blend is the mean target; empty without a blend.
        ridge: A function that fits ridge regression to the training images, reusing the blend's sums; None without a
            blend.
        diverged: The error if the loss became NaN or infinite after some epochs; the models have finite weights.
        out_of_fold: The out-of-fold score of a blend (`Blend.out_of_fold`); None without one.
    """

    models: Mapping[str, Any]
    histories: Mapping[str, History]
    epochs: Mapping[str, int]
    shares: Mapping[str, float] = field(default_factory=dict)
    ridge: Callable[[], Ridge] | None = None
    diverged: PipelineError | None = None
    out_of_fold: float | None = None


def fit_decoders(
    data: TrainingData,
    config: Config = PRESETS["default"],
    styles: Sequence[ApiStyle] = ("functional",),
    units: np.ndarray | None = None,
    seed: int = 0,
    callbacks: Callbacks | None = None,
) -> FittedDecoders:
    """Fit a decoder in each API style; all styles get bit-identical weights.

    Args:
        data: Training and validation data, loaded. Only a single network uses the validation data; it streams features
            that are not in memory.
        config: A blend, a single network, or banded ridge regression.
        styles: The API styles to build.
        units: A number for each training image, shape (N,), int; images with the same number share a fold. None if all
            differ.
        seed: Random seed.
        callbacks: Progress bar, checkpoint and TensorBoard; None for no callbacks.

    Returns:
        The decoders.

    Raises:
        RequestError: Keras does not know an activation, the optimizer or the loss; or banded ridge regression exceeds
            the memory budget.
        Diverged: The loss was not finite from the start.
    """
    config, callbacks = effective_config(config, data), callbacks or Callbacks()
    units = np.arange(len(data.y)) if units is None else units
    if isinstance(config, BlendConfig):
        return _fit_blend(data, config, styles, units, seed, callbacks)
    if isinstance(config, BandedConfig):
        return _fit_banded(data, config, styles, units, seed)
    return _fit_networks(data, config, styles, seed, callbacks)


def effective_config(config: Config, data: TrainingData) -> Config:
    """The config to train: a single network if the memory budget is too small for a blend of the features.

    Banded ridge regression has no weights to draw for a single layer.

    Raises:
        RequestError: The memory budget is too small for banded ridge regression, which nothing can stand in for.
    """
    if isinstance(config, BandedConfig):
        _check_memory(config, data)
        return config if len(data.bands) > 1 else dataclasses.replace(config, draws=1)
    if not isinstance(config, BlendConfig):
        return config
    rows, dim = data.y.shape
    needed = config.memory(rows, data.x.shape[1], dim)
    if needed <= data.memory:
        return config
    log.warning(
        "A blend of %s features of dimension %s for targets of dimension %s takes about %.1f GB, more than the memory "
        "budget of %.1f GB; a single network is trained instead. Raise --memory (in Python: memory) for a blend.",
        f"{rows:,}",
        f"{data.x.shape[1]:,}",
        f"{dim:,}",
        needed / 1e9,
        data.memory / 1e9,
    )
    return NETWORK


def _check_memory(config: BandedConfig, data: TrainingData) -> None:
    rows, dim = data.y.shape
    needed = config.memory(rows, data.x.shape[1], dim, len(data.bands) or 1, min(dim, FEWEST))
    if needed > data.memory:
        raise RequestError(
            f"Banded ridge regression on {rows:,} features of dimension {data.x.shape[1]:,} for targets of dimension "
            f"{dim:,} takes about {needed / 1e9:.1f} GB, more than the memory budget of {data.memory / 1e9:.1f} GB. "
            "Raise it with ",
            Parameter("memory", f"{math.ceil(needed / 2**30)}GB"),
            ", or choose fewer or pooled layers.",
        )


def _fit_banded(
    data: TrainingData, config: BandedConfig, styles: Sequence[ApiStyle], units: np.ndarray, seed: int
) -> FittedDecoders:
    start = time.perf_counter()
    banded = fit_banded(data.x, data.y, data.bands, units, config, seed, data.memory)
    seconds = time.perf_counter() - start
    return FittedDecoders(
        models={style: build_banded(banded, style) for style in styles},
        histories={style: History(seconds=seconds) for style in styles},
        epochs=dict.fromkeys(styles, 0),
    )


def _fit_blend(
    data: TrainingData,
    config: BlendConfig,
    styles: Sequence[ApiStyle],
    units: np.ndarray,
    seed: int,
    callbacks: Callbacks,
) -> FittedDecoders:
    start = time.perf_counter()
    blend = fit_blend(data.x, data.y, units, config, seed, callbacks)
    seconds = time.perf_counter() - start
    return FittedDecoders(
        models={style: build_blend(blend, style) for style in styles},
        histories={style: History(kept_epoch=config.epochs, seconds=seconds) for style in styles},
        epochs=dict.fromkeys(styles, config.epochs),
        shares=blend.shares,
        ridge=blend.ridge,
        out_of_fold=blend.out_of_fold,
    )


def _fit_networks(
    data: TrainingData, config: TrainingConfig, styles: Sequence[ApiStyle], seed: int, callbacks: Callbacks
) -> FittedDecoders:
    scale = target_scale(data.y, config.decoder.output_activation)
    data = dataclasses.replace(data, y=data.y / np.float32(scale), y_validation=data.y_validation / np.float32(scale))
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
    for model in models.values():
        multiply_output(model, scale)
    epochs = {style: history.epochs for style, history in histories.items()}
    return FittedDecoders(models, histories, epochs, diverged=diverged)


def fit_shuffled(data: TrainingData, config: Config, units: np.ndarray, seed: int) -> Any:
    """Fit a decoder to shuffled targets, a baseline that has no relation between images and targets to learn.

    Args:
        data: Training and validation data, loaded; only the training targets are shuffled.
        config: The decoder's; a single network always trains for all epochs and keeps the last weights.
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
    """Rebuild a config from `dataclasses.asdict` after a round trip through JSON."""
    if "decoder" in document:
        return TrainingConfig.from_json(document)
    return BlendConfig.from_json(document) if "ramps" in document else BandedConfig.from_json(document)
