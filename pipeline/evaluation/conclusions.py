"""Conclusions: what the numbers of an evaluation mean in plain words, and what to try when they are poor.

First comes the standing of the best model (`Standing`). Where there is nothing to tell, or the prediction is at chance,
one sentence says so, and no other number is interpreted.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from pipeline.core.wording import counted
from pipeline.evaluation.intervals import FEWEST_CLUSTERS, FEWEST_IMAGES
from pipeline.evaluation.results import NEGLIGIBLE, Clusters, CosineSummary, Difference, EvaluationResult

LOW_CEILING = 0.999
GAP = 0.1  # how far the training cosine may be above the held-out one before it is mentioned
WIDE = 0.1  # of an interval
TOO_FEW = 10  # images; fewer show nothing
CORRELATED = 2.0  # times 1 / sqrt(n): a correlation of n independent pairs that chance exceeds in 2.5 %
ALIKE = 1 - 1e-6  # the cosine of the mean baseline where training has no other target
COLLAPSED = 0.5  # of the targets' effective rank
HUB = 0.2  # the least share of predictions that makes a candidate a hub ...
HUB_RATIO = 3  # ... where it is this many times the share of images whose target it is


@dataclass(frozen=True)
class Context:
    """What the numbers alone do not say.

    Attributes:
        training_cosines: Model -> mean cosine on its training images, where it is known.
        activations: Model -> output activation of the decoder.
        weights: The `weights` option that the features were computed with.
        trained_on: How many of the images the decoders were trained on.
        near_trained_on: How many others are detected near-duplicates of images that they were trained on.
        tuned: Whether the decoders chose their own strength, so advice on epochs does not apply.
        held_out_by: What held the images out: "folds", or the kind of a split rule; None for images from elsewhere.
    """

    training_cosines: Mapping[str, float]
    activations: Mapping[str, str]
    weights: str = "imagenet"
    trained_on: int = 0
    near_trained_on: int = 0
    tuned: bool = False
    held_out_by: str | None = None


class Standing(Enum):
    """What can be said of the best model at all."""

    NO_DIRECTION = auto()  # all targets are zero vectors
    ALL_ALIKE = auto()  # all targets are the same
    CONSTANT = auto()  # all predictions are the same
    TOO_FEW = auto()  # too few images to say anything
    CHANCE = auto()  # nothing shows that predictions depend on the image
    MEASURED = auto()


def standing(result: EvaluationResult) -> Standing:
    """What can be said of the best model."""
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


def _depends_on_the_image(result: EvaluationResult, name: str) -> bool:
    """Whether predictions are shown to rise and fall with targets, though they may be worse than the mean target."""
    scores = result.models[name].scores
    if result.lead == "r2":
        r = scores.patterns.pearson.median
        return r is not None and r > CORRELATED / math.sqrt(result.clusters.count)
    centred = scores.centred_cosine.ci95 or scores.centred_cosine.ci95_same_labels
    return centred is not None and centred[0] > 0


def headline(result: EvaluationResult, context: Context) -> str:
    """The verdict on the best model in a line, such as "Mean cosine 0.302: below the mean baseline of 0.392"."""
    found = standing(result)
    if found is Standing.NO_DIRECTION:
        return "All targets are zero vectors: there is nothing to predict"
    if found is Standing.ALL_ALIKE:
        return "All targets are the same: there is nothing to tell apart"
    reached = _leading_scores(result, result.best_model)
    if found is Standing.CONSTANT:
        return f"{reached}: the decoder ignores the image"
    if context.trained_on:
        return f"{reached}, but {context.trained_on} of {counted(result.images, 'image')} were trained on"
    if found is Standing.TOO_FEW:
        return f"{reached} on {counted(result.images, 'image')}: too few to show anything"
    baseline = "mean" if found is Standing.CHANCE else result.best_baseline
    if baseline is None:
        return f"{reached}, with no baseline to compare it with"
    difference = result.difference(result.best_model, baseline)
    chance = "at chance, " if found is Standing.CHANCE else ""
    unsure = "" if difference and difference.interval(result.lead) else ", without an interval"
    relation = _relation(difference, result)
    return f"{reached}: {chance}{relation} the {baseline} baseline of {_value(result, baseline)}{unsure}"


def _leading_scores(result: EvaluationResult, name: str) -> str:
    """The score that counts, in words."""
    patterns = result.models[name].scores.patterns
    if result.lead == "cosine" or patterns.r2.median is None:
        return f"Mean cosine {result.models[name].scores.cosine.mean:.3f}"
    r = "undefined" if patterns.pearson.median is None else f"{patterns.pearson.median:.2f}"
    if result.target_dim == 1:
        return f"Pearson's r {r}, R² {_two_digits(patterns.r2.median)}"
    return f"Median over dimensions: Pearson's r {r}, R² {_two_digits(patterns.r2.median)}"


def _value(result: EvaluationResult, name: str) -> str:
    return f"{result.value(name):.3f}" if result.lead == "cosine" else f"R² {_two_digits(result.value(name))}"


def _two_digits(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # never -0.00


def _relation(difference: Difference | None, result: EvaluationResult) -> str:
    if difference is None or difference.interval(result.lead) is None:
        size = 0.0 if difference is None else difference.r2 if result.lead == "r2" else difference.mean
        return "above" if size > 0 else "not above"
    if difference.is_positive(result.lead):
        return "better than"
    return "worse than" if difference.is_negative(result.lead) else "not shown to be better than"


def conclude(result: EvaluationResult, context: Context) -> list[str]:
    """Say what the numbers mean.

    Args:
        result: The evaluation.
        context: What else is known.

    Returns:
        Sentences: first what the best model reached, then what that is worth, then what to try. One, and what spoils
        it, where there is nothing to tell (see `Standing`).
    """
    name, found = result.best_model, standing(result)
    if found is not Standing.MEASURED:
        return [_nothing_to_tell(result, name, found), *_not_new(result, context)]
    return [
        _reached(result, name),
        *_blind_cosine(result),
        *_against_noise(result, name),
        *_against_baselines(result, name),
        *_retrieval(result, name),
        *_collapse(result, name),
        *_api_styles(result),
        *_output_ceiling(result, name, context),
        *_advice(result, name, context),
        *_certainty(result, name, context),
        *_not_new(result, context),
        *_zero_vectors(result, name),
        *_untrained(context),
    ]


def _nothing_to_tell(result: EvaluationResult, name: str, found: Standing) -> str:
    reached = _leading_scores(result, name)
    images = counted(result.images, "image")
    if found is Standing.NO_DIRECTION:
        return f"The targets of all {images} are zero vectors, which have no direction: there is nothing to predict."
    if found is Standing.ALL_ALIKE:
        return (
            f"{reached} on {images}, all with the same target: answering that target is always right, so no number "
            "here says what the decoder makes of an image."
        )
    if found is Standing.CONSTANT:
        return (
            f"{reached} on {images}, but {name} ignores the image: its answer is the same for all of them, or nearly. "
            "It found nothing in the training images that predicts the targets."
        )
    if found is Standing.TOO_FEW:
        beside = f" beside {_value(result, 'mean')} of the mean baseline" if "mean" in result.baselines else ""
        return f"{reached} on {images}{beside}: too few to show what it is worth, or whether it is chance."
    difference = result.difference(name, "mean")
    assert difference is not None  # or it could not be at chance
    return (
        f"{reached} on {images}: at chance. {name} is {_no_better(difference, result)} than always answering the mean "
        f"target ({_difference(difference, result)}). If that surprises you, check that each target belongs to its "
        "image."
    )


def _no_better(difference: Difference, result: EvaluationResult) -> str:
    interval = difference.interval(result.lead)
    return "no better" if interval and interval[1] < NEGLIGIBLE else "not shown to be better"


def _reached(result: EvaluationResult, name: str) -> str:
    scores, images = result.models[name].scores, counted(result.images, "image")
    if result.lead == "r2":
        return f"{name}: {_leading_scores(result, name)} on {images}."
    ceiling = result.models[name].ceiling
    reached = (
        f"{name} reaches a mean cosine of {scores.cosine.mean:.3f} ({_intervals(scores.cosine, result)}) on {images}"
    )
    if scores.progress is None or scores.progress < 0.005:
        return f"{reached}; the output ceiling is {ceiling:.3f}."
    mean = result.baselines["mean"].cosine.mean
    return (
        f"{reached}: {scores.progress:.0%} of the way from always answering the mean target ({mean:.3f}) to the "
        f"output ceiling ({ceiling:.3f})."
    )


def _intervals(values: CosineSummary | Difference, result: EvaluationResult, sign: str = "") -> str:
    """The intervals, each with the question that it answers."""
    parts = []
    if values.ci95:
        parts.append(f"{values.ci95[0]:{sign}.3f} to {values.ci95[1]:{sign}.3f} for {result.clusters.question}")
    if values.ci95_same_labels:
        low, high = values.ci95_same_labels
        parts.append(f"{low:{sign}.3f} to {high:{sign}.3f} for new images of these {result.clusters.kind}s")
    return f"95 % interval {'; '.join(parts)}" if parts else "no interval"


def _difference(difference: Difference, result: EvaluationResult) -> str:
    """A difference of the leading score with its intervals."""
    if result.lead == "cosine":
        return f"{difference.mean:+.3f}; {_intervals(difference, result, '+')}"
    interval = difference.r2_ci95
    bounds = f"95 % interval {interval[0]:+.2f} to {interval[1]:+.2f}" if interval else "no interval"
    return f"{difference.r2:+.2f} of explained variance; {bounds}"


def _blind_cosine(result: EvaluationResult) -> list[str]:
    """Why a cosine says little, where it does."""
    if result.lead == "cosine":
        return []
    if result.target_dim == 1:
        return ["The targets have one dimension, where a cosine only compares signs: r and R² are the scores to read."]
    few = counted(result.large_dimensions, "dimension")
    return [
        f"{few} of {result.target_dim} hold{'s' * (result.large_dimensions == 1)} 90 % of the targets' squared length. "
        "A cosine sees hardly more than that, so r and R² of each dimension are the scores to read; or give all "
        "dimensions one scale."
    ]


def _against_noise(result: EvaluationResult, name: str) -> list[str]:
    progress = result.models[name].scores.progress_to_noise_ceiling
    if result.noise_ceiling is None or progress is None:
        return []
    low, high = result.noise_ceiling_ci95 or (result.noise_ceiling,) * 2
    return [
        f"The targets are noisy: the noise ceiling, what noise-free targets would reach, is {result.noise_ceiling:.3f} "
        f"(95 % interval {low:.3f} to {high:.3f}), if noise is independent from repeat to repeat and alike for all "
        f"images. It is {max(progress, 0):.0%} of the way from the mean baseline to that."
    ]


def _against_baselines(result: EvaluationResult, name: str) -> list[str]:
    sentences = []
    mean, shuffled = (result.difference(name, baseline) for baseline in ("mean", "shuffled"))
    if mean and result.above_mean is False:
        sentences.append(
            f"It is {_no_better(mean, result)} than always answering the mean target ({_difference(mean, result)}), "
            "though its answers do depend on the image: "
            f"{'the centred cosine' if result.lead == 'cosine' else 'r'} is above 0."
        )
    best = result.best_baseline
    if best and best != "mean" and (difference := result.difference(name, best)):
        relation = _relation(difference, result)
        sentences.append(
            f"It is {relation} the {best} baseline, the best of the baselines ({_difference(difference, result)})."
        )
    if shuffled and shuffled.interval(result.lead) and not shuffled.is_positive(result.lead):
        sentences.append(
            "It is not shown to be better than a decoder trained on shuffled targets: perhaps nothing depends on which "
            "target belongs to which image. Check that they belong together."
        )
    return sentences


def _chance(candidates: int) -> str:
    return f"{1 / candidates:.0%}" if candidates <= 200 else f"{1 / candidates:.1g}"


def _retrieval(result: EvaluationResult, name: str) -> list[str]:
    scores, count = result.models[name].scores, result.candidates
    if result.target_dim == 1:  # where the nearest by cosine are all those of a sign
        return []
    sentences = [
        f"The right target is the nearest of {count} for {scores.retrieval.top1:.0%} of the images "
        f"(chance: {_chance(count)})."
    ]
    if scores.patterns.identification is not None and not scores.retrieval_of_unseen:
        sentences.append(
            f"Its pattern correlates more with its own target than with another image's in "
            f"{scores.patterns.identification:.0%} of pairs (chance: 50%)."
        )
    if scores.retrieval_of_unseen:
        seen = f", for the others {scores.retrieval_of_seen.top1:.0%}" if scores.retrieval_of_seen else ""
        sentences.append(f"For labels that training never saw it is {scores.retrieval_of_unseen.top1:.0%}{seen}.")
    if scores.retrieval_of_imagenet:
        sentences.append(
            "Some of these labels are classes of ImageNet, on which VGG16 was trained, so they are not really unseen; "
            f"for them it is {scores.retrieval_of_imagenet.top1:.0%}."
        )
    if scores.hub.share > max(HUB, HUB_RATIO * scores.hub.own):
        sentences.append(
            f"{scores.hub.candidate!r} is the nearest target of {scores.hub.share:.0%} of the predictions, but the "
            f"right one for {scores.hub.own:.0%}: it is a hub."
        )
    return sentences


def _collapse(result: EvaluationResult, name: str) -> list[str]:
    rank, target_rank = result.models[name].scores.patterns.effective_rank, result.target_rank
    if target_rank is None or rank is None or rank >= COLLAPSED * target_rank:
        return []
    return [f"The predictions vary in {rank:.1f} effective dimensions, the targets in {target_rank:.1f}."]


def _api_styles(result: EvaluationResult) -> list[str]:
    difference = result.difference("functional", "sequential")
    if difference is None:
        return []
    if difference.is_zero:
        return ["functional and sequential give every image the same cosine: the API style changes nothing."]
    verdict = "differ" if difference.is_positive() or difference.is_negative() else "are not shown to differ"
    return [f"functional and sequential {verdict} ({difference.mean:+.4f}; {_intervals(difference, result, '+')})."]


def _output_ceiling(result: EvaluationResult, name: str, context: Context) -> list[str]:
    ceiling, activation = result.models[name].ceiling, context.activations[name]
    if ceiling >= LOW_CEILING or activation in ("linear", "tanh"):
        return []
    return [
        f"Its {activation} output has no negative values, but the targets do: it can never exceed {ceiling:.3f}. Train "
        "with a linear output activation."
    ]


def _advice(result: EvaluationResult, name: str, context: Context) -> list[str]:
    """What to try: more training, or less of it, or more images."""
    training, reached = context.training_cosines.get(name), result.models[name].scores.cosine.mean
    if training is None or context.trained_on or result.lead == "r2":
        return []
    best = result.best_baseline
    if training - reached >= GAP:
        more = (
            "labels" if context.held_out_by == "classes" else "groups" if context.held_out_by == "group" else "images"
        )
        remedy = "" if context.tuned else " A smaller hidden layer or a higher weight decay may help, too."
        return [
            f"On its training images it reaches {training:.3f}, {training - reached:.2f} more. Training on more {more} "
            f"usually narrows that.{remedy}"
        ]
    weak = result.difference(name, best) if best else None
    if not context.tuned and weak and weak.interval() and not weak.is_positive():
        return [
            f"Its cosine on training images ({training:.3f}) is hardly higher: it may not have learned enough. Try "
            "more epochs or another learning rate, or the default preset."
        ]
    return []


def _certainty(result: EvaluationResult, name: str, context: Context) -> list[str]:
    """How sure the numbers are, and what would make them surer."""
    cosine, clusters = result.models[name].scores.cosine, result.clusters
    sentences = []
    if cosine.ci95 is None:
        sentences.append(_no_interval(result))
    elif result.lead == "cosine" and (width := cosine.ci95[1] - cosine.ci95[0]) > WIDE:
        sentences.append(f"The interval for {clusters.question} is {width:.2f} wide.{_narrower(clusters, context)}")
    if (cosine.ci95 or cosine.ci95_same_labels) and not clusters.over_folds:
        sentences.append(
            "All intervals take the decoder as it is: how another training would differ is in none of them."
        )
    if clusters.kind == "label" and clusters.trained_on and context.held_out_by in ("random", "folds", "column"):
        sentences.append("Training had images of these labels; the split 'classes' measures labels it never saw.")
    return sentences


def _no_interval(result: EvaluationResult) -> str:
    """Why there is no interval over clusters."""
    images, clusters = result.images, result.clusters
    if images < FEWEST_IMAGES:
        return f"{counted(images, 'image')} are too few for an interval, which needs {FEWEST_IMAGES}."
    if clusters.count < FEWEST_CLUSTERS:
        return (
            f"An interval for {clusters.question} needs {FEWEST_CLUSTERS} {clusters.kind}s; here "
            f"{'is' if clusters.count == 1 else 'are'} {clusters.count}."
        )
    return (
        f"There is no interval for {clusters.question}: a few {clusters.kind}s score so differently from the others "
        f"that {clusters.count} are too few for one."
    )


def _narrower(clusters: Clusters, context: Context) -> str:
    """What narrows an interval, where it was not done already."""
    if context.held_out_by == "random" and clusters.kind == "image":
        return " Cross-validation scores every image once."
    return f" More {'image' if clusters.over_folds and clusters.trained_on else clusters.kind}s narrow it."


def _not_new(result: EvaluationResult, context: Context) -> list[str]:
    """Images that are not new to the decoders."""
    sentences, images = [], counted(result.images, "image")
    if context.trained_on:
        sentences.append(
            f"The decoders were trained on {context.trained_on} of {images}: the cosine is not an estimate for new "
            "ones."
        )
    if context.near_trained_on:
        sentences.append(
            f"{context.near_trained_on} of {images} are detected near-duplicates of training images: the cosine is not "
            "an estimate for new ones."
        )
    return sentences


def _zero_vectors(result: EvaluationResult, name: str) -> list[str]:
    zeros = {"target": result.zero_targets, "prediction": result.models[name].scores.zero_vectors}
    return [
        f"Zero vectors have no direction: the cosine of {counted(count, what)} counts as 0."
        for what, count in zeros.items()
        if count
    ]


def _untrained(context: Context) -> list[str]:
    return ["The features come from untrained weights."] if context.weights.startswith("random") else []
