"""Forecasts how long fitting a blend or banded ridge regression takes, and how much memory a training takes.

The operations of each part are counted from the number of images and the dimensions; the speed of this processor is
measured. On an AMD EPYC, the forecast is within a factor of two of the actual time.
"""

import logging
import math
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.core.shared_memory import available_memory
from pipeline.core.wording import counted
from pipeline.decoders.banded import ALPHAS, BandedConfig
from pipeline.decoders.baselines import FOLDS
from pipeline.decoders.blend import MANY, BlendConfig
from pipeline.decoders.fitting import Config
from pipeline.decoders.hidden_layer import BATCH
from pipeline.decoders.ridge import COMPARED, sums_memory

log = logging.getLogger(__name__)

ANNOUNCED = 30.0  # seconds; longer trainings are announced with a forecast
MUCH = 2e9  # bytes; trainings that need more are announced with their memory
LIBRARIES = 0.9e9  # bytes that TensorFlow and Keras take ...
WITHOUT_TENSORFLOW = 0.35e9  # ... and other libraries, while banded ridge regression is fitted
COPIES_OF_WEIGHTS = 20  # of a single network in both API styles, with optimizers
COPIES_OF_SCORED = 9  # of the held-out targets
OPERATIONS_OF_ADAM = 100  # per weight; Adam is memory-bound and takes as long as this many operations
OPERATIONS_OF_EIGH = 12  # times the cube of the matrix's side, including products of such matrices
OPERATIONS_OF_QR = 4  # times the cube of the matrix's side
REFITTED = 0.1  # of the dimensions, on average: those for which a draw is better than all before
DOUBLE = 2  # an operation in float64 takes as long as two in float32


@dataclass(frozen=True)
class Size:
    """The size of a training.

    Attributes:
        rows: Training images.
        held_out: Held-out images; all images with folds.
        features: F, the dimension of the features.
        dim: D, the dimension of the targets.
        bands: The number of layers with a penalty of their own in banded ridge regression.
    """

    rows: int
    held_out: int
    features: int
    dim: int
    bands: int = 1


def announce(config: Config, size: Size, memory: int, times: int = 1) -> None:
    """Log how a blend or banded ridge regression is chosen and, if training takes long or much memory, a forecast.

    Warns if memory is short.

    Args:
        config: The config to train, see `fitting.effective_config`.
        size: The size of the training.
        memory: The memory budget in bytes.
        times: The number of decoders to fit, for example one per fold.
    """
    seconds = 0.0
    if isinstance(config, BandedConfig):
        tried = counted(config.draws, "combination")
        log.info("Banded ridge regression tries %s of layer weights on folds of its training images.", tried)
        seconds = times * banded_seconds(config, size)
    elif isinstance(config, BlendConfig):
        trainings = f"{config.trainings(size.rows)} short trainings on its training images"
        if times > 1:
            log.info("The regularization of each of %d decoders is chosen by %s.", times, trainings)
        else:
            log.info("The regularization of the decoder is chosen by %s.", trainings)
        seconds = times * expected_seconds(config, size)
    needed, available = peak_memory(config, size, memory), available_memory()
    gigabytes = f"about {needed / 1e9:.1f} GB of memory"
    if seconds > ANNOUNCED:
        minutes = counted(max(1, round(seconds / 60)), "minute")
        log.info("That takes about %s on this processor, and %s.", minutes, gigabytes)
    elif needed > MUCH:
        log.info("Training and scoring take %s.", gigabytes)
    if needed > available:
        advice = " Train on fewer images or dimensions, or free memory."
        if isinstance(config, BlendConfig):
            budget = f"--memory (in Python: memory), such as {max(1, int(available // 2e9))}GB"
            advice = f" With a smaller {budget}, a single network is trained instead."
        log.warning("Training and scoring take %s, but only %.1f GB are free.%s", gigabytes, available / 1e9, advice)


def peak_memory(config: Config, size: Size, memory: int) -> float:
    """Estimate the peak memory of a training, the baselines and the scores, in bytes.

    Args:
        config: The config.
        size: The size of the training.
        memory: The memory budget in bytes.
    """
    rows, held_out, features, dim = size.rows, size.held_out, size.features, size.dim
    targets, coefficients = 4 * (rows + held_out) * dim, 4 * features * dim
    libraries = LIBRARIES
    if isinstance(config, BandedConfig):
        at_once = config.targets_at_once(rows, features, dim, size.bands, memory)
        fitting, libraries = config.memory(rows, features, dim, size.bands, at_once), WITHOUT_TENSORFLOW
    elif isinstance(config, BlendConfig):
        fitting = config.memory(rows, features, dim)
    else:
        weights = sum(math.prod(pair) for pair in pairwise((features, *config.decoder.hidden, dim)))
        fitting = 3 * targets + 4 * COPIES_OF_WEIGHTS * weights + min(4 * rows * features, memory)
    baseline = 4 * rows * (features + dim) + sums_memory(rows, features, min(dim, COMPARED), FOLDS) + 5 * coefficients
    scoring = targets + COPIES_OF_SCORED * 4 * held_out * dim + 6 * coefficients
    return targets + max(libraries + fitting, LIBRARIES + baseline, LIBRARIES + scoring)


def banded_seconds(config: BandedConfig, size: Size) -> float:
    """Estimate how long banded ridge regression takes, within a factor of about 2.5; see `expected_seconds`.

    Each draw solves each fold for all penalties, and all rows again for those that are chosen.
    """
    rows, features, dim = size.rows, size.features, size.dim
    side, alphas, held_out = min(rows, features), len(ALPHAS), rows // config.folds

    def solved(rows: int, predicted: int, dim: float) -> float:
        return OPERATIONS_OF_EIGH * rows * side**2 + 2 * alphas * rows * predicted * (side + dim)

    folds = (1 if rows >= MANY else config.folds) * solved(rows - held_out, held_out, dim)
    if rows > features:  # the penalties' matrices are made on the features first
        folds += 2 * alphas * config.folds * rows * side**2
    refit = solved(rows, side, dim * REFITTED)
    return DOUBLE * config.draws * (folds + refit) / _operations_per_second()


def expected_seconds(config: BlendConfig, size: Size) -> float:
    """Estimate how long a blend and its ridge baseline take, within a factor of about two.

    Args:
        config: The blend.
        size: The size of the training.

    Returns:
        Seconds.
    """
    rows, dim, side, ramps = size.rows, size.dim, min(size.rows, size.features), min(size.rows, config.ramps)
    folds = 1 if rows >= MANY else config.folds
    operations = (
        _of_networks(config, rows, side, dim)
        + _of_ridge(rows, side, dim, 1 + config.folds)  # the baseline's penalty is chosen by all folds
        + _of_ridge(rows, ramps, dim, 1 + folds)
        + DOUBLE * OPERATIONS_OF_QR * side**3 * -(-config.ramps // side)  # their directions
        + 3 * 2 * rows * side * config.ramps  # drawn, summed and predicted
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
