"""`train`: images and targets -> a run. Starts, resumes or discards a run; `training_run.py` does the training."""

import importlib.metadata
import logging
import platform
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from pipeline.commands.examples import SplitExamples, load_numbered_examples, load_split_examples
from pipeline.commands.scoring import check_clusters
from pipeline.commands.training_run import TrainingRun, TrainOptions, TrainResult, train_run
from pipeline.core.atomic import remove_unfinished
from pipeline.core.errors import Interrupted, RequestError
from pipeline.core.runs import RunRecord, can_resume, check_can_save, lock_run, new_run, read_run, write_run
from pipeline.data.images import content_digest
from pipeline.data.splits import Split
from pipeline.decoders.fitting import effective_config
from pipeline.decoders.network import TrainingConfig, check_names
from pipeline.features.extraction import ExtractionOptions
from pipeline.features.extractor import Extractor, describe

log = logging.getLogger(__name__)


def train(
    options: TrainOptions, extractors: Sequence[Extractor], extraction: ExtractionOptions, resumed: Path | None = None
) -> TrainResult:
    """Train decoders, save them as a run, and evaluate them on the held-out images.

    Args:
        options: What to train on, and how.
        extractors: The extractor of each layer.
        extraction: How to run the feature stage.
        resumed: The folder of an interrupted run to resume; None for a new run.

    Returns:
        How the training went, and the held-out cosines.

    Raises:
        RequestError: Images, targets or options do not fit each other, or changed since the interrupted run began.
        PipelineError: The loss is not finite (the run keeps the decoders with their last finite, or best, weights), a
            file could not be read or written, or the trained decoders could not be scored (the run keeps them, too).
        Interrupted: Ctrl-C was pressed.
    """
    if not resumed:
        check_can_save(options.models)
        return _train(options, extractors, extraction)
    read_run(resumed)  # for its error message if the folder is not a run
    with lock_run(resumed):
        return _train(options, extractors, extraction, resumed)


def _train(
    options: TrainOptions, extractors: Sequence[Extractor], extraction: ExtractionOptions, resumed: Path | None = None
) -> TrainResult:
    """Train as `train` does; no other process resumes the run."""
    if resumed and (finished := read_run(resumed).result):
        log.info("%s is already finished.", resumed)
        return TrainResult.from_record(resumed, finished)
    check_clusters(options.examples.images, options.cluster)
    if isinstance(options.config, TrainingConfig):
        check_names(options.config)
    examples = _load_all(options, extractors, extraction) if options.folds else None
    example_options = replace(options.examples, select=options.keeps_best)
    examples = examples or load_split_examples(example_options, extractors, extraction)
    options = replace(options, config=effective_config(options.config, examples.training_data(options.memory)))
    record = _new_record(options, examples, extractors)
    if resumed:
        _check_unchanged(resumed, record)
        before = read_run(resumed)
        record = before if before.fitted else record
        remove_unfinished(resumed)
    folder = resumed or new_run(options.models, options.name)
    try:
        with nullcontext() if resumed else lock_run(folder):
            write_run(folder, record)
            return train_run(TrainingRun(folder, options, examples, extractors, extraction.progress), record)
    except KeyboardInterrupt as error:
        raise Interrupted(f"Interrupted. Resume with: python -m pipeline train --resume {folder}") from error
    except BaseException:
        if not can_resume(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _load_all(options: TrainOptions, extractors: Sequence[Extractor], extraction: ExtractionOptions) -> SplitExamples:
    """All examples to train on; cross-validation holds them out in turn."""
    examples, duplicates = load_numbered_examples(options.examples, extractors, extraction)
    empty = np.array([], np.intp)
    split = Split(np.arange(len(examples.targets)), empty, empty)
    return SplitExamples(examples, options.examples.rule, split, empty, duplicates).scaled()


def _new_record(options: TrainOptions, examples: SplitExamples, extractors: Sequence[Extractor]) -> RunRecord:
    return RunRecord(
        options=options.command,
        extractor=describe(extractors),
        training=asdict(options.config),
        seed=options.examples.seed,
        split=examples.record(),
        targets=content_digest(examples.examples.targets.tobytes()).hex(),
        versions=_versions(),
    )


def _check_unchanged(folder: Path, record: RunRecord) -> None:
    """Refuse to resume a run whose images, targets or options changed since it began."""
    before, now = read_run(folder).to_json(), record.to_json()
    parts = {"split": "images", "targets": "targets", "extractor": "weights", "training": "options", "seed": "seed"}
    for part, name in parts.items():
        if before[part] != now[part]:
            raise RequestError(
                f"{folder} cannot be resumed: the {name} changed since it began. Restore them, or start a new run."
            )


def _versions() -> dict[str, str]:
    packages = ("image-vectors", "keras", "tensorflow", "numpy", "pillow", "scikit-learn")
    installed = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages if name in installed
    }
