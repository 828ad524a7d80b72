"""Why two identical models differ: the question of the two Keras models, and its answers, run again.

The question (a Functional and a Sequential model of the same layers score 0.65 and 0.20) trained both with one Adam.
Keras 2 let it keep one step counter for both, so that the second model began without Adam's bias correction. Keras 3
refuses that; here the second model gets an Adam of its own whose counter stands where the first one's ended, which is
what the old one carried over (a test holds it against Keras 2's own).
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

import numpy as np

from pipeline.backend import import_keras
from pipeline.decoders import PRESETS, Recipe, build_decoder, ceiling
from pipeline.errors import RequestError
from pipeline.evaluation import cosines
from pipeline.feed import aligned_empty
from pipeline.training import Data, Fitted, Watch, fit, predict

FEATURES = 4096
MARGIN = 0.01  # of cosine: API styles that differ by less are equivalent
LEVEL = 0.05
SATURATED = 0.01  # a sigmoid unit this near to 0 or 1 hardly learns
STEPS = 2


def question(seed: int) -> Data:
    """The question's data: one random sample of 4096 numbers in [0, 1), and its 200-d target.

    Args:
        seed: Draws the sample.

    Returns:
        The sample, which is trained on and judged by, as the question does.
    """
    x = aligned_empty(1, FEATURES)
    np.random.default_rng(seed).random(out=x, dtype=np.float32)
    y = np.loadtxt(files("pipeline").joinpath("target_200d.csv"), dtype=np.float32)[None]
    return Data(x, y, x, y)


@dataclass
class Pair:
    """A Functional and a Sequential model after their training, in one scenario, for one seed.

    Attributes:
        seed: The seed.
        models: API style -> `keras.Model`.
        fitted: API style -> how the training went.
        data: What they were trained on.
    """

    seed: int
    models: dict[str, object]
    fitted: dict[str, Fitted]
    data: Data

    @functools.cached_property
    def cosines(self) -> dict[str, float]:
        """API style -> mean cosine on what they learned from; with "_held_out", on what they did not."""
        found = {style: _mean_cosine(model, self.data.x, self.data.y) for style, model in self.models.items()}
        if self.data.x_validation is not self.data.x:  # the question judges by what it trains on
            for style, model in self.models.items():
                found[f"{style}_held_out"] = _mean_cosine(model, self.data.x_validation, self.data.y_validation)
        return found

    @functools.cached_property
    def weight_difference(self) -> float:
        """The largest difference between a weight of one and the same weight of the other."""
        pairs = zip(*(model.get_weights() for model in self.models.values()), strict=True)
        return max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)

    def forget_models(self) -> None:
        """Measure what is asked of the models later, and let go of them."""
        self.cosines, self.weight_difference  # noqa: B018
        self.models = {}


def _mean_cosine(model, x: np.ndarray, y: np.ndarray) -> float:
    return float(cosines(predict(model, x), y).mean())


@dataclass
class Study:
    """What was trained, and the evidence that was taken beside it.

    Attributes:
        recipe: The decoder and its training.
        scenarios: Name -> a pair for each seed.
        evidence: Name -> numbers that show the cause.
        seconds: How long it took.
    """

    recipe: Recipe
    scenarios: dict[str, list[Pair]] = field(
        default_factory=lambda: {"shared-optimizer": [], "separate-optimizers": [], "zero-init": [], "same-seed": []}
    )
    evidence: dict[str, dict] = field(default_factory=dict)
    seconds: float = 0.0


def compare(
    data: Callable[[int], Data],
    recipe: Recipe = PRESETS["seed"],
    seeds: Sequence[int] = (0, 1, 2),
    progress: bool = False,
) -> Study:
    """Train a Functional and a Sequential model in each of the four scenarios, for each seed.

    Args:
        data: Seed -> what to train on; `question`, or data of one's own.
        recipe: A decoder of sigmoid layers and its training, with an optimizer by name and a constant learning rate.
        seeds: At least one. Seed s starts one model from weights 2s and, where they shall differ, the other from
            2s + 1.
        progress: Whether to show progress bars on stderr.

    Returns:
        The study.

    Raises:
        RequestError: The recipe is another.
    """
    start = time.monotonic()
    study = Study(recipe)
    _inheriting(recipe, 0)  # refuses a recipe that cannot be studied
    for seed in seeds:
        _run(study, seed, data(seed).loaded(), Watch(progress))
        for pairs in study.scenarios.values():
            if len(pairs) > 1:  # the first seed's models are looked into below
                pairs[-1].forget_models()
    first = next(iter(study.scenarios["shared-optimizer"]))
    study.evidence = {
        "shared-optimizer": _first_steps(first, recipe),
        "separate-optimizers": equivalence(_differences(study.scenarios["separate-optimizers"])),
        "zero-init": {"distinct_hidden_units": _distinct_units(study.scenarios["zero-init"][0])},
        "same-seed": {},
    }
    study.seconds = time.monotonic() - start
    return study


def _run(study: Study, seed: int, data: Data, watch: Watch) -> None:
    """Train the models of one seed; the first Functional one stands in three scenarios, for it is the same in all."""
    recipe, zeros = study.recipe, dataclasses.replace(study.recipe.decoder, initializer="zeros", start_at_mean=False)

    def decoder(style: str, weights: int, spec=recipe.decoder):
        return build_decoder(spec, style, data.x, data.y, weights)

    models = {
        "functional": decoder("functional", 2 * seed),
        "sequential": decoder("sequential", 2 * seed + 1),
        "sequential, same seed": decoder("sequential", 2 * seed),
        "functional, zeros": decoder("functional", 0, zeros),
        "sequential, zeros": decoder("sequential", 0, zeros),
    }
    fitted = fit(models, data, recipe, seed, watch)
    second = {"sequential": decoder("sequential", 2 * seed + 1)}
    inherited = dataclasses.replace(
        recipe, optimizer=_inheriting(recipe, int(models["functional"].optimizer.iterations))
    )
    fitted_second = fit(second, data, inherited, seed, watch)

    def pair(functional: str, sequential: str) -> Pair:
        names = {"functional": functional, "sequential": sequential}
        return Pair(seed, {style: models[name] for style, name in names.items()},
                    {style: fitted[name] for style, name in names.items()}, data)  # fmt: skip

    shared = pair("functional", "sequential")
    shared.models |= second
    shared.fitted |= fitted_second
    study.scenarios["shared-optimizer"].append(shared)
    study.scenarios["separate-optimizers"].append(pair("functional", "sequential"))
    study.scenarios["zero-init"].append(pair("functional, zeros", "sequential, zeros"))
    study.scenarios["same-seed"].append(pair("functional", "sequential, same seed"))


def _inheriting(recipe: Recipe, steps: int):
    """A new optimizer whose step counter stands where another's ended."""
    keras = import_keras()
    plain = isinstance(recipe.optimizer, str) and recipe.schedule == "constant"
    if not plain or recipe.decoder.activation != "sigmoid":
        raise RequestError("The study needs sigmoid layers, an optimizer by name and a constant learning rate.")
    config = {"learning_rate": recipe.learning_rate}
    optimizer = keras.optimizers.get({"class_name": recipe.optimizer, "config": config})
    optimizer.iterations.assign(steps)
    return optimizer


