"""Conclusions: what the numbers of an evaluation mean in plain words, and what to try when they are poor."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.core.wording import counted
from pipeline.evaluation.results import CosineSummary, Difference, EvaluationResult

LOW_CEILING = 0.999
OVERFITTED = 0.1  # how far the training cosine may be above the held-out one
WIDE = 0.1  # of an interval
FEW_IMAGES = 10
FEW_CLUSTERS = 10
NEGLIGIBLE = 0.01  # a difference of cosines that nobody would notice
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
    """

    training_cosines: Mapping[str, float]
    activations: Mapping[str, str]
    weights: str = "imagenet"
    trained_on: int = 0
    near_trained_on: int = 0
    tuned: bool = False


def headline(result: EvaluationResult) -> str:
    """The verdict on the best model in a line, such as "0.302: below the mean baseline of 0.392"."""
    name = result.best_model
    cosine = result.models[name].scores.cosine.mean
    for baseline in ("mean", "ridge"):
        difference = result.difference(name, baseline)
        if difference and not difference.is_positive:
            other = result.baselines[baseline].cosine.mean
            relation = (
                "below" if difference.is_negative or difference.mean < -NEGLIGIBLE else "not shown to be better than"
            )
            return f"{cosine:.3f}: {relation} the {baseline} baseline of {other:.3f}"
    if "ridge" in result.baselines:
        return f"{cosine:.3f}: better than the ridge baseline of {result.baselines['ridge'].cosine.mean:.3f}"
    return f"{cosine:.3f}, with no baseline to compare it with"


def conclude(result: EvaluationResult, context: Context) -> list[str]:
    """Say what the numbers mean.

    Args:
        result: The evaluation.
        context: What else is known.

    Returns:
        Sentences: first what the best model reached, then what that is worth, then what to try.
    """
    name = result.best_model
    return [
        _reached(result, name),
        *_against_noise(result, name),
        *_against_baselines(result, name),
        *_retrieval(result, name),
        *_collapse(result, name),
        *_api_styles(result),
        *_output_ceiling(result, name, context),
        *_advice(result, name, context),
        *_certainty(result, name, context),
    ]


def _reached(result: EvaluationResult, name: str) -> str:
    scores, ceiling = result.models[name].scores, result.models[name].ceiling
    intervals = _intervals(scores.cosine, result.clusters.kind)
    reached = (
        f"{name} reaches a mean cosine of {scores.cosine.mean:.3f} ({intervals}) on {counted(result.images, 'image')}"
    )
    if scores.progress is None:
        return f"{reached}; the output ceiling is {ceiling:.3f}."
    mean = result.baselines["mean"].cosine.mean
    return (
        f"{reached}: {scores.progress:.0%} of the way from always answering the mean target ({mean:.3f}) to the "
        f"output ceiling ({ceiling:.3f})."
    )


def _intervals(values: CosineSummary | Difference, kind: str, sign: str = "") -> str:
    """The intervals, each with the question that it answers."""
    parts = []
    if values.ci95:
        parts.append(f"for new {kind}s {values.ci95[0]:{sign}.3f} to {values.ci95[1]:{sign}.3f}")
    if values.ci95_same_labels:
        low, high = values.ci95_same_labels
        parts.append(f"for new images of these {kind}s {low:{sign}.3f} to {high:{sign}.3f}")
    return f"95 % interval {'; '.join(parts)}" if parts else "no interval"


def _against_noise(result: EvaluationResult, name: str) -> list[str]:
    progress = result.models[name].scores.progress_to_noise_ceiling
    if result.noise_ceiling is None or progress is None:
        return []
    return [
        f"The targets are noisy: even a perfect prediction would reach {result.noise_ceiling:.3f}, the noise ceiling. "
        f"Measured to that, it is {progress:.0%} of the way."
    ]


def _against_baselines(result: EvaluationResult, name: str) -> list[str]:
    mean, ridge, shuffled = (result.difference(name, baseline) for baseline in ("mean", "ridge", "shuffled"))
    kind, sentences = result.clusters.kind, []
    if mean and mean.ci95 and not mean.is_positive:
        verdict = "no better" if mean.ci95[1] < NEGLIGIBLE else "not shown to be better"
        sentences.append(
            f"It is {verdict} than always answering the mean target ({mean.mean:+.3f}; {_intervals(mean, kind, '+')}). "
            "Check that each target belongs to its image."
        )
    if ridge and ridge.ci95:
        verdict = (
            "better than" if ridge.is_positive else "worse than" if ridge.is_negative else "not shown to be better than"
        )
        sentences.append(f"It is {verdict} ridge regression ({ridge.mean:+.3f}; {_intervals(ridge, kind, '+')}).")
    if shuffled and shuffled.ci95 and not shuffled.is_positive:
        sentences.append(
            "It is not shown to be better than a decoder trained on shuffled targets: perhaps nothing depends on which "
            "target belongs to which image. Check that they belong together."
        )
    return sentences


