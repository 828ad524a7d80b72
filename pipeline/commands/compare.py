"""`compare`: the study of why two identical models differ."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.commands.examples import load_split_examples, read_source
from pipeline.commands.options import CompareOptions
from pipeline.core.atomic import check_output_file
from pipeline.core.errors import interrupted_with
from pipeline.decoders.network import ORIGINAL
from pipeline.decoders.training import TrainingData
from pipeline.features.sources import NetworkSource
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
        """The JSON document of `compare`."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


def compare(options: CompareOptions) -> CompareResult:
    """Run the study.

    Args:
        options: Seeds, epochs, and your own images and targets, if any.

    Returns:
        The scenarios with their verdicts.

    Raises:
        RequestError: Images or targets are missing or do not fit each other, or the plot cannot be written.
        Interrupted: Ctrl-C was pressed.
    """
    plot = options.plot
    if plot:
        check_output_file(plot, SUFFIXES, "plot")
    own = _own_data(options) if options.examples.images or options.examples.targets.targets else None
    data, config = (lambda seed: own) if own else original_data, replace(ORIGINAL, epochs=options.epochs)
    with interrupted_with("Interrupted. Nothing was saved; the same command starts again."):
        study = run_study(data, config, range(options.seeds), options.extraction.progress)
    ceiling = study_ceiling(study)
    if plot:
        plot_study(study, ceiling, plot)
        log.info("The learning curves are in %s.", plot)
    return CompareResult(summarize(study), ceiling, study.equivalence.equivalent, study.seconds)


def _own_data(options: CompareOptions) -> TrainingData:
    """The features, in memory, and the targets of the user's own images."""
    examples = options.examples
    source = read_source(examples, "To compare on your own data, name both: IMAGES and ")
    split = load_split_examples(source, examples, NetworkSource(options.extractor.extractors()), options.extraction)
    return split.training_data().loaded()