def _first_steps(shared: Pair, recipe: Recipe) -> dict:
    """What the first steps of the second model do, with a fresh step counter and with the inherited one.

    Returns:
        inherited_steps; first_update (the mean change of a weight in the first step) and first_update_ratio; and
        saturated_share, the share of sigmoid units at 0 or 1 after STEPS steps.
    """
    steps = int(shared.models["functional"].optimizer.iterations)
    x, y = shared.data.x[: recipe.batch_size], shared.data.y[: recipe.batch_size]
    updates, saturated = {}, {}
    for name, counted in (("fresh", 0), ("inherited", steps)):
        model = build_decoder(recipe.decoder, "sequential", shared.data.x, shared.data.y, 2 * shared.seed + 1)
        model.compile(optimizer=_inheriting(recipe, counted), loss=recipe.loss, run_eagerly=True)
        before = model.get_weights()
        model.train_on_batch(x, y)
        moved = [np.abs(after - old).ravel() for after, old in zip(model.get_weights(), before, strict=True)]
        updates[name] = float(np.concatenate(moved).mean())
        for _ in range(STEPS - 1):
            model.train_on_batch(x, y)
        saturated[name] = _saturated(model, x)
    return {
        "inherited_steps": steps,
        "first_update": updates,
        "first_update_ratio": updates["inherited"] / updates["fresh"],
        "saturated_share": saturated,
    }


def _saturated(model, x: np.ndarray) -> float:
    """The share of the sigmoid units of all layers that stand at 0 or 1."""
    keras, values, units = import_keras(), x, []
    for layer in model.layers:
        values = layer(values)
        if isinstance(layer, keras.layers.Dense) and layer.activation is keras.activations.sigmoid:
            units.append(keras.ops.convert_to_numpy(values))
    units = np.concatenate(units, axis=1)
    return float(((units < SATURATED) | (units > 1 - SATURATED)).mean())


def _distinct_units(pair: Pair) -> dict[str, list[int]]:
    """API style -> how many units of each hidden layer differ from all others in it."""
    keras = import_keras()

    def count(layer) -> int:
        kernel, bias = layer.get_weights()
        return len(np.unique(np.vstack([kernel, bias]), axis=1).T)

    return {
        style: [count(layer) for layer in model.layers if isinstance(layer, keras.layers.Dense)][:-1]
        for style, model in pair.models.items()
    }


def _differences(pairs: list[Pair]) -> np.ndarray:
    found = [pair.cosines for pair in pairs]
    return np.array([each["functional"] - each["sequential"] for each in found])


