"""Conclusions: what the numbers of an evaluation mean in plain words, and what to try when they are poor."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.evaluation.metrics import EvaluationResult, Interval

LOW_CEILING = 0.999
OVERFITTED = 0.1  # how far the training cosine may be above the held-out one
WIDE = 0.1  # of an interval
FEW_IMAGES = 10
NEGLIGIBLE = 0.01  # a difference of cosines that nobody would notice


@dataclass(frozen=True)
class Context:
    """What the numbers alone do not say.

    Attributes:
        training_cosines: Model -> mean cosine on its training images, where it is known.
        activations: Model -> output activation of the decoder.
        weights: The `weights` option that the features were computed with.
        trained_on: How many of the images the decoders were trained on.
    """

    training_cosines: Mapping[str, float]
    activations: Mapping[str, str]
    weights: str = "imagenet"
    trained_on: int = 0


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
        *_against_baselines(result, name),
        *_retrieval(result, name),
        *_api_styles(result),
        *_output_ceiling(result, name, context),
        *_overfitted(result, name, context),
        *_certainty(result, name, context),
    ]


def _reached(result: EvaluationResult, name: str) -> str:
    scores, ceiling = result.models[name].scores, result.models[name].ceiling
    reached = f"{name} reaches a mean cosine of {scores.cosine.mean:.3f}{_within(scores.cosine.ci95)} on "
    reached += f"{result.images} images"
    if scores.progress is None:
        return f"{reached}; the output ceiling is {ceiling:.3f}."
    mean = result.baselines["mean"].cosine.mean
    return (
        f"{reached}: {scores.progress:.0%} of the way from always answering the mean target ({mean:.3f}) to the "
        f"output ceiling ({ceiling:.3f})."
    )


def _within(interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return ""
    return f" (95 % interval {interval[0]:{sign}.3f} to {interval[1]:{sign}.3f})"


def _against_baselines(result: EvaluationResult, name: str) -> list[str]:
    mean, ridge, shuffled = (result.difference(name, baseline) for baseline in ("mean", "ridge", "shuffled"))
    sentences = []
    if mean and mean.ci95 and not mean.is_positive:
        verdict = "no better" if mean.ci95[1] < NEGLIGIBLE else "not shown to be better"
        sentences.append(
            f"It is {verdict} than always answering the mean target ({mean.mean:+.3f}{_within(mean.ci95, '+')}). "
            "Check that each target belongs to its image; then try trained weights (--weights imagenet), more images, "
            "more --epochs or another --learning-rate."
        )
    if ridge and ridge.ci95:
        verdict = (
            "better than" if ridge.is_positive else "worse than" if ridge.is_negative else "not shown to be better than"
        )
        sentences.append(f"It is {verdict} ridge regression ({ridge.mean:+.3f}{_within(ridge.ci95, '+')}).")
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
    if scores.retrieval_of_unseen:
        seen = f", for the others {scores.retrieval_of_seen.top1:.0%}" if scores.retrieval_of_seen else ""
        sentences.append(f"For labels that training never saw it is {scores.retrieval_of_unseen.top1:.0%}{seen}.")
    return sentences


def _api_styles(result: EvaluationResult) -> list[str]:
    difference = result.difference("functional", "sequential")
    if difference is None:
        return []
    if difference.mean == 0 and difference.ci95 in (None, (0, 0)):
        return ["functional and sequential give every image the same cosine: the API style changes nothing."]
    verdict = "differ" if difference.is_positive or difference.is_negative else "are not shown to differ"
    return [f"functional and sequential {verdict} ({difference.mean:+.4f}{_within(difference.ci95, '+')})."]


def _output_ceiling(result: EvaluationResult, name: str, context: Context) -> list[str]:
    ceiling, activation = result.models[name].ceiling, context.activations[name]
    if ceiling >= LOW_CEILING or activation in ("linear", "tanh"):
        return []
    return [
        f"Its {activation} output has no negative values, but the targets do: it can never exceed {ceiling:.3f}. Train "
        "with --output-activation linear."
    ]


def _overfitted(result: EvaluationResult, name: str, context: Context) -> list[str]:
    training, reached = context.training_cosines.get(name), result.models[name].scores.cosine.mean
    if training is None or context.trained_on or training - reached < OVERFITTED:
        return []
    return [
        f"Its cosine is much higher on training images ({training:.3f}) than on new ones: it overfits. More images "
        "help most; then smaller --hidden layers, or --patience 10, which keeps the best epoch."
    ]


def _certainty(result: EvaluationResult, name: str, context: Context) -> list[str]:
    sentences, images = [], result.images
    interval = result.models[name].scores.cosine.ci95
    width = interval[1] - interval[0] if interval else None
    if images < FEW_IMAGES or width is None or width > WIDE:
        sentences.append(
            f"{images} image{'s are' if images > 1 else ' is'} too few to tell small differences"
            + (f": the interval is {width:.2f} wide" if width else "")
            + ". Hold out more (--split random:0.4) or add images."
        )
    if context.trained_on:
        sentences.append(
            f"{context.trained_on} of the {images} images were trained on: the cosine is not an estimate for new ones."
        )
    if result.zero_targets:
        sentences.append(
            f"{result.zero_targets} targets are zero vectors, which have no direction; their cosine counts as 0."
        )
    if zeros := result.models[name].scores.zero_vectors:
        sentences.append(f"{zeros} predictions are zero vectors, which have no direction; their cosine counts as 0.")
    if context.weights.startswith("random"):
        sentences.append("The features come from untrained weights; --weights imagenet should do better.")
    return sentences
