"""`train`: images and targets -> a run with a decoder in each API style."""

import importlib.metadata
import logging
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.commands.examples import ExampleOptions, SplitExamples, load_split_examples
from pipeline.commands.scoring import DecoderPredictions, EvaluationInputs, score_decoders
from pipeline.core.atomic import remove_unfinished
from pipeline.core.errors import Interrupted, PipelineError, RequestError
from pipeline.core.model_files import ModelCard, save_decoder
from pipeline.core.runs import (
    BASELINES_FILE,
    CHECKPOINT_FILE,
    REPORT_FILE,
    TENSORBOARD_FOLDER,
    RunRecord,
    can_resume,
    new_run,
    read_run,
    write_run,
)
from pipeline.core.vectors import cosines
from pipeline.data.images import content_digest
from pipeline.decoders.baselines import Baselines
from pipeline.decoders.config import PRESETS, TrainingConfig
from pipeline.decoders.spec import API_STYLES, ApiStyle, build_decoder, output_ceiling
from pipeline.decoders.training import MEMORY, Callbacks, Diverged, History, TrainingData, fit, predict
from pipeline.evaluation.results import EvaluationResult
from pipeline.features.extraction import ExtractionOptions
from pipeline.features.extractor import Extractor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainOptions:
    """What to train on, and how.

    Attributes:
        examples: Images, targets and split; its seed is also that of the initial weights and the shuffling.
        config: The decoder and its training.
        styles: The API styles to build the decoder in.
        models: The folder of all runs.
        memory: Bytes of features to hold at a time; more are streamed from the store.
        tensorboard: Whether to write curves for TensorBoard into the run's folder.
        command: The command's options, kept in `run.json` so that the run can be repeated.
    """

    examples: ExampleOptions
    config: TrainingConfig = PRESETS["default"]
    styles: Sequence[ApiStyle] = API_STYLES
    models: Path = Path("models")
    memory: int = MEMORY
    tensorboard: bool = False
    command: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedModel:
    """The training of one decoder."""

    epochs: int
    seconds: float
    train_cosine: float
    validation_cosine: float


