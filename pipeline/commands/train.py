"""`train`: images and targets -> a run. Starts, resumes or discards a run; fits, saves and scores its decoders."""

import importlib.metadata
import logging
import platform
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.commands.band_scores import band_scores, is_split
from pipeline.commands.cross_validation import OutOfFold, cross_validate
from pipeline.commands.examples import SplitExamples, load_split_examples, read_source
from pipeline.commands.layer_comparison import ComparedLayers, compare_layers
from pipeline.commands.learning_curve import learning_curve
from pipeline.commands.refits import refit
from pipeline.commands.retraining_test import check_memory, retraining_test
from pipeline.commands.saved_decoder import SavedDecoder, predict_each
from pipeline.commands.scoring import EvaluationInputs, TrainingTargets, check_clusters, score_decoders
from pipeline.commands.training_options import TrainOptions
from pipeline.commands.training_run import TrainedModel, TrainResult
from pipeline.core.atomic import remove_unfinished
from pipeline.core.errors import Interrupted, Parameter, PipelineError, RequestError, cause, interrupted_with
from pipeline.core.locations import is_bucket_url
from pipeline.core.model_files import ModelCard, find_equal, read_card, save_decoder
from pipeline.core.options import kept_values
from pipeline.core.runs import (
    CHECKPOINT_FILE,
    REPORT_FILE,
    TENSORBOARD_FOLDER,
    RunRecord,
    can_resume,
    check_can_save,
    lock_run,
    new_run,
    read_run,
    write_run,
)
from pipeline.core.vectors import array_digest, cosines
from pipeline.data.sample import SAMPLE, SAMPLE_TARGETS, SAMPLE_WEIGHTS
from pipeline.decoders.baselines import Baselines
from pipeline.decoders.callbacks import Callbacks
from pipeline.decoders.fitting import Config, effective_config, fit_decoders
from pipeline.decoders.forecast import Size, announce
from pipeline.decoders.network import TrainingConfig, check_names, output_ceiling, predict
from pipeline.decoders.training import TrainingData
from pipeline.evaluation.bands import BandScores
from pipeline.evaluation.results import EvaluationResult
from pipeline.features.extractor import fingerprint
from pipeline.features.sources import FeatureSource, NetworkSource, TableSource, feature_source
from pipeline.features.weights import default_weights

log = logging.getLogger(__name__)


def train(options: TrainOptions, resumed: Path | None = None) -> TrainResult:
    """Train decoders, save them as a run, and evaluate them on the held-out images.

    Args:
        options: What to train on, and how; the sample if there are no images and no vectors.
        resumed: The folder of an interrupted run to resume; None for a new run.

    Returns:
        How the training went, and the held-out cosines.

    Raises:
        RequestError: Images, targets or options do not fit each other, or have changed since the interrupted run began.
        PipelineError: The loss is not finite (the run keeps the decoders with their last finite or best weights), a
            file could not be read or written, or the trained decoders could not be scored (the run keeps them, too).
        Interrupted: Ctrl-C was pressed.
    """
    if options.examples.images is None and options.extractor.features is None:
        options = _with_sample(options)
    if resumed:
        read_run(resumed)  # for its error message if the folder is not a run
    else:
        check_can_save(options.models)
    with lock_run(resumed) if resumed else nullcontext():
        if resumed and (finished := read_run(resumed).result):
            if options.scores:
                raise RequestError(
                    f"{resumed} is already finished and is not scored again. Score it with evaluate; scores of "
                    "held-out folds need a new run."
                )
            log.info("%s is already finished.", resumed)
            return TrainResult.from_record(resumed, finished)
        return _train(options, resumed)


