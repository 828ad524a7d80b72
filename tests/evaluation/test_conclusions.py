"""Conclusions about decoders trained for each case: ridge regression on small made-up features.

Each rule has a case in which it must apply, and one in which it must not: the plain case unless another is named.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from pipeline.decoders.network import output_ceiling
from pipeline.evaluation.conclusions import conclude
from pipeline.evaluation.metrics import EvaluationSet, NoiseCeiling, score_predictions
from pipeline.evaluation.noise_ceiling import cosine_ceiling, split_half_reliability
from pipeline.evaluation.results import Clusters, Scoreboard
from pipeline.evaluation.retrieval import Candidates
from pipeline.evaluation.scoreboard import scoreboard
from pipeline.evaluation.standing import Context, headline

RANDOM = np.random.default_rng(0)
FEATURES, DIM = 32, 12
TO_TARGETS = np.random.default_rng(1).normal(size=(FEATURES, DIM))


@dataclass(frozen=True)
class Case:
    """Images with features and targets, a decoder, and settings of the evaluation.

    Attributes:
        x: Features, shape (N, FEATURES).
        y: Targets, shape (N, D).
        labels: The labels of the images.
        train: The images to train on, shape (N,), bool; the others are held out.
        penalty: The penalty of the decoder's ridge regression.
        baseline: The penalty of the ridge baseline.
        conse: Whether to include the ConSE baseline.
        shuffled: Whether to include a decoder trained on shuffled targets.
        cluster: The unit that intervals generalize over.
        activation: The activation of the decoder's output; "relu" clips negative predictions.
        repeats: Repeated targets of the images, for a noise ceiling.
        known: Additional attributes of the context.
    """

    x: np.ndarray
    y: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    penalty: float = 1.0
    baseline: float = 1000.0
    conse: bool = False
    shuffled: bool = False
    cluster: str = "label"
    activation: str = "linear"
    repeats: np.ndarray | None = None
    imagenet: bool = False
    known: Mapping = field(default_factory=dict)


def labelled(labels: int = 20, images: int = 20, noise: float = 1.0, seed: int = 0) -> Case:
    """Labels with one target each, linear in the features; half of each label's images are held out."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(labels, FEATURES))
    label = np.repeat(np.arange(labels), images)
    x = centres[label] + noise * random.normal(size=(len(label), FEATURES))
    names = np.array([f"label {number:03}" for number in label])
    return Case(x, (centres @ TO_TARGETS)[label], names, np.arange(len(label)) % 2 == 0)


