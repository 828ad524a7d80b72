"""A training in the folder of a run: decoders in each API style are fitted, saved, scored and reported."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.commands.cross_validation import FoldOptions, FoldResult, OutOfFold, cross_validate
from pipeline.commands.examples import ExampleOptions, SplitExamples
from pipeline.commands.scoring import DecoderPredictions, EvaluationInputs, TrainingTargets, score_decoders
from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.json_values import typed
from pipeline.core.model_files import ModelCard, save_decoder
from pipeline.core.runs import (
    CHECKPOINT_FILE,
    REPORT_FILE,
    RUN_FILE,
    TENSORBOARD_FOLDER,
    RunRecord,
    check_run_name,
    write_run,
)
from pipeline.core.vectors import cosines
from pipeline.decoders.baselines import Baselines
from pipeline.decoders.config import TrainingConfig
from pipeline.decoders.fitting import Config, FittedDecoders, fit_decoders
from pipeline.decoders.presets import PRESETS
from pipeline.decoders.spec import API_STYLES, ApiStyle, output_ceiling
from pipeline.decoders.tensorboard import require_tensorboard
from pipeline.decoders.training import MEMORY, Callbacks, TrainingData, predict
from pipeline.evaluation.results import EvaluationResult
from pipeline.features.extractor import Extractor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainOptions:
    """What to train on, and how.

    Attributes:
        examples: Images, targets and split; its seed is also that of the initial weights and the shuffling.
        config: A blend that chooses its own strength, or a single network.
        styles: The API styles to build the decoder in.
        folds: How to cross-validate before training on all images; None to hold images out instead.
        models: The folder of all runs.
        name: The name of the run's folder; None for the local time.
        memory: Bytes of features to hold at a time; more are streamed from the store.
        tensorboard: Whether to write curves for TensorBoard into the run's folder.
        cluster: What intervals generalize over: "group", "label" or "image"; None to choose by the images.
        command: The command's options, kept in `run.json` so that the run can be repeated.
    """

    examples: ExampleOptions
    config: Config = PRESETS["default"]
    styles: Sequence[ApiStyle] = API_STYLES
    folds: FoldOptions | None = None
    models: Path = Path("models")
    name: str | None = None
    memory: int = MEMORY
    tensorboard: bool = False
    cluster: str | None = None
    command: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name:
            check_run_name(self.models, self.name)
        if self.tensorboard and not isinstance(self.config, TrainingConfig):
            raise RequestError("tensorboard shows the curves of a single network; choose preset='network' with it.")
        if self.tensorboard:
            require_tensorboard()
        if self.folds and self.keeps_best:
            raise RequestError("folds hold out all images in turn and leave none to choose an epoch; use keep='last'.")

    @property
    def keeps_best(self) -> bool:
        """Whether an epoch is chosen, for which a part of the training images is set apart."""
        return isinstance(self.config, TrainingConfig) and self.config.keep == "best"

    @property
    def output_activation(self) -> str:
        """The activation of the decoder's output."""
        return self.config.decoder.output_activation if isinstance(self.config, TrainingConfig) else "linear"


@dataclass(frozen=True)
class TrainedModel:
    """The training of one decoder: its epochs, seconds, and mean cosines on training and held-out images."""

    epochs: int
    seconds: float
    train_cosine: float
    validation_cosine: float


