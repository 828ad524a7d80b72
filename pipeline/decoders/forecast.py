"""Forecasts the time and memory that fitting a blend or banded ridge regression takes.

The operations of each part are counted from the number of images and the dimensions; the speed of this processor is
measured. On an AMD EPYC, the forecast is within a factor of two of the actual time.
"""

import logging
import time

import numpy as np

from pipeline.core.shared_memory import available_memory
from pipeline.core.wording import counted
from pipeline.decoders.banded import ALPHAS, BandedConfig
from pipeline.decoders.blend import MANY, BlendConfig
from pipeline.decoders.fitting import Config
from pipeline.decoders.hidden_layer import BATCH

log = logging.getLogger(__name__)

ANNOUNCED = 30.0  # seconds; longer trainings are announced with a forecast
LIBRARIES = 0.9e9  # bytes that TensorFlow and Keras take
OPERATIONS_OF_ADAM = 100  # per weight; Adam is memory-bound and takes as long as this many operations
OPERATIONS_OF_EIGH = 12  # times the cube of the matrix's side, including products of such matrices
OPERATIONS_OF_QR = 4  # times the cube of the matrix's side
REFITTED = 0.1  # of the dimensions, on average: those for which a draw is better than all before
DOUBLE = 2  # an operation in float64 takes as long as two in float32


def announce(config: Config, shape: tuple[int, int], dim: int, memory: int, times: int = 1) -> None:
    """Log how a blend or banded ridge regression is chosen and, if that takes long, a forecast.

    Warns if memory is short for a blend.

    Args:
        config: The config.
        shape: The shape of the training features, (N, F).
        dim: D, the dimension of the targets.
        memory: The memory budget in bytes; no blend is trained if it needs more, see `fitting.effective_config`.
        times: The number of decoders to fit, for example one per fold.
    """
    if isinstance(config, BandedConfig):
        tried = counted(config.draws, "combination")
        log.info("Banded ridge regression tries %s of layer weights on folds of its training images.", tried)
        if (seconds := times * banded_seconds(config, *shape, dim)) > ANNOUNCED:
            log.info("That takes about %s on this processor.", _minutes(seconds))
    if not isinstance(config, BlendConfig) or (blend := config.memory(*shape, dim)) > memory:
        return
    trainings = f"{config.trainings(shape[0])} short trainings on its training images"
    if times > 1:
        log.info("The regularization of each of %d decoders is chosen by %s.", times, trainings)
    else:
        log.info("The regularization of the decoder is chosen by %s.", trainings)
    needed, available = blend + LIBRARIES, available_memory()
    if (seconds := times * expected_seconds(config, *shape, dim)) > ANNOUNCED:
        minutes, memory_used = _minutes(seconds), needed / 1e9
        log.info("That takes about %s on this processor, and about %.1f GB of memory.", minutes, memory_used)
    if needed > available:
        log.warning(
            "A blend takes about %.1f GB of memory, but only %.1f GB are free. With a smaller --memory (in Python: "
            "memory), such as %dGB, a single network is trained instead.",
            needed / 1e9,
            available / 1e9,
            max(1, available // 2e9),
        )


def _minutes(seconds: float) -> str:
    return counted(max(1, round(seconds / 60)), "minute")


def banded_seconds(config: BandedConfig, rows: int, features: int, dim: int) -> float:
    """Estimate how long banded ridge regression takes, within a factor of about 2.5; see `expected_seconds`.

    Each draw solves each fold for all penalties, and all rows again for those that are chosen.
    """
    side, alphas, held_out = min(rows, features), len(ALPHAS), rows // config.folds

    def solved(rows: int, predicted: int, dim: float) -> float:
        return OPERATIONS_OF_EIGH * rows * side**2 + 2 * alphas * rows * predicted * (side + dim)

    folds = (1 if rows >= MANY else config.folds) * solved(rows - held_out, held_out, dim)
    if rows > features:  # the penalties' matrices are made on the features first
        folds += 2 * alphas * config.folds * rows * side**2
    refit = solved(rows, side, dim * REFITTED)
    return DOUBLE * config.draws * (folds + refit) / _operations_per_second()


def expected_seconds(config: BlendConfig, rows: int, features: int, dim: int) -> float:
    """Estimate how long a blend and its ridge baseline take, within a factor of about two.

    Args:
        config: The blend.
        rows: Training images.
        features: F, the dimension of the features.
        dim: D, the dimension of the targets.

    Returns:
        Seconds.
    """
    size, ramps = min(rows, features), min(rows, config.ramps)
    folds = 1 if rows >= MANY else config.folds
    operations = (
        _of_networks(config, rows, size, dim)
        + _of_ridge(rows, size, dim, 1 + config.folds)  # the baseline's penalty is chosen by all folds
        + _of_ridge(rows, ramps, dim, 1 + folds)
        + DOUBLE * OPERATIONS_OF_QR * size**3 * -(-config.ramps // size)  # their directions
        + 3 * 2 * rows * size * config.ramps  # drawn, summed and predicted
    )
    return operations / _operations_per_second()


def _of_networks(config: BlendConfig, rows: int, size: int, dim: int) -> float:
    """The operations of all trainings of networks on coordinates of dimension `size`."""
    weights = config.units * (size + dim)
    on_all, on_folds = config.steps(rows), config.steps(rows - rows // config.folds)
    trainings = config.trainings(rows) - len(config.weight_decays)
    steps = len(config.weight_decays) * on_all + trainings * on_folds
    return steps * (BATCH * 6 + OPERATIONS_OF_ADAM) * weights


def _of_ridge(rows: int, side: int, dim: int, regressions: int) -> float:
    """The operations of the sums over all rows, and of regressions from them; see `pipeline.decoders.ridge`."""
    sums = 2 * rows * side * (side + dim)
    return DOUBLE * (sums + regressions * (OPERATIONS_OF_EIGH * side**3 + 6 * side**2 * dim))


def _operations_per_second() -> float:
    """The measured speed of matrix products of a network's size, in float32."""
    left, right = np.ones((BATCH, 2048), np.float32), np.ones((2048, 256), np.float32)
    seconds = []
    for _ in range(30):
        start = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - start)
    return 2 * left.size * right.shape[1] / min(seconds)  # the minimum, because other load only adds time
