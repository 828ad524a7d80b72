"""R² by layer of a run's banded ridge regression."""

from collections.abc import Sequence

import numpy as np

from pipeline.commands.examples import Examples
from pipeline.commands.saved_decoder import SavedDecoder
from pipeline.decoders.banded import BandedConfig, explained_squares
from pipeline.decoders.fitting import Config
from pipeline.evaluation.bands import BandScores
from pipeline.features.features import Features


def is_split(config: Config, features: Features) -> bool:
    """Whether R² can be split: banded ridge regression on several layers."""
    return isinstance(config, BandedConfig) and len(features.bands) > 1


def band_scores(decoder: SavedDecoder, held_out: Examples) -> BandScores | None:
    """Split the R² of a saved banded ridge regression by layer.

    Args:
        decoder: The decoder.
        held_out: Examples that it was not trained on.

    Returns:
        The scores; None if no target deviates from the mean training target.
    """
    bands = held_out.features.bands
    sums = explained_squares(decoder.model, decoder.inputs(held_out.features), held_out.targets, tuple(bands.values()))
    return BandScores.of(list(bands), *sums)


def over_folds(features: Features, sums: Sequence[tuple[np.ndarray, np.ndarray]]) -> BandScores | None:
    """Sum what `explained_squares` returned for each fold's regression, and split its R² by layer."""
    explained, total = (np.sum(parts, axis=0) for parts in zip(*sums, strict=True))
    return BandScores.of(list(features.bands), explained, total)
