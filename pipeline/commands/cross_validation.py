"""Cross-validation: every image is held out once and predicted by decoders trained on the other folds."""

import functools
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.commands.examples import Examples
from pipeline.commands.scoring import TrainingTargets
from pipeline.core.vectors import cosines
from pipeline.data.splits import SplitRule, fold_images, held_out_units
from pipeline.decoders.baselines import Baselines
from pipeline.decoders.callbacks import Callbacks
from pipeline.decoders.fitting import Config, fit_decoders
from pipeline.decoders.network import ApiStyle, predict
from pipeline.decoders.training import TrainingData
from pipeline.evaluation.intervals import FEWEST_IMAGES, corrected_resampled_interval

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoldOptions:
    """How to cross-validate.

    Attributes:
        folds: The number of folds.
        repeats: The number of repeats, each with different folds.
    """

    folds: int
    repeats: int = 1


@dataclass(frozen=True)
class FoldScore:
    """A held-out cosine, or a difference of two, over folds.

    Attributes:
        mean: The mean of the folds' means.
        ci95: Its 95 % interval, with Nadeau and Bengio's correction for folds that share training images, or None.
    """

    mean: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class FoldDifference(FoldScore):
    """The paired difference of two held-out cosines over folds: `of` minus `minus`, both names."""

    of: str
    minus: str


@dataclass(frozen=True)
class FoldResult:
    """The scores of a cross-validation.

    Attributes:
        folds: The number of folds.
        repeats: The number of repeats.
        validation_cosine: API style -> held-out cosine over all folds.
        baselines: Name -> the same.
        differences: Each API style minus each baseline.
    """

    folds: int
    repeats: int
    validation_cosine: Mapping[str, FoldScore]
    baselines: Mapping[str, FoldScore] = field(default_factory=dict)
    differences: Sequence[FoldDifference] = ()


@dataclass(frozen=True)
class OutOfFold:
    """Predictions for each image by decoders and baselines that were trained without it.

    Attributes:
        decoders: API style -> predictions, shape (N, D).
        baselines: Name -> predictions, shape (N, D).
        training: The training targets of each fold; an image's target is seen if its own fold was trained on its label.
        result: The scores over folds.
    """

    decoders: Mapping[str, np.ndarray]
    baselines: Mapping[str, np.ndarray]
    training: TrainingTargets
    result: FoldResult


def cross_validate(
    examples: Examples,
    duplicates: np.ndarray,
    rule: SplitRule,
    options: FoldOptions,
    config: Config,
    styles: Sequence[ApiStyle],
    seed: int,
    memory: int,
) -> OutOfFold:
    """Train and predict fold by fold.

    Args:
        examples: All examples, N of them.
        duplicates: A number for each example, shape (N,), int; near-duplicates share one.
        rule: The split rule that the folds follow.
        options: Folds and repeats.
        config: The decoder and its training.
        styles: The API styles to build it in.
        seed: Random seed; repeats take the next ones.
        memory: Bytes of features to keep in memory.

    Returns:
        The out-of-fold predictions of the first repeat, and the scores of all.

    Raises:
        RequestError: The images cannot be split into so many folds.
    """
    y = examples.targets
    out_of_fold: dict[str, np.ndarray] = {}
    scores: dict[str, list[float]] = defaultdict(list)
    images, fold_of = examples.features.images, np.zeros(len(y), np.intp)
    seen, seen_groups = np.zeros(len(y), bool), None if images.groups is None else np.zeros(len(y), bool)
    moments = np.zeros((2, options.folds, y.shape[1]), np.float32)
    units = held_out_units(examples.features.images, rule, duplicates)
    for repeat in range(options.repeats):
        splits = fold_images(examples.features.images, rule, duplicates, options.folds, seed + repeat)
        for number, split in enumerate(splits):
            rows, held_out = split.train, split.validation
            x = examples.features.scaled_by(rows).stored()
            data = TrainingData(x.subset(rows), y[rows], x.subset(held_out), y[held_out], memory).loaded()
            fitted = fit_decoders(data, config, styles, units[rows], seed + repeat, Callbacks())
            baselines = Baselines.fit(data.x, data.y, units[rows], seed + repeat, fitted.ridge)
            predictions = {style: predict(model, data.x_validation) for style, model in fitted.models.items()}
            predictions |= baselines.predict(data.x_validation)
            for name, predicted in predictions.items():
                scores[name].append(float(cosines(predicted, data.y_validation).mean()))
            repeats = f", repeat {repeat + 1} of {options.repeats}" if options.repeats > 1 else ""
            log.info("fold %d of %d%s: held-out cosine %.4f", number + 1, options.folds, repeats, scores[styles[0]][-1])
            if repeat == 0:
                trained = images.subset(rows)
                known = baselines.with_labels(trained.labels, trained.groups)
                training = TrainingTargets.of(known, images.subset(held_out))
                fold_of[held_out], seen[held_out] = number, training.seen
                if seen_groups is not None:
                    seen_groups[held_out] = training.seen_groups
                moments[:, number] = baselines.mean, baselines.deviation
                for name, predicted in predictions.items():
                    out_of_fold.setdefault(name, np.zeros(y.shape, np.float32))[held_out] = predicted
    # ConSE may be missing in folds where the problem was too large for it.
    complete = {name: values for name, values in scores.items() if len(values) == options.folds * options.repeats}
    return OutOfFold(
        decoders={style: out_of_fold[style] for style in styles},
        baselines={name: out_of_fold[name] for name in complete if name not in styles},
        training=TrainingTargets(moments[0], moments[1], seen, seen_groups, fold_of),
        result=fold_result(complete, styles, options, len(y)),
    )


def fold_result(
    scores: Mapping[str, Sequence[float]], styles: Sequence[str], options: FoldOptions, images: int
) -> FoldResult:
    """Summarize the scores of a cross-validation.

    Args:
        scores: Name of a decoder or a baseline -> its mean cosine in each fold of each repeat.
        styles: The names that are decoders.
        options: Folds and repeats.
        images: The number of images; below FEWEST_IMAGES there are no intervals.
    """
    baselines = [name for name in scores if name not in styles]
    over_folds = functools.partial(_over_folds, options=options, images=images)
    return FoldResult(
        folds=options.folds,
        repeats=options.repeats,
        validation_cosine={style: FoldScore(*over_folds(scores[style], 1.0)) for style in styles},
        baselines={name: FoldScore(*over_folds(scores[name], 1.0)) for name in baselines},
        differences=[
            FoldDifference(*over_folds(np.subtract(scores[style], scores[name]), 2.0), style, name)
            for style in styles
            for name in baselines
        ],
    )


def _over_folds(
    values: Sequence[float] | np.ndarray, largest: float, options: FoldOptions, images: int
) -> tuple[float, tuple[float, float] | None]:
    """The mean over folds and its interval; only the ratio of the sizes matters: training to held-out, K - 1 to 1."""
    interval = None
    if images >= FEWEST_IMAGES:
        interval = corrected_resampled_interval(np.asarray(values), options.folds - 1, 1)
    return float(np.mean(values)), interval.bounds(largest) if interval else None