def unlabelled(images: int = 200, seed: int = 0, dim: int = DIM) -> Case:
    """Each image has its own target."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(images, FEATURES))
    y = x @ TO_TARGETS[:, :dim] + 5 * random.normal(size=(images, dim))
    names = np.array([f"{number}.png" for number in range(images)])
    return Case(x, y, names, np.arange(images) % 2 == 0, cluster="image", known={"held_out_by": "random"})


def evaluated(case: Case) -> tuple[Scoreboard, Context]:
    """Train the decoder and the baselines, and score them on the held-out images."""
    x, y, rows = case.x[case.train], case.y[case.train], np.flatnonzero(~case.train)
    held_out = case.y[rows].astype(np.float32)
    decoder = Ridge(case.penalty).fit(x, y)

    def predict(model: Ridge, features: np.ndarray) -> np.ndarray:
        predicted = model.predict(features).reshape(len(features), -1)
        return np.maximum(predicted, 0) if case.activation == "relu" else predicted

    new = case.x[rows]
    predictions = {name: predict(decoder, new) for name in ("functional", "sequential")}
    predictions["mean"] = np.tile(y.mean(axis=0), (len(rows), 1))
    predictions["ridge"] = Ridge(case.baseline).fit(x, y).predict(new).reshape(len(rows), -1)
    if case.conse:
        classes, label = np.unique(y, axis=0, return_inverse=True)
        predictions["conse"] = LogisticRegression(max_iter=500).fit(x, label.ravel()).predict_proba(new) @ classes
    if case.shuffled:
        predictions["shuffled"] = Ridge(case.penalty).fit(x, RANDOM.permutation(y)).predict(new)
    seen = np.isin(case.labels[rows], case.labels[case.train])
    labels = case.labels[rows].tolist()
    clusters = labels if case.cluster == "label" else [str(row) for row in rows]
    noise = None
    if case.repeats is not None:
        repeats = list(case.repeats[rows])
        noise = NoiseCeiling(cosine_ceiling(repeats, splits=5), split_half_reliability(repeats, splits=5))
    images = EvaluationSet(
        paths=[f"{row}.png" for row in rows],
        labels=labels,
        targets=held_out,
        candidates=Candidates(zip(case.labels.tolist(), case.y.astype(np.float32), strict=True)),
        centre=y.mean(axis=0),
        deviation=y.std(axis=0),
        clusters=clusters,
        seen=seen if len(set(labels)) < len(labels) else None,
        noise=noise,
        imagenet_weights=case.imagenet,
    )
    ceilings = dict.fromkeys(("functional", "sequential"), output_ceiling(case.activation, held_out))
    scored = score_predictions(predictions, images, ceilings)
    trained_on = None if case.cluster == "image" or len(set(seen)) > 1 else bool(seen.all())
    kind = Clusters(case.cluster, len(set(clusters)), trained_on)
    result = scoreboard(scored, {"functional": "functional", "sequential": "sequential"}, images, kind)
    context = Context(training_cosines={}, activations=dict.fromkeys(result.models, case.activation))
    return result, replace(context, **{"held_out_by": "random", **case.known})


def said(case: Case) -> str:
    return " ".join(conclude(*evaluated(case)))


def verdict(case: Case) -> str:
    return headline(*evaluated(case))


PLAIN = labelled()


def test_the_score_comes_first() -> None:
    result, context = evaluated(PLAIN)
    first, *others = conclude(result, context)
    cosine = result.models["functional"].scores.cosine
    (low, high), (lower, upper) = cosine.ci95, cosine.ci95_same_labels
    assert first.startswith(f"functional reaches a mean cosine of {cosine.mean:.3f} (95 % interval ")
    assert f" {low:.3f} to {high:.3f} for other labels that are also trained on; " in first
    assert f" {lower:.3f} to {upper:.3f} for new images of these labels)" in first
    assert "on 200 images" in first
    assert "% of the way from the mean baseline" in first
    text = " ".join(others)
    for absent in (
        "at chance",
        "hub",
        "vary in",
        "untrained",
        "can never exceed",
        "Zero vectors",
        "never saw it is",
        "noisy",
        "too few",
        "were trained on",
        "near-duplicates",
        "shuffled",
        "ImageNet",
        "no better",
        "one dimension",
        "squared length",
    ):
        assert absent not in text
    assert text.count("The intervals hold for this decoder") == 1


def test_the_population_of_an_interval_depends_on_the_training_images() -> None:
    assert "for other labels that are also trained on" in said(PLAIN)
    unseen = np.arange(len(PLAIN.labels)) < 200  # ten labels are held out
    zero_shot = said(replace(labelled(40, 10), train=unseen, known={"held_out_by": "classes"}))
    assert "for new labels" in zero_shot
    assert "also trained on" not in zero_shot
    assert "the split 'classes'" in said(PLAIN)
    assert "the split 'classes'" not in zero_shot
    assert "the split 'classes'" not in said(unlabelled())
    text = said(replace(PLAIN, train=PLAIN.train & (np.arange(400) >= 100)))
    assert "for other labels; 0" in text
    assert "new labels" not in text
    assert "for new images) on" in said(unlabelled())


@pytest.mark.parametrize(
    ("conse", "best", "relation"), [(False, "ridge", "better than"), (True, "conse", "worse than")]
)
def test_better_means_better_than_the_best_baseline(conse: bool, best: str, relation: str) -> None:
    """ConSE is the best baseline if labels repeat; the decoder is worse than ConSE but better than ridge."""
    result, context = evaluated(replace(PLAIN, conse=conse, penalty=1e-3, baseline=3000.0))
    assert result.difference("functional", "ridge").is_positive()
    assert result.best_baseline == best
    assert f"{relation} the {best} baseline of {result.baselines[best].cosine.mean:.3f}" in headline(result, context)
    assert f"It is {relation} the {best} baseline, the best of the baselines" in " ".join(conclude(result, context))


def test_as_good_as_a_baseline_is_not_better() -> None:
    case = replace(PLAIN, penalty=1.0, baseline=1.0)
    assert "not above the ridge baseline" in verdict(case) or "not shown to be better than the ridge" in verdict(case)
    assert "better than the ridge baseline" in verdict(replace(case, baseline=3000.0))


def test_shuffled_targets_are_reported_at_chance_only() -> None:
    for case in (unlabelled(), labelled()):
        order = np.random.default_rng(3).permutation(len(case.y))
        shuffled = replace(case, y=case.y[order], labels=case.labels[order], penalty=1.0, cluster="image")
        result, context = evaluated(shuffled)
        assert result.above_mean is False
        assert "at chance" in headline(result, context)
        sentences = conclude(result, context)
        assert len(sentences) == 1
        assert ": at chance. functional is no" in sentences[0]
        assert "check that each target belongs to its image" in sentences[0]
    assert evaluated(PLAIN)[0].above_mean is True
    assert "at chance" not in said(unlabelled())


def test_a_constant_prediction_is_reported_as_ignoring_the_image() -> None:
    case = replace(PLAIN, y=PLAIN.y + 3, penalty=1e9)
    assert verdict(case).endswith("the decoder ignores the image")
    [sentence] = conclude(*evaluated(case))
    assert "functional ignores the image: its prediction is the same for every image" in sentence
    assert "ignores the image" not in said(PLAIN)
    assert evaluated(case)[0].above_mean is False


def test_equal_targets_allow_no_conclusion() -> None:
    one = replace(PLAIN, y=np.ones_like(PLAIN.y), labels=np.full(400, "one"))
    assert verdict(one) == "All targets are the same: there is nothing to tell apart"
    [sentence] = conclude(*evaluated(one))
    assert "all with the same target" in sentence
    zero = replace(PLAIN, y=np.zeros_like(PLAIN.y))
    assert verdict(zero) == "All targets are zero vectors: there is nothing to predict"
    assert len(conclude(*evaluated(zero))) == 1


@pytest.mark.parametrize("images", [1, 2, 4, 9])
def test_a_few_images_allow_no_conclusion(images: int) -> None:
    case = unlabelled(100 + images)
    few = replace(case, train=np.arange(100 + images) < 100)
    assert "too few to show anything" in verdict(few)
    [sentence] = conclude(*evaluated(few))
    assert "too few to judge the score, or to tell it from chance" in sentence
    assert "better" not in sentence


def test_without_an_interval_nothing_is_shown() -> None:
    case = unlabelled(120)
    few = replace(case, train=np.arange(120) < 100)
    assert "20 images are too few for an interval, which needs 29." in said(few)
    assert verdict(few).endswith(", without an interval")
    assert "better" not in verdict(few)
    labels = replace(labelled(6, 40), known={"held_out_by": "random"})
    assert "An interval for other labels that are also trained on needs 10 labels; there are 6." in said(labels)
    assert "needs 10 labels" not in said(PLAIN)


def test_skewed_scores_have_no_interval() -> None:
    case = unlabelled(400)
    failing = np.arange(400) % 100 == 1  # some held-out images come from another distribution
    clear = replace(case, y=case.x @ TO_TARGETS + 2 * np.random.default_rng(1).normal(size=case.y.shape))
    outliers = replace(clear, x=np.where(failing[:, None], -3 * case.x, case.x))
    assert "a few images score so differently from the others" in said(outliers)
    assert "score so differently" not in said(case)


@pytest.mark.parametrize(
    ("labels", "limit"), [(6, " for new images of these labels, which need not hold for other labels."), (20, ".")]
)
def test_predictions_below_the_mean_may_depend_on_the_image(labels: int, limit: str) -> None:
    """With few labels, only the interval for new images of these labels shows it."""
    case = labelled(labels=labels, noise=3.0)
    overfitted = replace(case, y=case.y + 6, train=np.arange(len(case.y)) % 20 < 2, penalty=1e-3)
    text = said(overfitted)
    assert "It is no better than the mean baseline" in text
    assert f"though its predictions do depend on the image: the mean r of the dimensions is above 0{limit} " in text


def test_predictions_that_are_off_in_the_direction_of_all_targets_do_not_depend_on_the_image() -> None:
    """Their centred cosine is above 0, and so would be that of a constant prediction."""
    random, train = np.random.default_rng(0), np.arange(400) % 10 < 1
    case = replace(unlabelled(400), train=train, penalty=1e-3)
    x, y = case.x + 1.0 * ~train[:, None], 6 + random.normal(size=case.y.shape).astype(np.float32)
    y[train] += case.x[train].mean(axis=1, keepdims=True)
    y[~train] += 1
    result, context = evaluated(replace(case, x=x, y=y))
    assert result.above_mean is False
    assert result.models["functional"].scores.centred_cosine.ci95[0] > 0
    assert "at chance" in headline(result, context)


def test_one_dimension_has_r_and_r2() -> None:
    case = unlabelled(400, dim=1)
    result, context = evaluated(replace(case, penalty=10.0))
    patterns = result.models["functional"].scores.patterns
    assert result.lead == "r2"
    assert headline(result, context).startswith(
        f"Pearson's r {patterns.pearson.median:.2f}, R² {patterns.r2.median:.2f}"
    )
    assert ": better than the ridge baseline of R²" in headline(result, context)
    assert result.above_mean is True
    text = " ".join(conclude(result, context))
    assert "The targets have one dimension, where a cosine only compares signs" in text
    for absent in ("mean cosine", "check that", "hub", "nearest", "chance"):
        assert absent not in text
    overfitted = replace(case, train=np.arange(400) < 45, penalty=1e-3)  # r is above 0, R² below
    assert "though its predictions do depend on the image: r is above 0" in said(overfitted)
    noise = replace(case, y=np.random.default_rng(5).normal(size=case.y.shape))
    assert "at chance" in verdict(noise)


def test_one_dimension_of_large_scale_dominates_the_cosine() -> None:
    case = unlabelled()
    scaled = replace(case, y=case.y * np.where(np.arange(DIM) == 3, 100, 1))
    text = said(scaled)
    assert "1 of 12 dimensions holds 90 % of the targets' squared length" in text
    assert verdict(scaled).startswith("Median over dimensions: Pearson's r")
    assert "squared length" not in said(case)


def test_a_noise_ceiling_states_its_interval_and_assumptions() -> None:
    case = unlabelled()
    repeats = case.y[:, None] + 3 * np.random.default_rng(2).normal(size=(200, 3, DIM))
    text = said(replace(case, y=repeats.mean(axis=1), repeats=repeats))
    assert "the noise ceiling, the score of noise-free targets, is 0." in text
    assert "if noise is independent from repeat to repeat and alike for all images" in text
    noise = np.random.default_rng(2).normal(size=(200, 3, DIM))
    assert "noise ceiling" not in said(replace(case, repeats=noise))


def test_targets_in_one_direction_need_more_than_a_cosine() -> None:
    """The centred cosine is above 0, but the cosine is below the mean target's."""
    case = unlabelled(600, dim=3)
    y = 0.2 * case.y + np.array([8.0, 8.0, 8.0])
    worse = replace(case, y=y, penalty=1e-6, x=np.concatenate([case.x, 0 * case.x], axis=1))
    result, context = evaluated(worse)
    text = " ".join(conclude(result, context))
    assert ("the centred cosine is above 0" in text) is not result.above_mean


