"""`train --refits`: the decoder fitted again, to random halves of its training images and with other seeds."""

import numpy as np

from pipeline.commands.examples import SplitExamples
from pipeline.commands.training_options import TrainOptions
from pipeline.core.progress import progress_bar
from pipeline.core.vectors import cosines
from pipeline.decoders.fitting import Config, fit_decoders
from pipeline.decoders.network import predict
from pipeline.evaluation.refits import Refits, RefitScores


def refit(examples: SplitExamples, config: Config, options: TrainOptions, predicted: np.ndarray) -> Refits | None:
    """Fit decoders again, and score them on the held-out images.

    Args:
        examples: The examples and their split.
        config: The decoder and its training.
        options: The number of refits, the API style, memory, and the random seed; refits take the next seeds.
        predicted: The predictions of the decoder itself for the held-out images, shape (M, D).

    Returns:
        The scores; None if no refits were requested.
    """
    if not options.refits:
        return None
    count, seed = options.refits, options.examples.seed
    units = examples.units[examples.train]
    halves = [_half(units, examples.strata, seed + number) for number in range(1, count + 1)]
    scores: list[float] = []
    with progress_bar(2 * count, "training", "refits", options.extraction.progress) as bar:
        for number, rows in enumerate([*([np.arange(len(units))] * count), *halves]):
            scores.append(_score(examples, rows, config, options, seed + number % count + 1))
            bar.update(1)
    return Refits(
        count=count,
        cosine=float(cosines(predicted, examples.held_out.targets).mean()),
        half=round(np.mean([len(half) for half in halves])),
        seeds=RefitScores.of(scores[:count]),
        halves=RefitScores.of(scores[count:]),
    )


def _half(units: np.ndarray, strata: np.ndarray, seed: int) -> np.ndarray:
    """The rows of a random half of the units, and of each stratum.

    Args:
        units: A number for each row, shape (N,), int: an image with its near-duplicates, or a group or a label that the
            split holds out as a whole.
        strata: A number for each row, shape (N,), int, such as its label.
        seed: Random seed.
    """
    random = np.random.default_rng([seed, 6])
    different, first = np.unique(units, return_index=True)
    order = random.permutation(len(different))
    rank = random.permutation(strata.max() + 1)[strata[first]]
    order = order[np.argsort(rank[order], kind="stable")]  # stratum by stratum; strata and their units are shuffled
    start = random.integers(min(2, len(different)))
    return np.flatnonzero(np.isin(units, different[order[start::2]]))


def _score(examples: SplitExamples, rows: np.ndarray, config: Config, options: TrainOptions, seed: int) -> float:
    """The held-out mean cosine of a decoder fitted to some of the training images."""
    data = examples.training_data(options.memory, rows).loaded()
    units = examples.units[examples.train][rows]
    model = fit_decoders(data, config, options.styles[:1], units, seed).models[options.styles[0]]
    held_out = examples.held_out
    return float(cosines(predict(model, held_out.features.stored()), held_out.targets).mean())
