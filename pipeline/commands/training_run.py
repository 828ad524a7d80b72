"""Training in the folder of a run: fits, saves and scores decoders in each API style, and writes the report."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.commands.cross_validation import FoldOptions, FoldResult, OutOfFold, cross_validate
from pipeline.commands.examples import ExampleOptions, Examples, SplitExamples
from pipeline.commands.scoring import DecoderPredictions, EvaluationInputs, TrainingTargets, score_decoders
from pipeline.core.errors import Parameter, PipelineError, RequestError, cause
from pipeline.core.json_values import typed
from pipeline.core.model_files import ModelCard, load_decoder, save_decoder
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
from pipeline.decoders.callbacks import Callbacks, require_tensorboard
from pipeline.decoders.fitting import PRESETS, Config, announce, fit_decoders
from pipeline.decoders.network import API_STYLES, ApiStyle, TrainingConfig, output_ceiling, predict
from pipeline.decoders.training import MEMORY, TrainingData
from pipeline.evaluation.results import EvaluationResult
from pipeline.features.extractor import Extractor, describe, fingerprint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainOptions:
    """What to train on, and how.

    Attributes:
        examples: Images, targets and split; its seed is also that of the initial weights and the shuffling.
        config: A blend that selects its own regularization strength, or a single network.
        styles: The API styles to build the decoder in.
        folds: How to cross-validate before training on all images; None to hold images out instead.
        models: The folder of all runs.
        name: The name of the run's folder; None for the local time.
        memory: Bytes of features to keep in memory; larger sets are streamed from the store.
        tensorboard: Whether to write curves for TensorBoard into the run's folder.
        cluster: What intervals generalize over: "group", "label" or "image"; None to choose by the images.
        command: The command's options, stored in `run.json` so that the run can be repeated.
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
            network = Parameter("preset", "network")
            raise RequestError("tensorboard shows the curves of a single network; choose ", network, " with it.")
        if self.tensorboard:
            require_tensorboard()
        if self.folds and self.keeps_best:
            last = Parameter("keep", "last")
            raise RequestError("folds hold out all images in turn and leave none to choose an epoch; use ", last, ".")
        if self.folds and self.examples.rule.fraction is not None:
            raise RequestError(
                f"{self.folds.folds} folds hold out a share of 1/{self.folds.folds} each; leave out the share of ",
                Parameter("split", str(self.examples.rule)),
                ", or the folds.",
            )

    @property
    def keeps_best(self) -> bool:
        """Whether an epoch is selected, on training images set apart for that."""
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
        images: The number of images.
        train: The number of training images.
        validation: The number of held-out images; with cross-validation, all of them in turn.
        target_dim: The dimension of the targets.
        models: API style -> a summary of its training.
        baselines: Name -> mean held-out cosine.
        ceiling: The output ceiling on the held-out targets.
        shares: Candidate -> its share of a blend; empty for a single network.
        folds: The scores of a cross-validation, or None.
        headline: The verdict in a line.
        above_mean: Whether the best decoder was shown to be better than the mean baseline; None if unknown.
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
    above_mean: bool | None = None

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
        """The result as stored in `run.json`, without the folder of the run."""
        return {name: value for name, value in asdict(self).items() if name != "run"}

    @classmethod
    def from_record(cls, folder: Path, record: Mapping[str, Any]) -> "TrainResult":
        """Restore a result from its `record`, for a run in a folder.

        Raises:
            RequestError: The record is damaged.
        """
        try:
            return typed(cls, {**record, "run": folder})
        except ValueError as error:
            raise RequestError(f"{folder / RUN_FILE} is damaged (of its result, {error}).") from error


@dataclass(frozen=True)
class TrainingRun:
    """A run to train.

    Attributes:
        folder: The run's folder; training resumes from a checkpoint in it, and trained decoders are only scored.
        options: What to train on, and how.
        examples: The examples with their split.
        extractors: The extractor of each layer.
        progress: Whether to show the progress on stderr.
    """

    folder: Path
    options: TrainOptions
    examples: SplitExamples
    extractors: Sequence[Extractor]
    progress: bool


def train_run(run: TrainingRun, record: RunRecord) -> TrainResult:
    """Fit, save and evaluate the decoders of a run.

    Args:
        run: The run.
        record: Its record, without the results of the training.

    Returns:
        How the training went, and the held-out cosines.

    Raises:
        PipelineError: The loss is not finite, a file could not be read or written, or the trained decoders could not
            be scored.
    """
    _warn_of_low_ceiling(run.options.output_activation, run.examples.examples.targets)
    out_of_fold = None
    if run.options.folds:
        out_of_fold = _cross_validate(run.options, run.options.folds, run.examples)
    if not record.fitted:
        record = _fit(run, record)
    try:
        evaluation = score_decoders(_evaluation_inputs(run, record, out_of_fold), run.folder / REPORT_FILE)
        result = _result(run, record, evaluation, out_of_fold)
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


