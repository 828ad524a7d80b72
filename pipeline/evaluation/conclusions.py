"""Conclusions: what the numbers of an evaluation mean in plain words, and what to try when they are poor.

The conclusions depend on the standing of the best model (`pipeline.evaluation.standing`). If its score means nothing or
is at chance, one sentence says so, and no other number is interpreted.
"""

from pipeline.core.wording import counted
from pipeline.evaluation.intervals import FEWEST_CLUSTERS, FEWEST_IMAGES
from pipeline.evaluation.results import NEGLIGIBLE, Clusters, CosineSummary, Difference, Scoreboard
from pipeline.evaluation.standing import Context, Standing, comparison, leading_scores, leading_value, standing

LOW_CEILING = 0.999
GAP = 0.1  # between training and held-out cosine; smaller gaps are not mentioned
WIDE = 0.1  # width of an interval; narrower ones are not mentioned
COLLAPSED = 0.5  # of the targets' effective rank
HUB = 0.2  # a candidate is a hub if it is nearest to more than this share of predictions ...
HUB_RATIO = 3  # ... and more than this many times the share of images that have it as their target


def conclude(result: Scoreboard, context: Context) -> list[str]:
    """Say what the numbers mean.

    Args:
        result: The evaluation.
        context: Facts that the numbers do not include.

    Returns:
        Sentences: first the score of the best model, then what it is worth, then what to try. If the score means
        nothing (see `Standing`), a sentence that says so, and warnings about images that are not new.
    """
    name, status = result.best_model, standing(result)
    if status is not Standing.MEASURED:
        return [_meaningless(result, name, status), *_not_new(result, context)]
    return [
        _score(result, name),
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


def _meaningless(result: Scoreboard, name: str, status: Standing) -> str:
    """Why the score of the best model means nothing."""
    score = leading_scores(result, name)
    images = counted(result.images, "image")
    if status is Standing.NO_DIRECTION:
        return f"The targets of all {images} are zero vectors, which have no direction: there is nothing to predict."
    if status is Standing.ALL_ALIKE:
        return (
            f"{score} on {images}, all with the same target: always predicting that target is right, so these numbers "
            "do not show what the decoder makes of an image."
        )
    if status is Standing.CONSTANT:
        return (
            f"{score} on {images}, but {name} ignores the image: its prediction is the same for every image, or "
            "nearly. It found nothing in the training images that predicts the targets."
        )
    if status is Standing.TOO_FEW:
        mean = f" (mean baseline: {leading_value(result, 'mean')})" if "mean" in result.baselines else ""
        return f"{score} on {images}{mean}: too few to judge the score, or to tell it from chance."
    difference = result.difference(name, "mean")
    assert difference is not None  # otherwise it could not be at chance
    return (
        f"{score} on {images}: at chance. {name} is {_no_better(difference, result)} than the mean baseline "
        f"({_difference(difference, result)}). If that surprises you, check that each target belongs to its image."
    )


def _no_better(difference: Difference, result: Scoreboard) -> str:
    interval = difference.interval(result.lead)
    return "no better" if interval and interval[1] < NEGLIGIBLE else "not shown to be better"


def _score(result: Scoreboard, name: str) -> str:
    """The score of the best model, and how far it is from the mean baseline to the output ceiling."""
    scores, images = result.models[name].scores, counted(result.images, "image")
    if result.lead == "r2":
        return f"{name}: {leading_scores(result, name)} on {images}."
    ceiling = result.models[name].ceiling
    score = (
        f"{name} reaches a mean cosine of {scores.cosine.mean:.3f} ({_intervals(scores.cosine, result)}) on {images}"
    )
    if scores.progress is None or scores.progress < 0.005:
        return f"{score}; the output ceiling is {ceiling:.3f}."
    mean = result.baselines["mean"].cosine.mean
    return (
        f"{score}: {scores.progress:.0%} of the way from the mean baseline ({mean:.3f}) to the output ceiling "
        f"({ceiling:.3f})."
    )


def _intervals(values: CosineSummary | Difference, result: Scoreboard, sign: str = "") -> str:
    """The intervals, each with the question it answers."""
    parts = []
    if values.ci95:
        parts.append(f"{values.ci95[0]:{sign}.3f} to {values.ci95[1]:{sign}.3f} for {result.clusters.question}")
    if values.ci95_same_labels:
        low, high = values.ci95_same_labels
        parts.append(f"{low:{sign}.3f} to {high:{sign}.3f} for new images of these {result.clusters.kind}s")
    return f"95 % interval {'; '.join(parts)}" if parts else "no interval"


def _difference(difference: Difference, result: Scoreboard) -> str:
    """A difference in the leading score, with its intervals."""
    if result.lead == "cosine":
        return f"{difference.mean:+.3f}; {_intervals(difference, result, '+')}"
    interval = difference.r2_ci95
    bounds = f"95 % interval {interval[0]:+.2f} to {interval[1]:+.2f}" if interval else "no interval"
    return f"{difference.r2:+.2f} of explained variance; {bounds}"


def _blind_cosine(result: Scoreboard) -> list[str]:
    """Why the cosine says little, if it does."""
    if result.lead == "cosine":
        return []
    if result.target_dim == 1:
        return ["The targets have one dimension, where a cosine only compares signs: read r and R² instead."]
    large = result.large_dimensions
    return [
        f"{large} of {result.target_dim} dimensions {'holds' if large == 1 else 'hold'} 90 % of the targets' squared "
        "length, and a cosine measures little else. Read r and R² of each dimension instead, or give all dimensions "
        "the same scale."
    ]


def _against_noise(result: Scoreboard, name: str) -> list[str]:
    progress = result.models[name].scores.progress_to_noise_ceiling
    if result.noise_ceiling is None or progress is None:
        return []
    low, high = result.noise_ceiling_ci95 or (result.noise_ceiling,) * 2
    return [
        f"The targets are noisy: the noise ceiling, the score of noise-free targets, is {result.noise_ceiling:.3f} "
        f"(95 % interval {low:.3f} to {high:.3f}), if noise is independent from repeat to repeat and alike for all "
        f"images. {name} is {max(progress, 0):.0%} of the way from the mean baseline to the noise ceiling."
    ]


def _against_baselines(result: Scoreboard, name: str) -> list[str]:
    sentences = []
    mean, shuffled = (result.difference(name, baseline) for baseline in ("mean", "shuffled"))
    if mean and result.above_mean is False:
        score = "r is above 0"
        if result.lead == "cosine":
            over_clusters = result.models[name].scores.patterns.mean_pearson_ci95
            score = "the mean r of the dimensions is above 0"
            kind = f"{result.clusters.kind}s"
            score += "" if over_clusters else f" for new images of these {kind}, which need not hold for other {kind}"
        sentences.append(
            f"It is {_no_better(mean, result)} than the mean baseline ({_difference(mean, result)}), though its "
            f"predictions do depend on the image: {score}."
        )
    best = result.best_baseline
    if best and best != "mean" and (difference := result.difference(name, best)):
        relation = comparison(difference, result)
        sentences.append(
            f"It is {relation} the {best} baseline, the best of the baselines ({_difference(difference, result)})."
        )
    if shuffled and shuffled.interval(result.lead) and not shuffled.is_positive(result.lead):
        sentences.append(
            "It is not shown to be better than a decoder trained on shuffled targets: perhaps it does not matter which "
            "target belongs to which image. Check that images and targets belong together."
        )
    return sentences


def _chance(candidates: int) -> str:
    return f"{1 / candidates:.0%}" if candidates <= 200 else f"{1 / candidates:.1g}"


def _retrieval(result: Scoreboard, name: str) -> list[str]:
    scores, count = result.models[name].scores, result.candidates
    if result.target_dim == 1:  # by cosine, all candidates with the same sign are equally near
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


def _collapse(result: Scoreboard, name: str) -> list[str]:
    rank, target_rank = result.models[name].scores.patterns.effective_rank, result.target_rank
    if target_rank is None or rank is None or rank >= COLLAPSED * target_rank:
        return []
    return [f"The predictions vary in {rank:.1f} effective dimensions, the targets in {target_rank:.1f}."]


def _api_styles(result: Scoreboard) -> list[str]:
    difference = result.difference("functional", "sequential")
    if difference is None:
        return []
    if result.equal["functional"] == result.equal["sequential"]:
        return ["functional and sequential have bit-identical weights: the API style changes nothing."]
    if difference.is_zero:
        return ["functional and sequential give every image the same cosine: the API style changes nothing."]
    verdict = "differ" if difference.is_positive() or difference.is_negative() else "are not shown to differ"
    return [f"functional and sequential {verdict} ({difference.mean:+.4f}; {_intervals(difference, result, '+')})."]


def _output_ceiling(result: Scoreboard, name: str, context: Context) -> list[str]:
    ceiling, activation = result.models[name].ceiling, context.activations[name]
    if ceiling >= LOW_CEILING or activation in ("linear", "tanh"):
        return []
    return [
        f"Its {activation} output has no negative values, but the targets do: it can never exceed {ceiling:.3f}. Train "
        "with a linear output activation."
    ]


def _advice(result: Scoreboard, name: str, context: Context) -> list[str]:
    """What to try: more training, less training, or more images."""
    training, held_out = context.training_cosines.get(name), result.models[name].scores.cosine.mean
    if training is None or context.trained_on or result.lead == "r2":
        return []
    best = result.best_baseline
    if training - held_out >= GAP:
        more = (
            "labels" if context.held_out_by == "classes" else "groups" if context.held_out_by == "group" else "images"
        )
        remedy = "" if context.tuned else " A smaller hidden layer or a higher weight decay may also help."
        return [
            f"On its training images it reaches {training:.3f}, {training - held_out:.2f} more. Training on more "
            f"{more} usually narrows that gap.{remedy}"
        ]
    weak = result.difference(name, best) if best else None
    if not context.tuned and weak and weak.interval() and not weak.is_positive():
        return [
            f"Its cosine on training images ({training:.3f}) is hardly higher: it may not have learned enough. Try "
            "more epochs or another learning rate, or the default preset."
        ]
    return []


def _certainty(result: Scoreboard, name: str, context: Context) -> list[str]:
    """How certain the numbers are, and what would narrow their intervals."""
    cosine, clusters = result.models[name].scores.cosine, result.clusters
    sentences = []
    if cosine.ci95 is None:
        sentences.append(_no_interval(result))
    elif result.lead == "cosine" and (width := cosine.ci95[1] - cosine.ci95[0]) > WIDE:
        sentences.append(f"The interval for {clusters.question} is {width:.2f} wide.{_narrower(clusters, context)}")
    if (cosine.ci95 or cosine.ci95_same_labels) and not clusters.over_folds:
        sentences.append("The intervals hold for this decoder: they do not show how another training would differ.")
    if clusters.kind == "label" and clusters.trained_on and context.held_out_by in ("random", "folds", "column"):
        sentences.append("Training included images of these labels; the split 'classes' measures labels it never saw.")
    return sentences


def _no_interval(result: Scoreboard) -> str:
    """Why there is no interval over clusters."""
    images, clusters = result.images, result.clusters
    if images < FEWEST_IMAGES:
        return f"{counted(images, 'image')} are too few for an interval, which needs {FEWEST_IMAGES}."
    if clusters.count < FEWEST_CLUSTERS:
        return (
            f"An interval for {clusters.question} needs {FEWEST_CLUSTERS} {clusters.kind}s; there "
            f"{'is' if clusters.count == 1 else 'are'} {clusters.count}."
        )
    return (
        f"There is no interval for {clusters.question}: a few {clusters.kind}s score so differently from the others "
        f"that {clusters.count} are too few."
    )


def _narrower(clusters: Clusters, context: Context) -> str:
    """What would narrow an interval, unless it has been done already."""
    if context.held_out_by == "random" and clusters.kind == "image":
        return " Cross-validation scores every image once."
    return f" More {'image' if clusters.over_folds and clusters.trained_on is not False else clusters.kind}s narrow it."


def _not_new(result: Scoreboard, context: Context) -> list[str]:
    """Images that are not new to the decoders."""
    sentences, images = [], counted(result.images, "image")
    if context.trained_on:
        sentences.append(
            f"The decoders were trained on {context.trained_on} of {images}: the cosine is not an estimate for new "
            "images."
        )
    if context.near_trained_on:
        sentences.append(
            f"{context.near_trained_on} of {images} are detected near-duplicates of training images: the cosine is not "
            "an estimate for new images."
        )
    return sentences


def _zero_vectors(result: Scoreboard, name: str) -> list[str]:
    zeros = {"target": result.zero_targets, "prediction": result.models[name].scores.zero_vectors}
    return [
        f"Zero vectors have no direction: the cosine of {counted(count, what)} counts as 0."
        for what, count in zeros.items()
        if count
    ]


def _untrained(context: Context) -> list[str]:
    return ["The features come from untrained weights."] if (context.weights or "").startswith("random") else []
