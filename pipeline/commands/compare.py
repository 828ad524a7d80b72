"""`compare`: the study of why two identical models differ."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.commands.examples import ExampleOptions, load_split_examples
from pipeline.core.atomic import check_output_file
from pipeline.core.errors import Interrupted
from pipeline.decoders.network import TrainingConfig
from pipeline.features.extraction import ExtractionOptions
from pipeline.features.extractor import Extractor
from pipeline.studies.plots import SUFFIXES, plot_study
from pipeline.studies.shared_optimizer import original_data, run_study
from pipeline.studies.verdicts import Scenario, study_ceiling, summarize

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompareResult:
    """The result of `compare`.

    Attributes:
        scenarios: The four scenarios.
        ceiling: The output ceiling.
        equivalent: Whether the API styles are equivalent with separate optimizers; None with a single seed.
        seconds: The duration.
    """

    scenarios: Sequence[Scenario]
    ceiling: float
    equivalent: bool | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The `compare` document of the contract."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


def compare(
    seeds: int,
    config: TrainingConfig,
    options: ExtractionOptions,
    examples: tuple[ExampleOptions, Sequence[Extractor]] | None = None,
    plot: Path | None = None,
) -> CompareResult:
    """Run the study.

    Args:
        seeds: The number of seeds, starting at 0.
        config: The decoder and its training.
        options: How to run the feature stage, and whether to show progress.
        examples: Your own images and targets, and what turns them into features; None for the original question's
            sample.
        plot: A `.png`, `.svg` or `.pdf` file for the learning curves.

    Returns:
        The scenarios with their verdicts.

    Raises:
        RequestError: The config does not fit the study, or the plot cannot be written.
        Interrupted: Ctrl-C was pressed.
    """
    if plot:
        check_output_file(plot, SUFFIXES, "plot")
    data = original_data
    if examples:
        own = load_split_examples(*examples, options).training_data().loaded()
        data = lambda seed: own  # noqa: E731
    try:
        study = run_study(data, config, range(seeds), options.progress)
    except KeyboardInterrupt as error:
        raise Interrupted("Interrupted. Nothing was saved; the same command starts again.") from error
    ceiling = study_ceiling(study)
    if plot:
        plot_study(study, ceiling, plot)
        log.info("The learning curves are in %s.", plot)
    return CompareResult(summarize(study), ceiling, study.equivalence.equivalent, study.seconds)
