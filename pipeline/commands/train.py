"""`train`: images and targets -> a run, which is begun, resumed or given up here; `training_run.py` fills it."""

import importlib.metadata
import logging
import platform
import shutil
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from pipeline.commands.examples import SplitExamples, load_numbered_examples, load_split_examples
from pipeline.commands.scoring import check_clusters
from pipeline.commands.training_run import TrainOptions, TrainResult, train_in
from pipeline.core.atomic import remove_unfinished
from pipeline.core.errors import Interrupted, RequestError
from pipeline.core.runs import RunRecord, can_resume, check_can_save, lock_run, new_run, read_run, write_run
from pipeline.data.images import content_digest
from pipeline.data.splits import Split
from pipeline.decoders.compilation import check_names
from pipeline.decoders.config import TrainingConfig
from pipeline.decoders.fitting import effective_config
from pipeline.features.extraction import ExtractionOptions
from pipeline.features.extractor import Extractor

log = logging.getLogger(__name__)


def train(
    wanted: TrainOptions, extractor: Extractor, options: ExtractionOptions, resumed: Path | None = None
) -> TrainResult:
    """Train decoders, save them as a run, and evaluate them on the held-out images.

    Args:
        wanted: What to train on, and how.
        extractor: What turns images into features.
        options: How to run the feature stage.
        resumed: The folder of an interrupted run to resume; None for a new run.

    Returns:
        How the training went, and the held-out cosines.

    Raises:
        RequestError: Images, targets or options do not fit each other, or changed since the interrupted run began.
        PipelineError: The loss is not finite (the run then holds the decoders with their last finite, or best,
            weights), something could not be read or written, or trained decoders could not be scored (the run holds
            them, too).
        Interrupted: Ctrl-C was pressed.
    """
    if not resumed:
        check_can_save(wanted.models)
        return _train(wanted, extractor, options)
    read_run(resumed)  # for the message where it is none
    with lock_run(resumed):
        return _train(wanted, extractor, options, resumed)


def _train(
    wanted: TrainOptions, extractor: Extractor, options: ExtractionOptions, resumed: Path | None = None
) -> TrainResult:
    """What `train` does, in a run that no other process resumes."""
    if resumed and (finished := read_run(resumed).result):
        log.info("%s is already finished.", resumed)
        return TrainResult.from_record(resumed, finished)
    check_clusters(wanted.examples.images, wanted.cluster)
    if isinstance(wanted.config, TrainingConfig):
        check_names(wanted.config)
    examples = _load_all(wanted, extractor, options) if wanted.folds else None
    chosen = replace(wanted.examples, select=wanted.keeps_best)
    examples = examples or load_split_examples(chosen, extractor, options)
    wanted = replace(wanted, config=effective_config(wanted.config, examples.training_data(wanted.memory)))
    record = _new_record(wanted, examples, extractor)
    if resumed:
        _check_unchanged(resumed, record)
        before = read_run(resumed)
        record = before if before.fitted else record
        remove_unfinished(resumed)
    folder = resumed or new_run(wanted.models, wanted.name)
    try:
        with nullcontext() if resumed else lock_run(folder):
            write_run(folder, record)
            return train_in(folder, record, wanted, examples, extractor, options.progress)
    except KeyboardInterrupt as error:
        raise Interrupted(f"Interrupted. Resume with: python -m pipeline train --resume {folder}") from error
    except BaseException:
        if not can_resume(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _load_all(wanted: TrainOptions, extractor: Extractor, options: ExtractionOptions) -> SplitExamples:
    """All examples to train on; cross-validation holds them out in turn."""
    examples, duplicates = load_numbered_examples(wanted.examples, extractor, options)
    nothing = np.array([], np.intp)
    split = Split(np.arange(len(examples.targets)), nothing, nothing)
    return SplitExamples(examples, wanted.examples.rule, split, nothing, duplicates).scaled()


def _new_record(wanted: TrainOptions, examples: SplitExamples, extractor: Extractor) -> RunRecord:
    return RunRecord(
        options=wanted.command,
        extractor=extractor.description,
        training=asdict(wanted.config),
        seed=wanted.examples.seed,
        split=examples.record(),
        targets=content_digest(examples.examples.targets.tobytes()).hex(),
        versions=_versions(),
    )


def _check_unchanged(folder: Path, record: RunRecord) -> None:
    """Refuse to resume a run with other images, targets or options than it began with."""
    before, now = read_run(folder).to_json(), record.to_json()
    parts = {"split": "images", "targets": "targets", "extractor": "weights", "training": "options", "seed": "seed"}
    for part, name in parts.items():
        if before[part] != now[part]:
            raise RequestError(
                f"{folder} cannot be resumed: the {name} changed since it began. Restore them, or start a new run."
            )


def _versions() -> dict[str, str]:
    packages = ("image-vectors", "keras", "tensorflow", "numpy", "pillow", "scikit-learn")
    found = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages if name in found
    }
