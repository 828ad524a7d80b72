"""Why two identical models differ: the evidence and the verdict of each scenario."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.decoders.network import output_ceiling
from pipeline.studies.shared_optimizer import STEPS, ModelPair, Study

LARGER = 1.5  # from this ratio on, the first update counts as larger


@dataclass(frozen=True)
class Scenario:
    """One scenario of the study.

    Attributes:
        name: One of `pipeline.studies.shared_optimizer.SCENARIOS`.
        runs: For each seed, the seed and the mean cosine of each model.
        max_weight_difference: The largest difference between a weight of one model and the same weight of the other.
        evidence: Numbers that show the cause.
        verdict: What the numbers mean.
    """

    name: str
    runs: Sequence[Mapping[str, float]]
    max_weight_difference: float
    evidence: Mapping[str, Any]
    verdict: str


def study_ceiling(study: Study) -> float:
    """The output ceiling of the study's decoder on its targets."""
    return output_ceiling(study.config.decoder.output_activation, study.scenarios["same-seed"][0].data.y)


def summarize(study: Study) -> list[Scenario]:
    """Summarize the scenarios of a study, in order."""
    evidence: dict[str, dict[str, Any]] = {
        "shared-optimizer": {
            **asdict(study.first_steps),
            "first_update_ratio": study.first_steps.first_update_ratio,
        },
        "separate-optimizers": asdict(study.equivalence),
        "zero-init": {"distinct_hidden_units": study.distinct_units},
        "same-seed": {},
    }
    verdicts = {
        "shared-optimizer": _shared_optimizer,
        "separate-optimizers": _separate_optimizers,
        "zero-init": _zero_init,
        "same-seed": _same_seed,
    }
    return [
        Scenario(
            name=name,
            runs=[{"seed": pair.seed, **pair.cosines} for pair in pairs],
            max_weight_difference=_weight_difference(pairs),
            evidence=evidence[name],
            verdict=verdicts[name](study),
        )
        for name, pairs in study.scenarios.items()
    ]


def _weight_difference(pairs: Sequence[ModelPair]) -> float:
    return max(pair.weight_difference for pair in pairs)


def _range(pairs: Sequence[ModelPair], style: str) -> str:
    low, high = min(pair.cosines[style] for pair in pairs), max(pair.cosines[style] for pair in pairs)
    return f"{low:.4f}" if f"{low:.4f}" == f"{high:.4f}" else f"{low:.4f} to {high:.4f}"


def _shared_optimizer(study: Study) -> str:
    pairs, steps = study.scenarios["shared-optimizer"], study.first_steps
    update, saturated = steps.first_update, steps.saturated_share
    scores = (
        f"The Functional model, trained first, reaches {_range(pairs, 'functional')}; the output ceiling is "
        f"{study_ceiling(study):.4f}. The Sequential model, with the same optimizer, reaches "
        f"{_range(pairs, 'sequential')}. "
    )
    if steps.first_update_ratio < LARGER:
        return (
            f"{scores}The step counter that it inherited, {steps.inherited_steps}, is too low to show the effect: the "
            f"first update is {steps.first_update_ratio:.2f} times as large. Use more --epochs."
        )
    return scores + (
        f"It inherited a step counter of {steps.inherited_steps}, so Adam no longer corrects the bias of its averages "
        f"toward zero, and its first update is {steps.first_update_ratio:.2f} times larger "
        f"({update['inherited']:.4f} per weight instead of {update['fresh']:.4f}; the factor approaches 3.16 as the "
        f"counter grows). That drives sigmoid units to 0 or 1, where they hardly learn: after {STEPS} steps "
        f"{saturated['inherited']:.0%} of them are saturated, against {saturated['fresh']:.0%} with its own counter."
    )


def _separate_optimizers(study: Study) -> str:
    pairs, equivalence = study.scenarios["separate-optimizers"], study.equivalence
    scores = (
        f"With one optimizer each, from different initial weights: Functional {_range(pairs, 'functional')}, "
        f"Sequential {_range(pairs, 'sequential')}, output ceiling {study_ceiling(study):.4f}. "
    )
    if equivalence.ci90 is None:
        return scores + "One seed cannot show whether the API styles are equivalent; use more --seeds."
    low, high = equivalence.ci90
    verdict = "are equivalent" if equivalence.equivalent else "cannot be shown to be equivalent with these seeds"
    return scores + (
        f"The two API styles {verdict}: mean difference {equivalence.difference:+.5f}, 90 % interval {low:+.5f} to "
        f"{high:+.5f}, margin {equivalence.margin} (two one-sided t tests, p = {equivalence.p:.2g})."
    )


def _zero_init(study: Study) -> str:
    pairs = study.scenarios["zero-init"]
    difference = _weight_difference(pairs)
    same = "to the last bit" if difference == 0 else f"to {difference:.2g}"
    units = ", ".join(map(str, study.distinct_units["functional"]))
    return (
        f"With all initial weights zero, both models are equal {same} ({_range(pairs, 'functional')}), but at a price: "
        f"all units of a hidden layer stay identical (distinct units in each layer: {units}), so the network is in "
        "effect one unit wide."
    )


def _same_seed(study: Study) -> str:
    pairs = study.scenarios["same-seed"]
    difference = _weight_difference(pairs)
    if difference == 0:
        return (
            f"With the same seed and one optimizer each, both models end with bit-identical weights "
            f"({_range(pairs, 'functional')}). The API style changes nothing; initial weights and the optimizer's "
            "state matter."
        )
    return f"With the same seed and one optimizer each, the weights differ by up to {difference:.2g}: that is a bug."