def test_a_hub_is_named() -> None:
    """Predictions are pulled towards the mean target, and so towards the candidate near it."""
    case = labelled(30, 10, noise=3.0)
    y = case.y + 1.0
    near_mean = case.labels == "label 000"
    hub = replace(case, y=np.where(near_mean[:, None], y[~near_mean].mean(axis=0), y), penalty=3000.0)
    result, context = evaluated(hub)
    assert result.models["functional"].scores.hub.candidate == "label 000"
    assert "'label 000' is the nearest target of" in " ".join(conclude(result, context))
    assert "hub" not in said(PLAIN)


def test_fewer_effective_dimensions_are_reported() -> None:
    case = unlabelled(300)
    low = replace(case, x=case.x[:, :2])
    result, context = evaluated(low)
    assert "effective dimensions, the targets in" in " ".join(conclude(result, context))
    assert "effective dimensions" not in said(case)


def test_a_low_ceiling_is_reported() -> None:
    text = said(replace(PLAIN, activation="relu"))
    assert "Its relu output has no negative values, but the targets do: it can never exceed" in text
    assert "linear output activation" in text


def test_unseen_labels_are_scored_separately() -> None:
    case = labelled(30, 10)
    unseen = replace(case, train=(np.arange(300) % 2 == 0) & (np.arange(300) < 150))
    assert "For labels that training never saw it is" in said(unseen)
    assert "for the others" in said(unseen)
    assert "never saw it is" not in said(case)
    names = np.where(case.labels == "label 029", "goldfish", case.labels)
    assert "classes of ImageNet" in said(replace(unseen, labels=names, imagenet=True))
    assert "classes of ImageNet" not in said(replace(unseen, labels=names))