def equivalence(differences: np.ndarray, margin: float = MARGIN) -> dict:
    """Two one-sided t tests (Schuirmann 1987): do paired differences lie within a margin of zero?

    Args:
        differences: Shape (N,).
        margin: What still counts as no difference.

    Returns:
        difference (the mean), ci90 (its 90 % interval, which lies within the margin just where both tests reject at
        5 %), p (the larger of the two), equivalent; the last three None for fewer than two differences.
    """
    from scipy.stats import ttest_1samp

    mean = float(differences.mean())
    found = {"difference": mean, "margin": margin, "ci90": None, "p": None, "equivalent": None}
    if len(differences) < 2:
        return found
    if np.ptp(differences) == 0:  # no spread, no t
        return found | {"ci90": [mean, mean], "p": float(abs(mean) >= margin), "equivalent": abs(mean) < margin}
    above = ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = ttest_1samp(differences, margin, alternative="less").pvalue
    interval = ttest_1samp(differences, 0).confidence_interval(1 - 2 * LEVEL)
    p = float(max(above, below))
    return found | {"ci90": [float(interval.low), float(interval.high)], "p": p, "equivalent": p < LEVEL}


def document(study: Study) -> dict:
    """The `compare` document of the contract, with the evidence and a verdict in words for each scenario."""
    runs = {name: [{"seed": pair.seed, **pair.cosines} for pair in pairs] for name, pairs in study.scenarios.items()}
    differences = {name: max(pair.weight_difference for pair in pairs) for name, pairs in study.scenarios.items()}
    data = study.scenarios["same-seed"][0].data
    top = ceiling(study.recipe.decoder.output_activation, data.y)
    return {
        "scenarios": [
            {
                "name": name,
                "runs": runs[name],
                "max_weight_difference": differences[name],
                "evidence": study.evidence[name],
                "verdict": VERDICTS[name](runs[name], differences[name], study.evidence[name], top),
            }
            for name in study.scenarios
        ],
        "ceiling": top,
        "equivalent": study.evidence["separate-optimizers"]["equivalent"],
        "seconds": round(study.seconds, 3),
    }


def _range(runs: list[dict], style: str) -> str:
    low, high = min(run[style] for run in runs), max(run[style] for run in runs)
    return f"{low:.4f}" if f"{low:.4f}" == f"{high:.4f}" else f"{low:.4f} to {high:.4f}"


def _shared_verdict(runs: list[dict], difference: float, evidence: dict, top: float) -> str:
    update, saturated = evidence["first_update"], evidence["saturated_share"]
    return (
        f"The Functional model, trained first, reaches {_range(runs, 'functional')} of a ceiling of {top:.4f}; the "
        f"Sequential one {_range(runs, 'sequential')}. It has inherited a step counter of "
        f"{evidence['inherited_steps']}: Adam takes its averages for settled, does not correct them for having just "
        f"begun at zero, and its first update is {evidence['first_update_ratio']:.2f} times as large "
        f"({update['inherited']:.4f} a weight instead of {update['fresh']:.4f}; it nears 3.16 as the counter grows). "
        f"That drives sigmoid units to 0 or 1, where they hardly learn: after {STEPS} steps "
        f"{saturated['inherited']:.0%} of them stand there, against {saturated['fresh']:.0%} with a counter of its own."
    )


def _separate_verdict(runs: list[dict], difference: float, evidence: dict, top: float) -> str:
    said = (
        f"With an optimizer each, from different initial weights: Functional {_range(runs, 'functional')}, Sequential "
        f"{_range(runs, 'sequential')}, of a ceiling of {top:.4f}. "
    )
    if evidence["ci90"] is None:
        return said + "One seed cannot tell whether the API styles are equivalent; ask for more with --seeds."
    low, high = evidence["ci90"]
    judged = "are equivalent" if evidence["equivalent"] else "cannot be shown to be equivalent from these seeds"
    return said + (
        f"The two API styles {judged}: mean difference {evidence['difference']:+.5f}, 90 % interval {low:+.5f} to "
        f"{high:+.5f}, margin {evidence['margin']} (two one-sided t tests, p = {evidence['p']:.2g})."
    )


def _zero_verdict(runs: list[dict], difference: float, evidence: dict, top: float) -> str:
    units = evidence["distinct_hidden_units"]["functional"]
    same = "to the last bit" if difference == 0 else f"to {difference:.2g}"
    return (
        f"All weights zero at the start makes both models equal {same} ({_range(runs, 'functional')}), but at a price: "
        f"all units of a hidden layer stay each other's copies (distinct ones in each layer: "
        f"{', '.join(map(str, units))}), so the network is as good as one unit wide."
    )


def _same_verdict(runs: list[dict], difference: float, evidence: dict, top: float) -> str:
    if difference == 0:
        return (
            f"The same seed and an optimizer each: both models end with the same bits ({_range(runs, 'functional')}). "
            "The API style changes nothing; initial weights and the optimizer's state do."
        )
    return f"The same seed and an optimizer each, yet the weights differ by up to {difference:.2g}: that is a fault."


VERDICTS = {
    "shared-optimizer": _shared_verdict,
    "separate-optimizers": _separate_verdict,
    "zero-init": _zero_verdict,
    "same-seed": _same_verdict,
}