@dataclass(frozen=True)
class TrainResult:
    """The result of `train`.

    Attributes:
        run: The run's folder.
        images: How many images there are.
        train: How many the decoders were trained on.
        validation: How many were held out; all of them, in turn, where the run was cross-validated.
        target_dim: The dimension of the targets.
        models: API style -> how its training went.
        baselines: Name -> mean held-out cosine.
        ceiling: The output ceiling on the held-out targets.
        shares: Candidate -> its share of a blend; empty for a single network.
        folds: The scores of a cross-validation, or None.
        headline: The verdict in a line.
    """

    run: Path
    images: int
    train: int
    validation: int
    target_dim: int
    models: Mapping[str, TrainedModel]
    baselines: Mapping[str, float]
    ceiling: float
    shares: Mapping[str, float]
    folds: FoldResult | None
    headline: str

    def to_json(self) -> dict[str, Any]:
        """The `train` document of the contract."""
        return {
            **asdict(self),
            "run": str(self.run),
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
        """Read what `record` returned, for a run in a folder.

        Raises:
            RequestError: It is another record.
        """
        try:
            return typed(cls, {**record, "run": folder})
        except ValueError as error:
            raise RequestError(f"{folder / RUN_FILE} is damaged (of its result, {error}).") from error


def train_in(
    folder: Path,
    record: RunRecord,
    wanted: TrainOptions,
    examples: SplitExamples,
    extractor: Extractor,
    progress: bool,
) -> TrainResult:
    """Fit, save and evaluate the decoders of a run.

    Args:
        folder: The run's folder; a checkpoint in it is continued.
        record: The run, without what only the training tells.
        wanted: What to train on, and how.
        examples: The examples with their split.
        extractor: What turned images into features.
        progress: Whether to show the progress on stderr.

    Returns:
        How the training went, and the held-out cosines.

    Raises:
        PipelineError: The loss is not finite, or something could not be read or written.
    """
    _warn_of_low_ceiling(wanted.output_activation, examples.examples.targets)
    out_of_fold = None
    if wanted.folds:
        out_of_fold = _cross_validate(wanted, wanted.folds, examples)
    data = _training_data(examples, wanted)
    checkpoint, logs = folder / CHECKPOINT_FILE, folder / TENSORBOARD_FOLDER if wanted.tensorboard else None
    units, seed = examples.training_units, wanted.examples.seed
    fitted = fit_decoders(data, wanted.config, wanted.styles, units, seed, Callbacks(progress, checkpoint, logs))
    baselines = Baselines.fit(data.x, data.y, units, seed)
    _save(folder, fitted.models, baselines, data, wanted, extractor, examples.examples.features.scales)
    record = replace(
        record,
        kept_epoch={style: history.kept_epoch for style, history in fitted.histories.items()},
        curves={style: history.finite_curves() for style, history in fitted.histories.items() if history.epochs},
    )
    training_cosines = {
        style: float(cosines(predict(model, data.x), data.y).mean()) for style, model in fitted.models.items()
    }
    inputs = _evaluation_inputs(examples, fitted, baselines, out_of_fold, training_cosines, wanted)
    inputs = replace(inputs, weights=extractor.weights.name, run=record, folder=folder)
    evaluation = score_decoders(inputs, folder / REPORT_FILE)
    result = _result(folder, data, examples, fitted, training_cosines, evaluation, out_of_fold)
    write_run(folder, replace(record, result=result.record()))
    checkpoint.unlink(missing_ok=True)
    if fitted.diverged:
        kept = " and ".join(f"{epoch} ({style})" for style, epoch in record.kept_epoch.items())
        raise PipelineError(f"{fitted.diverged} The decoders in {folder} have the weights of epoch {kept}.")
    return result


def _warn_of_low_ceiling(activation: str, targets: np.ndarray) -> None:
    ceiling = output_ceiling(activation, targets)
    if ceiling < 0.999:
        log.warning(
            "A %s output has no negative values, but the targets do: no decoder with it can exceed a mean cosine of "
            "%.3f, its output ceiling. A linear or tanh output can reach 1.",
            activation,
            ceiling,
        )


def _cross_validate(wanted: TrainOptions, folds: FoldOptions, examples: SplitExamples) -> OutOfFold:
    return cross_validate(
        examples.examples,
        examples.duplicates,
        wanted.examples.rule,
        folds,
        wanted.config,
        wanted.styles,
        wanted.examples.seed,
        wanted.memory,
    )


def _training_data(examples: SplitExamples, wanted: TrainOptions) -> TrainingData:
    """The data to train the final decoders on, in memory where it fits."""
    data = examples.training_data(wanted.memory)
    if not len(data.y_validation):  # cross-validated; there is nothing left to evaluate epochs on but training images
        data = replace(data, x_validation=data.x, y_validation=data.y)
    return data.loaded()


def _evaluation_inputs(
    examples: SplitExamples,
    fitted: FittedDecoders,
    baselines: Baselines,
    out_of_fold: OutOfFold | None,
    training_cosines: Mapping[str, float],
    wanted: TrainOptions,
) -> EvaluationInputs:
    """Predictions for the held-out images, or out-of-fold predictions for all of them."""
    held_out = examples.examples if out_of_fold else examples.held_out
    x = held_out.features.stored()
    predictions = {style: predict(model, x) for style, model in fitted.models.items()}
    training = TrainingTargets(baselines.mean, baselines.deviation, baselines.has_seen(held_out.targets))
    return EvaluationInputs(
        examples=held_out,
        decoders={
            style: DecoderPredictions(
                predictions=out_of_fold.decoders[style] if out_of_fold else predictions[style],
                output_activation=wanted.output_activation,
                training_cosine=training_cosines[style],
                curves=history.finite_curves() if history.epochs else None,
            )
            for style, history in fitted.histories.items()
        },
        baselines=out_of_fold.baselines if out_of_fold else baselines.predict(x),
        training=out_of_fold.training if out_of_fold else training,
        weights="",
        shares=fitted.shares,
        cluster=wanted.cluster,
    )


def _save(
    folder: Path,
    models: Mapping[str, Any],
    baselines: Baselines,
    data: TrainingData,
    wanted: TrainOptions,
    extractor: Extractor,
    scales: Sequence[float],
) -> None:
    card = ModelCard(
        weights=extractor.weights.name,
        fingerprint=extractor.fingerprint,
        extractor=extractor.description,
        feature_dim=data.x.shape[1],
        target_dim=data.y.shape[1],
        output_activation=wanted.output_activation,
        scales=scales,
    )
    baselines.save(folder, card)
    for style, model in models.items():
        save_decoder(model, folder / f"{style}.keras", card)


def _result(
    folder: Path,
    data: TrainingData,
    examples: SplitExamples,
    fitted: FittedDecoders,
    training_cosines: Mapping[str, float],
    evaluation: EvaluationResult,
    out_of_fold: OutOfFold | None,
) -> TrainResult:
    models = {
        style: TrainedModel(
            epochs=fitted.epochs[style],
            seconds=round(history.seconds, 3),
            train_cosine=training_cosines[style],
            validation_cosine=evaluation.models[style].scores.cosine.mean,
        )
        for style, history in fitted.histories.items()
    }
    for style, model in models.items():
        log.info("%s: %.1f s, held-out cosine %.4f", style, model.seconds, model.validation_cosine)
    return TrainResult(
        run=folder,
        images=len(examples.examples.targets),
        train=len(data.y),
        validation=evaluation.images,
        target_dim=data.y.shape[1],
        models=models,
        baselines={name: scores.cosine.mean for name, scores in evaluation.baselines.items()},
        ceiling=evaluation.ceiling,
        shares=fitted.shares,
        folds=out_of_fold.result if out_of_fold else None,
        headline=evaluation.headline,
    )