def _with_sample(options: TrainOptions) -> TrainOptions:
    """The options with the sample's images, and by default its targets and untrained weights."""
    if SAMPLE is None:
        raise RequestError(
            "This installation lacks the sample; name your own IMAGES and ", Parameter("targets", "FILE"), "."
        )
    if not options.extractor.weights:
        options = replace(options, extractor=replace(options.extractor, weights=SAMPLE_WEIGHTS))
        weights = Parameter("weights", SAMPLE_WEIGHTS)
        log.info("The sample uses untrained weights (%s) and needs no download.", weights)
    targets = replace(options.examples.targets, targets=options.examples.targets.targets or SAMPLE / SAMPLE_TARGETS)
    return replace(options, examples=replace(options.examples, images=str(SAMPLE), targets=targets))


@dataclass(frozen=True)
class _Run:
    """A run to train.

    Attributes:
        folder: The run's folder; training resumes from a checkpoint in it, and trained decoders are only scored.
        options: What to train on, and how.
        config: The config to train: the options', or a single network if a blend does not fit into memory.
        examples: The examples with their split.
        source: The source of the features.
        progress: Whether to show the progress on stderr.
        compared: The decoders of several layers, or None; the examples and the source are then those of the chosen one.
    """

    folder: Path
    options: TrainOptions
    config: Config
    examples: SplitExamples
    source: FeatureSource
    progress: bool
    compared: ComparedLayers | None = None

    @property
    def output_activation(self) -> str:
        """The activation of the decoder's output."""
        return self.config.decoder.output_activation if isinstance(self.config, TrainingConfig) else "linear"

    def announce(self, times: int = 1) -> None:
        """Log how long this number of trainings takes, and how much memory."""
        features, (images, dim) = self.examples.all.features, self.examples.all.targets.shape
        rows = len(self.examples.train)
        scored = images if self.options.folds else images - rows
        size = Size(rows, scored, features.dim, dim, max(1, len(features.bands)))
        announce(self.config, size, self.options.memory, times)