@dataclass(frozen=True)
class TrainResult:
    """The result of `train`.

    Attributes:
        run: The run's folder.
        train: How many images were trained on.
        validation: How many were held out.
        target_dim: The dimension of the targets.
        models: API style -> how its training went.
        baselines: Name -> mean held-out cosine.
        ceiling: The output ceiling on the held-out targets.
    """

    run: Path
    train: int
    validation: int
    target_dim: int
    models: Mapping[str, TrainedModel]
    baselines: Mapping[str, float]
    ceiling: float

    def to_json(self) -> dict[str, Any]:
        """The `train` document of the contract."""
        return {
            **asdict(self),
            "run": str(self.run),
            "images": self.train + self.validation,
            "models": {
                style: {"path": str(self.run / f"{style}.keras"), **asdict(model)}
                for style, model in self.models.items()
            },
            "baselines": {name: {"validation_cosine": cosine} for name, cosine in self.baselines.items()},
            "report": str(self.run / REPORT_FILE),
        }

    def record(self) -> dict[str, Any]:
        """The result as `run.json` holds it, without the place of the run."""
        return {name: value for name, value in asdict(self).items() if name != "run"}

    @classmethod
    def from_record(cls, folder: Path, record: Mapping[str, Any]) -> "TrainResult":
        """Read what `record` returned, for a run in a folder."""
        models = {style: TrainedModel(**model) for style, model in record["models"].items()}
        return cls(folder, **{**record, "models": models})


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
            weights), or something could not be read or written.
        Interrupted: Ctrl-C was pressed.
    """
    if resumed and (finished := read_run(resumed).result):
        log.info("%s is already finished.", resumed)
        return TrainResult.from_record(resumed, finished)
    examples = load_split_examples(wanted.examples, extractor, options)
    record = _new_record(wanted, examples, extractor)
    if resumed:
        _check_unchanged(resumed, record)
        remove_unfinished(resumed)
    folder = resumed or new_run(wanted.models)
    try:
        write_run(folder, record)
        return _train_in(folder, record, wanted, examples, extractor, options.progress)
    except KeyboardInterrupt as error:
        raise Interrupted(f"Interrupted. Resume with: python -m pipeline train --resume {folder}") from error
    except BaseException:
        if not can_resume(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _new_record(wanted: TrainOptions, examples: SplitExamples, extractor: Extractor) -> RunRecord:
    return RunRecord(
        options=wanted.command,
        extractor={"weights": extractor.weights.name, **extractor.description},
        training=asdict(wanted.config),
        seed=wanted.examples.seed,
        split=examples.record(),
        targets=content_digest(examples.examples.targets.tobytes()),
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


def _train_in(
    folder: Path,
    record: RunRecord,
    wanted: TrainOptions,
    examples: SplitExamples,
    extractor: Extractor,
    progress: bool,
) -> TrainResult:
    """Fit, save and evaluate the decoders of a run."""
    data = examples.training_data(wanted.memory)
    ceiling = output_ceiling(wanted.config.decoder.output_activation, data.y_validation)
    _warn_of_low_ceiling(wanted.config, ceiling)
    data = data.loaded()
    checkpoint, logs = folder / CHECKPOINT_FILE, folder / TENSORBOARD_FOLDER if wanted.tensorboard else None
    models, histories, diverged = _fit(data, wanted, Callbacks(progress, checkpoint, logs))
    baselines = Baselines.fit(data.x, data.y, wanted.examples.seed, wanted.memory)
    _save(folder, models, baselines, data, wanted.config, extractor)
    record = replace(
        record,
        kept_epoch={style: history.kept_epoch for style, history in histories.items()},
        curves={style: history.finite_curves() for style, history in histories.items()},
    )
    training_cosines = {style: float(cosines(predict(model, data.x), data.y).mean()) for style, model in models.items()}
    evaluation = score_decoders(
        EvaluationInputs(
            examples=examples.held_out,
            decoders={
                style: DecoderPredictions(
                    predictions=predict(model, data.x_validation),
                    output_activation=wanted.config.decoder.output_activation,
                    training_cosine=training_cosines[style],
                    curves=record.curves[style],
                )
                for style, model in models.items()
            },
            baselines=baselines.predict(data.x_validation),
            fitted=baselines,
            weights=extractor.weights.name,
            run=record,
            folder=folder,
        ),
        folder / REPORT_FILE,
    )
    result = _result(folder, data, histories, training_cosines, evaluation)
    write_run(folder, replace(record, result=result.record()))
    checkpoint.unlink(missing_ok=True)
    if diverged:
        kept = " and ".join(f"{epoch} ({style})" for style, epoch in record.kept_epoch.items())
        raise PipelineError(f"{diverged} The decoders in {folder} have the weights of epoch {kept}.")
    return result


def _warn_of_low_ceiling(config: TrainingConfig, ceiling: float) -> None:
    if ceiling < 0.999:
        log.warning(
            "A %s output has no negative values, but the targets do: no decoder with it can exceed a mean cosine of "
            "%.3f, its output ceiling. A linear or tanh output can reach 1.",
            config.decoder.output_activation,
            ceiling,
        )


def _fit(
    data: TrainingData, wanted: TrainOptions, callbacks: Callbacks
) -> tuple[dict[str, Any], dict[str, History], Diverged | None]:
    """Build and train the decoders; a training that diverged keeps what it has, if that is more than nothing."""
    config, seed = wanted.config, wanted.examples.seed
    models: dict[str, Any] = {
        style: build_decoder(config.decoder, style, data.x, data.y, seed) for style in wanted.styles
    }
    try:
        return models, fit(models, data, config, seed, callbacks), None
    except Diverged as error:
        if not all(history.kept_epoch for history in error.histories.values()):
            if callbacks.checkpoint:
                callbacks.checkpoint.unlink(missing_ok=True)
            raise
        return models, error.histories, error


def _save(
    folder: Path,
    models: Mapping[str, Any],
    baselines: Baselines,
    data: TrainingData,
    config: TrainingConfig,
    extractor: Extractor,
) -> None:
    card = ModelCard(
        weights=extractor.weights.name,
        fingerprint=extractor.fingerprint,
        extractor=extractor.description,
        feature_dim=data.x.shape[1],
        target_dim=data.y.shape[1],
        output_activation=config.decoder.output_activation,
    )
    baselines.save(folder / BASELINES_FILE)
    for style, model in models.items():
        save_decoder(model, folder / f"{style}.keras", card)


def _result(
    folder: Path,
    data: TrainingData,
    histories: Mapping[str, History],
    training_cosines: Mapping[str, float],
    evaluation: EvaluationResult,
) -> TrainResult:
    models = {
        style: TrainedModel(
            epochs=history.epochs,
            seconds=round(history.seconds, 3),
            train_cosine=training_cosines[style],
            validation_cosine=evaluation.models[style].scores.cosine.mean,
        )
        for style, history in histories.items()
    }
    for style, model in models.items():
        log.info(
            "%s: %d epochs in %.1f s, held-out cosine %.4f", style, model.epochs, model.seconds, model.validation_cosine
        )
    return TrainResult(
        run=folder,
        train=len(data.y),
        validation=len(data.y_validation),
        target_dim=data.y.shape[1],
        models=models,
        baselines={name: scores.cosine.mean for name, scores in evaluation.baselines.items()},
        ceiling=evaluation.ceiling,
    )


def _versions() -> dict[str, str]:
    packages = ("image-vectors", "keras", "tensorflow", "numpy", "pillow", "scikit-learn")
    found = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages if name in found
    }