def test_shuffled_targets_as_a_baseline() -> None:
    assert "shuffled" not in said(replace(PLAIN, shuffled=True))
    # Labels that hardly differ: even when shuffled, the mean explains most of the targets.
    same = replace(PLAIN, y=np.ones_like(PLAIN.y) + 1e-3 * PLAIN.y, shuffled=True)
    result, _ = evaluated(same)
    assert result.difference("functional", "shuffled") is not None


@pytest.mark.parametrize(
    ("known", "spoken", "silent"),
    [
        ({"trained_on": 7}, "trained on 7 of 200 images", "narrows that gap"),
        ({"near_trained_on": 3}, "3 of 200 images are detected near-duplicates of training images", "were trained on"),
        ({"weights": "random:0"}, "untrained weights", "should do better"),
    ],
)
def test_problems_of_the_score_are_reported(known: dict, spoken: str, silent: str) -> None:
    text = said(replace(PLAIN, known=known))
    assert spoken in text
    assert silent not in text
    assert spoken not in said(PLAIN)


def test_scores_on_training_images_give_no_verdict() -> None:
    assert "7 of 200 images were trained on" in verdict(replace(PLAIN, known={"trained_on": 7}))


def training_cosine(case: Case) -> float:
    """The decoder's mean cosine on its training images."""
    x, y = case.x[case.train], case.y[case.train]
    predicted = Ridge(case.penalty).fit(x, y).predict(x)
    return float(((predicted * y).sum(1) / np.linalg.norm(predicted, axis=1) / np.linalg.norm(y, axis=1)).mean())