def _train(options: TrainOptions, resumed: Path | None) -> TrainResult:
    """Read and split the examples, start or resume the run, fit, save and score; other processes cannot resume it."""
    config, extraction, features = options.decoder.config, options.extraction, feature_source(options.extractor)
    if isinstance(config, TrainingConfig):
        check_names(config)
    table = features.table if isinstance(features, TableSource) else None
    source = read_source(options.examples, "To train on your own images, name their target embeddings with ", table)
    check_clusters(source.images, options.cluster)
    hold_out, select = not options.folds, options.decoder.keeps_best
    examples = load_split_examples(source, options.examples, features, extraction, hold_out, select)
    check_memory(examples, options)
    compared = compare_layers(examples, config, options) if options.compare_layers else None
    if compared:
        examples, features = compared.examples, NetworkSource([compared.extractor])
    config = effective_config(config, examples.training_data(options.memory))
    record = RunRecord(
        options=_recorded(options),
        extractor=features.description,
        training=asdict(config),
        seed=options.examples.seed,
        split=examples.record(),
        targets=array_digest(examples.all.targets).hex(),
        versions=_versions(),
    )
    if resumed:
        record = _resume(resumed, record)
    folder = resumed or new_run(options.models, record, options.name)
    run = _Run(folder, options, config, examples, features, extraction.progress, compared)
    resume = f"Interrupted. Resume with: python -m pipeline train --resume {folder}"
    try:
        with interrupted_with(resume), nullcontext() if resumed else lock_run(folder):
            if resumed:
                write_run(folder, record)
            _warn_of_low_ceiling(run.output_activation, examples.all.targets)
            out_of_fold = _cross_validate(run)
            if not record.fitted:
                record = _fit(run, record)
            return _score(run, record, out_of_fold)
    except Interrupted:
        raise
    except BaseException:
        if not can_resume(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _recorded(options: TrainOptions) -> dict[str, Any]:
    """The options as stored in `run.json`, with the default weights filled in, and absolute paths."""
    recorded = kept_values(options)
    images = options.examples.images
    if images and not is_bucket_url(images) and not images.startswith(("tfds:", "hf://")):
        recorded["images"] = str(Path(images).absolute())
    if options.extractor.features:
        return recorded
    recorded["weights"] = options.extractor.weights or default_weights()
    if Path(recorded["weights"]).is_file():
        recorded["weights"] = str(Path(recorded["weights"]).absolute())
    return recorded


def _resume(folder: Path, record: RunRecord) -> RunRecord:
    """The record to resume a run with; the run's own if its decoders are trained; an error if the run has changed."""
    _check_unchanged(folder, record)
    before = read_run(folder)
    remove_unfinished(folder)
    return before if before.fitted else record


def _check_unchanged(folder: Path, record: RunRecord) -> None:
    """Check that the images, targets and options have not changed since the run began."""
    before, now = read_run(folder).to_json(), record.to_json()
    features = "vectors" if "features" in now["options"] else "weights"
    parts = {"split": "images", "targets": "targets", "extractor": features, "training": "options", "seed": "seed"}
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


def _warn_of_low_ceiling(activation: str, targets: np.ndarray) -> None:
    ceiling = output_ceiling(activation, targets)
    if ceiling < 0.999:
        log.warning(
            "A %s output has no negative values, but the targets do: no decoder with it can exceed a mean cosine of "
            "%.3f, its output ceiling. A linear or tanh output can reach 1.",
            activation,
            ceiling,
        )


def _cross_validate(run: _Run) -> OutOfFold | None:
    """Train on folds, if folds are requested."""
    folds = run.options.folds
    if folds is None:
        return None
    run.announce(times=folds.folds * folds.repeats + 1)
    return cross_validate(run.examples, run.config, run.options, folds)


def _fit(run: _Run, record: RunRecord) -> RunRecord:
    """Fit and save decoders and baselines; returns the record with a summary of the training."""
    options, examples = run.options, run.examples
    if not options.folds and not run.compared:
        run.announce(times=1 + 2 * (options.refits or 0) + options.learning_curve)
    data = examples.training_data(options.memory).loaded()
    units, seed = examples.units[examples.train], options.examples.seed
    checkpoint, logs = run.folder / CHECKPOINT_FILE, run.folder / TENSORBOARD_FOLDER if options.tensorboard else None
    callbacks = Callbacks(run.progress, checkpoint, logs)
    fitted = run.compared.fitted if run.compared else None
    fitted = fitted or fit_decoders(data, run.config, options.styles, units, seed, callbacks)
    log.info("Fitting the baselines.")
    images = examples.all.features.images.subset(examples.train)
    baselines = Baselines.fit(data.x, data.y, units, seed, fitted.ridge).with_labels(images.labels, images.groups)
    _save(run, fitted.models, baselines, data)
    record = replace(
        record,
        kept_epoch={style: history.kept_epoch for style, history in fitted.histories.items()},
        curves={style: history.finite_curves() for style, history in fitted.histories.items() if history.epochs},
        fitted={
            "models": {
                style: {
                    "epochs": fitted.epochs[style],
                    "seconds": round(fitted.histories[style].seconds, 3),
                    "train_cosine": float(cosines(predict(model, data.x), data.y).mean()),
                }
                for style, model in fitted.models.items()
            },
            "shares": fitted.shares,
            "diverged": str(fitted.diverged) if fitted.diverged else None,
        },
    )
    write_run(run.folder, record)
    checkpoint.unlink(missing_ok=True)
    return record


def _save(run: _Run, models: Mapping[str, Any], baselines: Baselines, data: TrainingData) -> None:
    description = run.source.description
    card = ModelCard(
        weights=run.source.weights,
        fingerprint=fingerprint(description),
        extractor=description,
        feature_dim=data.x.shape[1],
        target_dim=data.y.shape[1],
        output_activation=run.output_activation,
        scales=run.examples.all.features.scales,
    )
    for style, model in models.items():  # before the baselines: a folder with a decoder is never removed
        save_decoder(model, run.folder / f"{style}.keras", card)
    baselines.save(run.folder, card)


def _score(run: _Run, record: RunRecord, out_of_fold: OutOfFold | None) -> TrainResult:
    """Score the saved decoders, and write the report and the finished record."""
    try:
        bands = _band_scores(run, out_of_fold)
        inputs = _evaluation_inputs(run, out_of_fold)
        test = retraining_test(run.examples, run.options)
        predicted = inputs.predictions[run.options.styles[0]]
        refits = refit(run.examples, run.config, run.options, predicted)
        curve = learning_curve(run.examples, run.config, run.options, predicted)
        layers = run.compared.comparison if run.compared else None
        inputs = replace(inputs, sections=[part.section() for part in (layers, bands, test, refits, curve) if part])
        evaluation = score_decoders(inputs, run.folder / REPORT_FILE, scores=run.options.scores)
        result = _result(run, record, evaluation, out_of_fold)
        result = replace(result, bands=bands, permutations=test, layers=layers, refits=refits, learning_curve=curve)
        write_run(run.folder, replace(record, fitted=None, result=result.record()))
    except Exception as error:  # any exception: the message must say that the decoders are saved
        raise PipelineError(
            f"The decoders are trained and saved in {run.folder}, but scoring them failed ({type(error).__name__}: "
            f"{cause(error)}). Score them with: python -m pipeline train --resume {run.folder}"
        ) from error
    if diverged := (record.fitted or {}).get("diverged"):
        kept = " and ".join(f"{epoch} ({style})" for style, epoch in record.kept_epoch.items())
        raise PipelineError(f"{diverged} The decoders in {run.folder} have the weights of epoch {kept}.")
    return result


def _band_scores(run: _Run, out_of_fold: OutOfFold | None) -> BandScores | None:
    """R² by layer, if the decoder is banded ridge regression on several layers."""
    if out_of_fold or not is_split(run.config, run.examples.all.features):
        return out_of_fold.bands if out_of_fold else None
    file = run.folder / f"{run.options.styles[0]}.keras"
    return band_scores(SavedDecoder(file, read_card(file), run.source), run.examples.held_out)


def _evaluation_inputs(run: _Run, out_of_fold: OutOfFold | None) -> EvaluationInputs:
    """Predictions of the saved decoders for the held-out images, or out-of-fold predictions for all of them."""
    files: dict[str, Path] = {style: run.folder / f"{style}.keras" for style in run.options.styles}
    decoders = {style: SavedDecoder(file, read_card(file), run.source) for style, file in files.items()}
    training: TrainingTargets | None
    if out_of_fold:
        examples, predictions, training = run.examples.all, out_of_fold.predictions, out_of_fold.training
        equal = {
            style: first if np.array_equal(predictions[style], predictions[first]) else style
            for style, first in find_equal(files).items()
        }
    else:
        examples, baselines = run.examples.held_out, Baselines.load(run.folder)
        predictions, equal = predict_each(decoders, examples.features)
        if baselines:
            predictions = {**predictions, **baselines.predict(examples.features.stored())}
        training = TrainingTargets.of(baselines, examples.features.images) if baselines else None
    return EvaluationInputs(examples, decoders, equal, predictions, training, run.options.cluster)


def _result(run: _Run, record: RunRecord, evaluation: EvaluationResult, out_of_fold: OutOfFold | None) -> TrainResult:
    examples = run.examples
    models = {
        style: TrainedModel(**model, validation_cosine=evaluation.models[style].scores.cosine.mean)
        for style, model in record.trained["models"].items()
    }
    for style, title in evaluation.titles.items():
        log.info("%s: %.1f s, held-out cosine %.4f", title, models[style].seconds, models[style].validation_cosine)
    return TrainResult(
        run=run.folder,
        images=len(examples.all.targets),
        train=len(examples.train),
        validation=evaluation.images,
        target_dim=examples.all.targets.shape[1],
        models=models,
        baselines={name: scores.cosine.mean for name, scores in evaluation.baselines.items()},
        ceiling=evaluation.ceiling,
        shares=record.trained["shares"],
        folds=out_of_fold.result if out_of_fold else None,
        headline=evaluation.headline,
        above_mean=evaluation.above_mean,
        scores=evaluation.scores,
    )
