"""Cross-validation: every image is held out once and predicted by decoders trained on the other folds."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.commands.band_scores import is_split, over_folds
from pipeline.commands.examples import SplitExamples
from pipeline.commands.scoring import TrainingTargets
from pipeline.commands.training_options import FoldOptions, TrainOptions
from pipeline.commands.training_run import FoldDifference, FoldResult, FoldScore
from pipeline.core.vectors import cosines
from pipeline.data.splits import Split, fold_images
from pipeline.decoders.banded import explained_squares
from pipeline.decoders.baselines import Baselines
from pipeline.decoders.callbacks import Callbacks
from pipeline.decoders.fitting import Config, fit_decoders
from pipeline.decoders.network import predict
from pipeline.decoders.training import TrainingData
from pipeline.evaluation import intervals
from pipeline.evaluation.bands import BandScores

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutOfFold:
    """Predictions for each image by decoders and baselines that were trained without it.

    Attributes:
        predictions: API style or name of a baseline -> predictions, shape (N, D).
        training: The training targets of each fold; an image's target is seen if its fold's decoders were trained on
            its label.
        result: The scores over folds.
        bands: R² by layer of banded ridge regression on several layers, in the first repeat; None for other decoders.
    """

    predictions: Mapping[str, np.ndarray]
    training: TrainingTargets
    result: FoldResult
    bands: BandScores | None = None


@dataclass(frozen=True)
class _Fold:
    """The M held-out images of a fold.

    Attributes:
        rows: Their row numbers, shape (M,).
        predictions: API style or name of a baseline -> predictions, shape (M, D).
        scores: The same names -> mean cosine.
        training: The fold's training targets.
        explained: What `explained_squares` returns; None unless R² is split by layer.
    """

    rows: np.ndarray
    predictions: Mapping[str, np.ndarray]
    scores: Mapping[str, float]
    training: TrainingTargets
    explained: tuple[np.ndarray, np.ndarray] | None = None


def cross_validate(
    examples: SplitExamples, config: Config, options: TrainOptions, fold_options: FoldOptions
) -> OutOfFold:
    """Train and predict fold by fold.

    Args:
        examples: All N examples; the folds follow their split rule.
        config: The decoder and its training.
        options: API styles, memory, and the random seed; repeats take the next seeds.
        fold_options: Folds and repeats.

    Returns:
        The out-of-fold predictions of the first repeat, and the scores of all.

    Raises:
        RequestError: The images cannot be split into this many folds.
    """
    first: list[_Fold] = []
    scores: list[Mapping[str, float]] = []
    images, count = examples.all.features.images, fold_options.folds
    for repeat in range(fold_options.repeats):
        seed = options.examples.seed + repeat
        repeats = f", repeat {repeat + 1} of {fold_options.repeats}" if fold_options.repeats > 1 else ""
        for number, split in enumerate(fold_images(images, examples.rule, examples.duplicates, count, seed), 1):
            fold = _fit_fold(examples, split, config, options, seed)
            scores.append(fold.scores)
            log.info("fold %d of %d%s: held-out cosine %.4f", number, count, repeats, fold.scores[options.styles[0]])
            if repeat == 0:
                first.append(fold)
    # ConSE may be missing in folds where the problem was too large for it.
    complete = {name: [score[name] for score in scores] for name in scores[0] if all(name in score for score in scores)}
    predictions = {name: np.zeros(examples.all.targets.shape, np.float32) for name in complete}
    for fold in first:
        for name, predicted in predictions.items():
            predicted[fold.rows] = fold.predictions[name]
    result = fold_result(complete, options.styles, fold_options, len(images))
    sums = [fold.explained for fold in first if fold.explained]
    bands = over_folds(examples.all.features, sums) if sums else None
    return OutOfFold(predictions, _training_targets(first, len(images)), result, bands)


def _fit_fold(examples: SplitExamples, split: Split, config: Config, options: TrainOptions, seed: int) -> _Fold:
    """Train decoders and baselines without a fold's held-out images, and predict the held-out images."""
    features, y, rows, held_out = examples.all.features, examples.all.targets, split.train, split.validation
    x, units = features.scaled_by(rows).stored(), examples.units[rows]
    bands = tuple(features.bands.values())
    data = TrainingData(x.subset(rows), y[rows], x.subset(held_out), y[held_out], options.memory, bands=bands).loaded()
    fitted = fit_decoders(data, config, options.styles, units, seed, Callbacks())
    trained = features.images.subset(rows)
    baselines = Baselines.fit(data.x, data.y, units, seed, fitted.ridge).with_labels(trained.labels, trained.groups)
    predictions = {style: predict(model, data.x_validation) for style, model in fitted.models.items()}
    predictions |= baselines.predict(data.x_validation)
    scores = {name: float(cosines(predicted, y[held_out]).mean()) for name, predicted in predictions.items()}
    training = TrainingTargets.of(baselines, features.images.subset(held_out))
    explained = None
    if is_split(config, features):
        explained = explained_squares(fitted.models[options.styles[0]], data.x_validation, y[held_out], bands)
    return _Fold(held_out, predictions, scores, training, explained)


def _training_targets(folds: Sequence[_Fold], count: int) -> TrainingTargets:
    """The training targets of all folds."""
    order = np.argsort(np.concatenate([fold.rows for fold in folds]))

    def by_row(values: Sequence[np.ndarray | None]) -> np.ndarray | None:
        known = [value for value in values if value is not None]
        return np.concatenate(known)[order] if len(known) == len(values) else None

    return TrainingTargets(
        mean=np.stack([fold.training.mean for fold in folds]),
        deviation=np.stack([fold.training.deviation for fold in folds]),
        seen=by_row([fold.training.seen for fold in folds]),
        seen_groups=by_row([fold.training.seen_groups for fold in folds]),
        folds=by_row([np.full(len(fold.rows), number) for number, fold in enumerate(folds)]),
    )


def fold_result(
    scores: Mapping[str, Sequence[float]], styles: Sequence[str], options: FoldOptions, images: int
) -> FoldResult:
    """Summarize the scores of a cross-validation.

    Args:
        scores: Name of a decoder or a baseline -> its mean cosine in each fold of each repeat.
        styles: The names that are decoders.
        options: Folds and repeats.
        images: The number of images; below `pipeline.evaluation.intervals.FEWEST_IMAGES` there are no intervals.
    """

    def score(values: Sequence[float] | np.ndarray, largest: float = 1.0) -> FoldScore:
        interval = intervals.over_folds(np.asarray(values), options.folds, images)
        return FoldScore(float(np.mean(values)), interval.bounds(largest) if interval else None)

    baselines = [name for name in scores if name not in styles]
    return FoldResult(
        folds=options.folds,
        repeats=options.repeats,
        validation_cosine={style: score(scores[style]) for style in styles},
        baselines={name: score(scores[name]) for name in baselines},
        differences=[
            FoldDifference(**vars(score(np.subtract(scores[style], scores[name]), 2.0)), of=style, minus=name)
            for style in styles
            for name in baselines
        ],
    )
