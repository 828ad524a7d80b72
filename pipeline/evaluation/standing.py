"""The standing of the best model: whether its score means anything, and the verdict in one line."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from pipeline.core.wording import counted
from pipeline.evaluation.results import Difference, Scoreboard

TOO_FEW = 10  # images; with fewer, scores mean nothing
CORRELATED = 2.0  # times 1 / sqrt(n): n independent pairs have a larger correlation by chance in 2.5 % of cases
ALIKE = 1 - 1e-6  # the mean baseline's cosine if all training targets are alike


@dataclass(frozen=True)
class Context:
    """Facts about an evaluation that its numbers do not include.

    Attributes:
        training_cosines: Model -> mean cosine on its training images, where known.
        activations: Model -> output activation of the decoder.
        weights: The `weights` option of the features; None for models that take pixels or vectors of a table.
        trained_on: The number of images that the decoders were trained on.
        near_trained_on: The number of other images that were detected as near-duplicates of training images.
        tuned: Whether the regularization was chosen automatically, so that advice on epochs does not apply.
        held_out_by: How the images were held out: "folds", or the kind of a split rule; None for images from elsewhere.
    """

    training_cosines: Mapping[str, float]
    activations: Mapping[str, str]
    weights: str | None = "imagenet"
    trained_on: int = 0
    near_trained_on: int = 0
    tuned: bool = False
    held_out_by: str | None = None


class Standing(Enum):
    """Whether the score of the best model means anything, and if not, why."""

    NO_DIRECTION = auto()  # all targets are zero vectors
    ALL_ALIKE = auto()  # all targets are the same
    CONSTANT = auto()  # all predictions are the same
    TOO_FEW = auto()  # too few images to show anything
    CHANCE = auto()  # predictions are not shown to depend on the image
    MEASURED = auto()


def standing(result: Scoreboard) -> Standing:
    """The standing of the best model."""
    name = result.best_model
    mean = result.difference(name, "mean")
    if result.zero_targets == result.images:
        return Standing.NO_DIRECTION
    if result.candidates < 2 or (mean and result.target_rank is None and result.baselines["mean"].cosine.mean > ALIKE):
        return Standing.ALL_ALIKE
    if result.is_constant:
        return Standing.CONSTANT
    if result.images < TOO_FEW:
        return Standing.TOO_FEW
    if result.above_mean is False:
        return Standing.MEASURED if _depends_on_the_image(result, name) else Standing.CHANCE
    return Standing.MEASURED


def _depends_on_the_image(result: Scoreboard, name: str) -> bool:
    """Whether predictions are shown to vary with the targets, even if they are worse than the mean target.

    A centred cosine above 0 would not show it: all predictions may be off in the direction of all held-out targets.
    """
    patterns = result.models[name].scores.patterns
    if result.lead == "r2":
        r = patterns.pearson.median
        return r is not None and r > CORRELATED / math.sqrt(result.clusters.count)
    mean_r = patterns.mean_pearson_ci95 or patterns.mean_pearson_ci95_same_labels
    return mean_r is not None and mean_r[0] > 0


def headline(result: Scoreboard, context: Context) -> str:
    """The verdict on the best model in one line, such as "Mean cosine 0.302: below the mean baseline of 0.392"."""
    status = standing(result)
    if status is Standing.NO_DIRECTION:
        return "All targets are zero vectors: there is nothing to predict"
    if status is Standing.ALL_ALIKE:
        return "All targets are the same: there is nothing to tell apart"
    score = leading_scores(result, result.best_model)
    if status is Standing.CONSTANT:
        return f"{score}: the decoder ignores the image"
    if context.trained_on:
        return f"{score}, but {context.trained_on} of {counted(result.images, 'image')} were trained on"
    if status is Standing.TOO_FEW:
        return f"{score} on {counted(result.images, 'image')}: too few to show anything"
    baseline = "mean" if status is Standing.CHANCE else result.best_baseline
    if baseline is None:
        return f"{score}, with no baseline to compare it with"
    difference = result.difference(result.best_model, baseline)
    chance = "at chance, " if status is Standing.CHANCE else ""
    unsure = "" if difference and difference.interval(result.lead) else ", without an interval"
    relation = comparison(difference, result)
    return f"{score}: {chance}{relation} the {baseline} baseline of {leading_value(result, baseline)}{unsure}"


def leading_scores(result: Scoreboard, name: str) -> str:
    """The leading score of a model in words, such as "Mean cosine 0.302"."""
    patterns = result.models[name].scores.patterns
    if result.lead == "cosine" or patterns.r2.median is None:
        return f"Mean cosine {result.models[name].scores.cosine.mean:.3f}"
    r = "undefined" if patterns.pearson.median is None else f"{patterns.pearson.median:.2f}"
    if result.target_dim == 1:
        return f"Pearson's r {r}, R² {_two_digits(patterns.r2.median)}"
    return f"Median over dimensions: Pearson's r {r}, R² {_two_digits(patterns.r2.median)}"


def leading_value(result: Scoreboard, name: str) -> str:
    """The leading score of a model or a baseline as a number, such as "0.392" or "R² 0.10"."""
    return f"{result.value(name):.3f}" if result.lead == "cosine" else f"R² {_two_digits(result.value(name))}"


def _two_digits(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # never -0.00


def comparison(difference: Difference | None, result: Scoreboard) -> str:
    """How a model compares with a baseline in words, such as "better than"; "above" or "not above" without interval."""
    if difference is None or difference.interval(result.lead) is None:
        size = 0.0 if difference is None else difference.r2 if result.lead == "r2" else difference.mean
        return "above" if size > 0 else "not above"
    if difference.is_positive(result.lead):
        return "better than"
    return "worse than" if difference.is_negative(result.lead) else "not shown to be better than"