def _fit(run: TrainingRun, record: RunRecord) -> RunRecord:
    """Fit and save decoders and baselines; returns the record with a summary of the training."""
    options, examples = run.options, run.examples
    if not options.folds:
        _announce(options, examples)
    data, units, seed = _training_data(examples, options), examples.training_units, options.examples.seed
    checkpoint, logs = run.folder / CHECKPOINT_FILE, run.folder / TENSORBOARD_FOLDER if options.tensorboard else None
    fitted = fit_decoders(data, options.config, options.styles, units, seed, Callbacks(run.progress, checkpoint, logs))
    log.info("Fitting the baselines.")
    images = examples.examples.features.images.subset(examples.train)
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


def _warn_of_low_ceiling(activation: str, targets: np.ndarray) -> None:
    ceiling = output_ceiling(activation, targets)
    if ceiling < 0.999:
        log.warning(
            "A %s output has no negative values, but the targets do: no decoder with it can exceed a mean cosine of "
            "%.3f, its output ceiling. A linear or tanh output can reach 1.",
            activation,
            ceiling,
        )


def _cross_validate(options: TrainOptions, folds: FoldOptions, examples: SplitExamples) -> OutOfFold:
    _announce(options, examples, times=folds.folds * folds.repeats + 1)
    return cross_validate(
        examples.examples,
        examples.duplicates,
        options.examples.rule,
        folds,
        options.config,
        options.styles,
        options.examples.seed,
        options.memory,
    )


def _announce(options: TrainOptions, examples: SplitExamples, times: int = 1) -> None:
    features, dim = examples.examples.features, examples.examples.targets.shape[1]
    announce(options.config, (len(examples.train), features.dim), dim, options.memory, times)


def _training_data(examples: SplitExamples, options: TrainOptions) -> TrainingData:
    """The data to train the final decoders on, in memory where it fits."""
    data = examples.training_data(options.memory)
    if not len(data.y_validation):  # cross-validated: only training images are left to evaluate epochs on
        data = replace(data, x_validation=data.x, y_validation=data.y)
    return data.loaded()


def _evaluation_inputs(run: TrainingRun, record: RunRecord, out_of_fold: OutOfFold | None) -> EvaluationInputs:
    """Predictions of the saved decoders for the held-out images, or out-of-fold predictions for all of them."""
    held_out = run.examples.examples if out_of_fold else run.examples.held_out
    decoders, baselines, training = (
        (out_of_fold.decoders, out_of_fold.baselines, out_of_fold.training)
        if out_of_fold
        else _predictions(run.folder, held_out, run.options)
    )
    trained = record.trained
    return EvaluationInputs(
        examples=held_out,
        decoders={
            style: DecoderPredictions(
                predictions=decoders[style],
                output_activation=run.options.output_activation,
                training_cosine=trained["models"][style]["train_cosine"],
                curves=record.curves.get(style),
                validation_of=record.split.validation_of,
            )
            for style in run.options.styles
        },
        baselines=baselines,
        training=training,
        weights=run.extractors[0].weights.name,
        shares=trained["shares"],
        cluster=run.options.cluster,
        run=record,
        folder=run.folder,
    )


def _predictions(
    folder: Path, held_out: Examples, options: TrainOptions
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], TrainingTargets | None]:
    """The predictions of saved decoders and baselines for held-out images, and the training targets, if known."""
    x = held_out.features.stored()
    decoders: dict[str, np.ndarray] = {
        style: predict(load_decoder(folder / f"{style}.keras"), x) for style in options.styles
    }
    baselines = Baselines.load(folder)
    if baselines is None:
        return decoders, {}, None
    return decoders, baselines.predict(x), TrainingTargets.of(baselines, held_out.features.images)


def _save(run: TrainingRun, models: Mapping[str, Any], baselines: Baselines, data: TrainingData) -> None:
    description = describe(run.extractors)
    card = ModelCard(
        weights=run.extractors[0].weights.name,
        fingerprint=fingerprint(description),
        extractor=description,
        feature_dim=data.x.shape[1],
        target_dim=data.y.shape[1],
        output_activation=run.options.output_activation,
        scales=run.examples.examples.features.scales,
    )
    for style, model in models.items():  # before the baselines: a folder with a decoder is never removed
        save_decoder(model, run.folder / f"{style}.keras", card)
    baselines.save(run.folder, card)


def _result(
    run: TrainingRun, record: RunRecord, evaluation: EvaluationResult, out_of_fold: OutOfFold | None
) -> TrainResult:
    examples = run.examples
    models = {
        style: TrainedModel(**model, validation_cosine=evaluation.models[style].scores.cosine.mean)
        for style, model in record.trained["models"].items()
    }
    for style, model in models.items():
        log.info("%s: %.1f s, held-out cosine %.4f", style, model.seconds, model.validation_cosine)
    return TrainResult(
        run=run.folder,
        images=len(examples.examples.targets),
        train=len(examples.train),
        validation=evaluation.images,
        target_dim=examples.examples.targets.shape[1],
        models=models,
        baselines={name: scores.cosine.mean for name, scores in evaluation.baselines.items()},
        ceiling=evaluation.ceiling,
        shares=record.trained["shares"],
        folds=out_of_fold.result if out_of_fold else None,
        headline=evaluation.headline,
        above_mean=evaluation.above_mean,
    )
