"""Conclusions: what an evaluation's numbers mean in plain words, and what to try when they are poor."""

from collections.abc import Mapping
from dataclasses import dataclass

CEILING_IS_LOW = 0.999
OVERFITTED = 0.1  # how far the cosine on training images may lie above the one on new images
WIDE = 0.1  # of an interval
FEW_IMAGES = 10
NOTHING = 0.01  # a difference of cosines that nobody would notice


@dataclass(frozen=True)
class Circumstances:
    """What the numbers alone do not say.

    Attributes:
        training_cosines: Model -> mean cosine on its training images, where it is known.
        activations: Model -> output activation of the decoder.
        ceilings: Model -> ceiling.
        zero_targets: How many targets are zero vectors.
        weights: The `--weights` that the features were made with.
        learned: How many of the images the decoders were trained on.
    """

    training_cosines: Mapping[str, float]
    activations: Mapping[str, str]
    ceilings: Mapping[str, float]
    zero_targets: int = 0
    weights: str = "imagenet"
    learned: int = 0


def conclude(document: Mapping, circumstances: Circumstances) -> list[str]:
    """Say what the numbers mean.

    Args:
        document: The `evaluate` document, with `models`, `baselines`, `differences`, `images` and `candidates`.
        circumstances: What else is known.

    Returns:
        Sentences: first what was reached by the model with the highest cosine, then what it is worth, then what to try.
    """
    name = max(document["models"], key=lambda model: document["models"][model]["cosine"]["mean"])
    return [
        _reached(document, name, circumstances.ceilings[name]),
        *_against_baselines(document, name),
        *_retrieval(document, name),
        *_api_styles(document),
        *_ceiling(name, circumstances),
        *_overfitted(document, name, circumstances),
        *_certainty(document, name, circumstances),
    ]


def _reached(document: Mapping, name: str, ceiling: float) -> str:
    model = document["models"][name]
    said = f"{name} reaches a mean cosine of {model['cosine']['mean']:.3f}{_within(model['cosine']['ci95'])} on "
    said += f"{document['images']} images"
    if model["progress"] is None:
        return f"{said}; the ceiling is {ceiling:.3f}."
    mean = document["baselines"]["mean"]["cosine"]["mean"]
    return (
        f"{said}: {model['progress']:.0%} of the way from always answering the mean target ({mean:.3f}) to the "
        f"ceiling ({ceiling:.3f})."
    )


def _within(interval: list[float] | None, sign: str = "") -> str:
    if interval is None:
        return ""
    return f" (95 % interval {interval[0]:{sign}.3f} to {interval[1]:{sign}.3f})"


def _difference(document: Mapping, of: str, minus: str) -> dict | None:
    return next((each for each in document["differences"] if (each["of"], each["minus"]) == (of, minus)), None)


def _against_baselines(document: Mapping, name: str) -> list[str]:
    mean, ridge, shuffled = (_difference(document, name, baseline) for baseline in ("mean", "ridge", "shuffled"))
    said = []
    if mean and mean["ci95"] and not _is_above(mean):
        verdict = "no better" if mean["ci95"][1] < NOTHING else "not shown to be better"
        said.append(
            f"It is {verdict} than always answering the mean target ({mean['mean']:+.3f}{_within(mean['ci95'], '+')}). "
            "Check that each target belongs to its image; then try trained weights (--weights imagenet), more images, "
            "more --epochs or another --learning-rate."
        )
    if ridge and ridge["ci95"]:
        verdict = (
            "better than" if _is_above(ridge) else "worse than" if _is_below(ridge) else "not shown to be better than"
        )
        said.append(f"It is {verdict} ridge regression ({ridge['mean']:+.3f}{_within(ridge['ci95'], '+')}).")
    if shuffled and shuffled["ci95"] and not _is_above(shuffled):
        said.append(
            "It is not shown to be better than a decoder trained on shuffled targets: perhaps nothing depends on which "
            "target belongs to which image. Check that they belong together."
        )
    return said


def _is_above(difference: dict) -> bool:
    return difference["ci95"] is not None and difference["ci95"][0] > 0


def _is_below(difference: dict) -> bool:
    return difference["ci95"] is not None and difference["ci95"][1] < 0


def _retrieval(document: Mapping, name: str) -> list[str]:
    model, count = document["models"][name], document["candidates"]
    if count < 2:
        return ["All images have the same target, so there is nothing to tell apart."]
    said = [
        f"The right target is the nearest of {count} for {model['retrieval']['top1']:.0%} of the images "
        f"(a blind guess: {1 / count:.2g})."
    ]
    if "retrieval_of_unseen" in model:
        said.append(
            f"For labels that training never saw it is {model['retrieval_of_unseen']['top1']:.0%}"
            + (f", for the others {model['retrieval_of_seen']['top1']:.0%}" if "retrieval_of_seen" in model else "")
            + "."
        )
    return said


def _api_styles(document: Mapping) -> list[str]:
    pair = _difference(document, "functional", "sequential")
    if pair is None:
        return []
    if pair["mean"] == 0 and (pair["ci95"] is None or pair["ci95"] == [0, 0]):
        return ["functional and sequential give every image the same cosine: the API style changes nothing."]
    shown = "differ" if _is_above(pair) or _is_below(pair) else "are not shown to differ"
    return [f"functional and sequential {shown} ({pair['mean']:+.4f}{_within(pair['ci95'], '+')})."]


def _ceiling(name: str, circumstances: Circumstances) -> list[str]:
    ceiling, activation = circumstances.ceilings[name], circumstances.activations[name]
    if ceiling >= CEILING_IS_LOW or activation in ("linear", "tanh"):
        return []
    return [
        f"Its {activation} output has no negative values, the targets do: it can never pass {ceiling:.3f}. Train with "
        "--output-activation linear."
    ]


def _overfitted(document: Mapping, name: str, circumstances: Circumstances) -> list[str]:
    training, reached = circumstances.training_cosines.get(name), document["models"][name]["cosine"]["mean"]
    if training is None or circumstances.learned or training - reached < OVERFITTED:
        return []
    return [
        f"It knows its training images much better ({training:.3f}) than new ones: overfitted. More images help most; "
        "then smaller --hidden layers, or --patience 10, which keeps the best epoch."
    ]


def _certainty(document: Mapping, name: str, circumstances: Circumstances) -> list[str]:
    said, images = [], document["images"]
    cosine = document["models"][name]["cosine"]
    width = cosine["ci95"][1] - cosine["ci95"][0] if cosine["ci95"] else None
    if images < FEW_IMAGES or width is None or width > WIDE:
        said.append(
            f"{images} image{'s are' if images > 1 else ' is'} too few to tell small differences"
            + (f": the interval is {width:.2f} wide" if width else "")
            + ". Hold out more (--split random:0.4) or add images."
        )
    if circumstances.learned:
        said.append(
            f"{circumstances.learned} of the {images} images were trained on: the cosine is no estimate for new ones."
        )
    if circumstances.zero_targets:
        said.append(
            f"{circumstances.zero_targets} targets are zero vectors, which have no direction; their cosine counts as 0."
        )
    if zeros := document["models"][name]["zero_vectors"]:
        said.append(f"{zeros} predictions are zero vectors, which have no direction; their cosine counts as 0.")
    if circumstances.weights.startswith("random"):
        said.append("The features come from untrained weights; --weights imagenet should tell more.")
    return said