def test_advice_matches_the_split() -> None:
    wide = replace(labelled(12, 8, noise=1.2), penalty=1e-3)
    known = {"training_cosines": {"functional": training_cosine(wide)}}
    for held_out_by, more in (("random", "images"), ("classes", "labels"), ("group", "groups"), (None, "images")):
        text = said(replace(wide, known={**known, "held_out_by": held_out_by}))
        assert f"Training on more {more} usually narrows that gap. A smaller hidden layer" in text
        for absent in ("random:0.4", "--", "Hold out more", "overfits"):
            assert absent not in text
        assert "Cross-validation" not in text  # labels narrow the interval for labels
    assert "hidden layer" not in said(replace(wide, known={**known, "tuned": True}))
    alone = replace(unlabelled(80), y=unlabelled(80).y + 20 * np.random.default_rng(1).normal(size=(80, DIM)) * 0.5)
    strong = replace(alone, penalty=30.0)
    for held_out_by in ("random", "folds", "column", None):
        text = said(replace(strong, known={"held_out_by": held_out_by}))
        if "wide." in text:
            assert ("Cross-validation" in text) is (held_out_by == "random")


def test_too_little_training_is_reported_only_for_single_networks() -> None:
    weak = replace(PLAIN, penalty=3000.0, baseline=1.0)
    known = {"training_cosines": {"functional": training_cosine(weak)}}
    assert "may not have learned enough" in said(replace(weak, known=known))
    assert "may not have learned enough" not in said(replace(weak, known={**known, "tuned": True}))
    good = {"training_cosines": {"functional": training_cosine(PLAIN)}}
    assert "may not have learned enough" not in said(replace(PLAIN, known=good))


def test_api_styles_are_compared() -> None:
    assert "give every image the same cosine: the API style changes nothing" in said(PLAIN)
    result, context = evaluated(PLAIN)
    same = replace(result, equal=dict.fromkeys(result.equal, "functional"))
    assert "functional and sequential have bit-identical weights" in " ".join(conclude(same, context))


def test_zero_vectors_are_counted() -> None:
    y = PLAIN.y.copy()
    y[PLAIN.labels == "label 003"] = 0
    assert "the cosine of 10 targets counts as 0" in said(replace(PLAIN, y=y))


def test_intervals_over_folds_are_for_another_training() -> None:
    assert Clusters("label", 20, True, over_folds=True).question == "another training and new images of these labels"
    assert Clusters("label", 20, False, over_folds=True).question == "another training and new labels"
    for kind in ("image", "label"):  # a label with one image is new to its fold; the others are not
        assert Clusters(kind, 20, None, over_folds=True).question == "another training and new images"
    result, context = evaluated(PLAIN)
    assert "how another training would differ" in " ".join(conclude(result, context))
    result = replace(result, clusters=replace(result.clusters, over_folds=True))
    text = " ".join(conclude(result, context))
    assert "for another training and new images of these labels" in text
    assert "how another training would differ" not in text
