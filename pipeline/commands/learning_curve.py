"""`train --learning-curve`: the decoder trained on parts of its training images."""

import logging

import numpy as np

from pipeline.commands.examples import SplitExamples
from pipeline.commands.scoring import clusters_of
from pipeline.commands.training_options import TrainOptions
from pipeline.core.progress import progress_bar
from pipeline.decoders.fitting import Config, fit_decoders
from pipeline.decoders.network import predict
from pipeline.evaluation.learning_curve import LearningCurve

log = logging.getLogger(__name__)

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the training images; the run's decoder has them all
FEWEST = 2  # training images


def learning_curve(
    examples: SplitExamples, config: Config, options: TrainOptions, predicted: np.ndarray
) -> LearningCurve | None:
    """Train decoders on parts of the training images, and score them on the held-out images.

    Args:
        examples: The examples and their split.
        config: The decoder and its training.
        options: API style, memory, clusters, and the random seed of the parts and of the trainings.
        predicted: The predictions of the run's decoder for the held-out images, shape (M, D).

    Returns:
        The scores; None if no curve was requested, or if there are too few training images.
    """
    if not options.learning_curve:
        return None
    units, held_out = examples.units[examples.train], examples.held_out
    parts = nested_parts(units, examples.strata, options.examples.seed)
    if not parts:
        log.warning("There is no learning curve: %d training images are too few to train on parts.", len(units))
        return None
    if len(parts) < len(SHARES):
        log.warning(
            "The learning curve has %d sizes instead of %d: %d training images are too few for more.",
            len(parts) + 1,
            len(SHARES) + 1,
            len(units),
        )
    predictions = []
    with progress_bar(len(parts), "training", "learning curve", options.extraction.progress) as bar:
        for rows in parts:
            data = examples.training_data(options.memory, rows).loaded()
            fitted = fit_decoders(data, config, options.styles[:1], units[rows], options.examples.seed)
            predictions.append(predict(fitted.models[options.styles[0]], held_out.features.stored()))
            bar.update(1)
    sizes = [*map(len, parts), len(units)]
    return LearningCurve.of(sizes, [*predictions, predicted], held_out.targets, clusters_of(held_out, options.cluster))


def nested_parts(units: np.ndarray, strata: np.ndarray, seed: int) -> list[np.ndarray]:
    """Random parts of the training images, each containing the smaller ones.

    Args:
        units: A number for each image, shape (N,), int; images with the same number stay together.
        strata: A number for each image, shape (N,), int; each part has about the same share of each stratum.
        seed: Random seed.

    Returns:
        The sorted rows of each part, in ascending order of size; parts of fewer than FEWEST images, and parts that are
        equal to the next larger one, are left out.
    """
    random = np.random.default_rng([seed, 7])
    different, first = np.unique(units, return_index=True)
    stratum = strata[first]
    position = np.empty(len(different))
    for number in np.unique(stratum):
        rows = np.flatnonzero(stratum == number)
        position[random.permutation(rows)] = (np.arange(len(rows)) + random.random()) / len(rows)
    order = different[np.argsort(position, kind="stable")]
    counts = sorted({round(share * len(order)) for share in SHARES} - {len(order)})
    parts = [np.flatnonzero(np.isin(units, order[:count])) for count in counts]
    return [part for part in parts if len(part) >= FEWEST]