def _retrieval(result: EvaluationResult, name: str) -> list[str]:
    scores, count = result.models[name].scores, result.candidates
    if count < 2:
        return ["All images have the same target, so there is nothing to tell apart."]
    sentences = [
        f"The right target is the nearest of {count} for {scores.retrieval.top1:.0%} of the images "
        f"(chance: {1 / count:.2g})."
    ]
    if result.clusters.kind == "image" and scores.patterns.identification is not None:
        sentences.append(f"Pairwise identification is right for {scores.patterns.identification:.0%} (chance: 50%).")
    if scores.retrieval_of_unseen and result.clusters.kind != "image":
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
    if target_rank is None or (rank or 1.0) >= COLLAPSED * target_rank:
        return []
    return [
        f"The predictions collapse: they use {rank or 1.0:.1f} effective dimensions, the targets {target_rank:.1f}. "
        "More training images with other targets help."
    ]


def _api_styles(result: EvaluationResult) -> list[str]:
    difference = result.difference("functional", "sequential")
    if difference is None:
        return []
    if difference.mean == 0 and difference.ci95 in (None, (0, 0)):
        return ["functional and sequential give every image the same cosine: the API style changes nothing."]
    verdict = "differ" if difference.is_positive or difference.is_negative else "are not shown to differ"
    intervals = _intervals(difference, result.clusters.kind, "+")
    return [f"functional and sequential {verdict} ({difference.mean:+.4f}; {intervals})."]


def _output_ceiling(result: EvaluationResult, name: str, context: Context) -> list[str]:
    ceiling, activation = result.models[name].ceiling, context.activations[name]
    if ceiling >= LOW_CEILING or activation in ("linear", "tanh"):
        return []
    return [
        f"Its {activation} output has no negative values, but the targets do: it can never exceed {ceiling:.3f}. Train "
        "with --output-activation linear."
    ]


def _advice(result: EvaluationResult, name: str, context: Context) -> list[str]:
    """Advice for one of two opposite troubles: it overfits, or it has not learned enough."""
    training, reached = context.training_cosines.get(name), result.models[name].scores.cosine.mean
    if training is None or context.trained_on:
        return []
    if training - reached >= OVERFITTED:
        remedy = "" if context.tuned else " Then a smaller --hidden or a higher --weight-decay helps."
        return [
            f"Its cosine is much higher on training images ({training:.3f}) than on new ones: it overfits. More images "
            f"help most.{remedy}"
        ]
    weak = [result.difference(name, baseline) for baseline in ("mean", "ridge")]
    if not context.tuned and any(difference and not difference.is_positive for difference in weak):
        return ["It has not learned enough: try more --epochs or another --learning-rate, or --preset default."]
    return []


def _certainty(result: EvaluationResult, name: str, context: Context) -> list[str]:
    sentences, images, clusters = [], result.images, result.clusters
    interval = result.models[name].scores.cosine.ci95
    width = interval[1] - interval[0] if interval else None
    if images < FEW_IMAGES or width is None or width > WIDE:
        few = "" if clusters.kind == "image" else f" of {counted(clusters.count, clusters.kind)}"
        sentences.append(
            f"{counted(images, 'image')}{few} cannot show small differences"
            + (f": the interval is {width:.2f} wide" if width else "")
            + ". Hold out more (--split random:0.4), use --folds, or add images."
        )
    elif clusters.kind != "image" and clusters.count < FEW_CLUSTERS:
        sentences.append(
            f"The interval for new {clusters.kind}s rests on {counted(clusters.count, clusters.kind)} only."
        )
    if context.trained_on:
        sentences.append(
            f"The decoders were trained on {context.trained_on} of {counted(images, 'image')}: the cosine is not an "
            "estimate for new ones."
        )
    if context.near_trained_on:
        sentences.append(
            f"{context.near_trained_on} of {counted(images, 'image')} are detected near-duplicates of training images: "
            "the cosine is not an estimate for new ones."
        )
    if result.zero_targets:
        sentences.append(
            f"Zero vectors have no direction: the cosine of {counted(result.zero_targets, 'target')} counts as 0."
        )
    if zeros := result.models[name].scores.zero_vectors:
        sentences.append(f"Zero vectors have no direction: the cosine of {counted(zeros, 'prediction')} counts as 0.")
    if context.weights.startswith("random"):
        sentences.append("The features come from untrained weights; --weights imagenet should do better.")
    return sentences
