"""What is concluded from numbers: each case is the same plain result with one thing changed."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from pipeline.evaluation.conclusions import Context, conclude, headline
from pipeline.evaluation.dimensions import Distribution
from pipeline.evaluation.hubs import Hub
from pipeline.evaluation.results import (
    Bounds,
    Clusters,
    CosineSummary,
    Difference,
    EvaluationResult,
    ModelScores,
    PatternScores,
    Scores,
)
from pipeline.evaluation.retrieval import RetrievalSummary

Change = Callable[[EvaluationResult], EvaluationResult]
NONE = Distribution(None, None, None, edges=[], counts=[], undefined=0)


def summary(mean: float, width: float = 0.04) -> CosineSummary:
    bounds = (mean - width / 2, mean + width / 2)
    return CosineSummary(mean=mean, median=mean, p05=mean, p95=mean, ci95=bounds, ci95_same_labels=bounds)


def retrieval(top1: float) -> RetrievalSummary:
    return RetrievalSummary(top1=top1, top5=0.5, mrr=0.4, median_rank=3.0, hits={"1": top1})


def scores(cosine: float, progress: float = 0.5) -> Scores:
    return Scores(
        cosine=summary(cosine),
        centred_cosine=summary(cosine / 2),
        progress=progress,
        progress_to_noise_ceiling=None,
        mse=1.0,
        retrieval=retrieval(0.25),
        retrieval_csls=None,
        retrieval_of_seen=None,
        retrieval_of_unseen=None,
        retrieval_of_imagenet=None,
        zero_shot=None,
        hub=Hub("cat", 0.1, 0.1),
        patterns=PatternScores(NONE, NONE, NONE, identification=0.9, effective_rank=8.0),
        zero_vectors=0,
    )


def difference(minus: str, low: float, high: float) -> Difference:
    return Difference("functional", minus, mean=(low + high) / 2, ci95=(low, high), ci95_same_labels=(low, high))


RESULT = EvaluationResult(
    models={"functional": ModelScores(scores(0.8), ceiling=1.0, labels=[], worst=[], best=[])},
    baselines={"mean": scores(0.55, 0.0), "ridge": scores(0.78)},
    differences=[difference("mean", 0.2, 0.3), difference("ridge", 0.01, 0.03)],
    ceiling=1.0,
    noise_ceiling=None,
    images=200,
    clusters=Clusters("label", 20),
    candidates=20,
    target_rank=10.0,
    zero_targets=0,
)
CONTEXT = Context(training_cosines={}, activations={"functional": "linear"})


def difference_is(minus: str, low: float, high: float) -> Change:
    def change(result: EvaluationResult) -> EvaluationResult:
        others = [each for each in result.differences if each.minus != minus]
        return replace(result, differences=[*others, difference(minus, low, high)])

    return change


def model_is(**fields: object) -> Change:
    return lambda result: replace(result, models={"functional": replace(result.models["functional"], **fields)})


def scores_are(**fields: object) -> Change:
    return lambda result: model_is(scores=replace(result.models["functional"].scores, **fields))(result)


def result_is(**fields: object) -> Change:
    return lambda result: replace(result, **fields)


def test_what_was_reached_comes_first() -> None:
    said = conclude(RESULT, CONTEXT)
    assert said[0].startswith("functional reaches a mean cosine of 0.800 (95 % interval for new labels 0.780 to 0.820")
    assert "on 200 images: 50% of the way from always answering the mean target (0.550)" in said[0]
    text = " ".join(said)
    assert "better than ridge regression (+0.020" in text
    assert "nearest of 20 for 25%" in text
    for absent in ("overfits", "cannot show", "can never", "Zero vectors", "untrained", "no better", "collapse", "hub"):
        assert absent not in text


@pytest.mark.parametrize(
    ("change", "context", "expected"),
    [
        (difference_is("mean", -0.01, 0.005), {}, "It is no better than always answering the mean target"),
        (difference_is("mean", -0.01, 0.4), {}, "It is not shown to be better than always answering the mean target"),
        (difference_is("ridge", -0.01, 0.02), {}, "not shown to be better than ridge"),
        (difference_is("ridge", -0.05, -0.02), {}, "worse than ridge"),
        (difference_is("shuffled", -0.01, 0.01), {}, "better than a decoder trained on shuffled"),
        (difference_is("sequential", -0.01, 0.01), {}, "functional and sequential are not shown to differ"),
        (difference_is("sequential", 0.01, 0.02), {}, "functional and sequential differ"),
        (difference_is("sequential", 0.0, 0.0), {}, "the API style changes nothing"),
        (
            model_is(ceiling=0.65),
            {"activations": {"functional": "sigmoid"}},
            "Its sigmoid output has no negative values, but the targets do: it can never exceed 0.650",
        ),
        (result_is(), {"training_cosines": {"functional": 0.95}}, "it overfits"),
        (scores_are(cosine=summary(0.8, 0.2)), {}, "cannot show small differences: the interval is 0.20 wide"),
        (result_is(images=4), {}, "4 images of 20 labels cannot show small differences"),
        (result_is(clusters=Clusters("label", 5)), {}, "The interval for new labels rests on 5 labels only"),
        (scores_are(zero_vectors=3), {}, "the cosine of 3 predictions"),
        (result_is(zero_targets=2), {}, "the cosine of 2 targets"),
        (result_is(), {"trained_on": 7}, "trained on 7 of 200 images"),
        (result_is(), {"weights": "random:0"}, "untrained weights"),
        (scores_are(retrieval_of_unseen=retrieval(0.1)), {}, "labels that training never saw it is 10%"),
        (scores_are(retrieval_of_imagenet=retrieval(0.3)), {}, "classes of ImageNet"),
        (scores_are(hub=Hub("cat", 0.4, 0.05)), {}, "'cat' is the nearest target of 40% of the predictions"),
        (result_is(target_rank=30.0), {}, "The predictions collapse"),
        (result_is(candidates=1), {}, "All images have the same target"),
    ],
)
def test_each_shortcoming_is_said(change: Change, context: dict, expected: str) -> None:
    assert expected in " ".join(conclude(change(RESULT), replace(CONTEXT, **context)))


def test_without_an_interval_nothing_is_said_of_differences() -> None:
    def without(bounds: CosineSummary) -> CosineSummary:
        return replace(bounds, ci95=None, ci95_same_labels=None)

    one = replace(RESULT, images=1, clusters=Clusters("label", 1))
    one = replace(one, differences=[replace(each, ci95=None, ci95_same_labels=None) for each in one.differences])
    one = scores_are(cosine=without(summary(0.8)))(one)
    text = " ".join(conclude(one, CONTEXT))
    assert "better" not in text
    assert "1 image of 1 label cannot show" in text


@pytest.mark.parametrize(
    ("minus", "bounds", "expected"),
    [
        ("mean", (-0.3, -0.1), "0.800: below the mean baseline of 0.550"),
        ("ridge", (-0.005, 0.01), "0.800: not shown to be better than the ridge baseline of 0.780"),
        ("ridge", (0.01, 0.03), "0.800: better than the ridge baseline of 0.780"),
    ],
)
def test_the_headline_names_the_baseline_that_decides(minus: str, bounds: Bounds, expected: str) -> None:
    assert headline(difference_is(minus, *bounds)(RESULT)) == expected


def test_advice_never_contradicts_itself() -> None:
    worse = difference_is("ridge", -0.05, -0.02)(RESULT)
    overfitted = " ".join(conclude(worse, replace(CONTEXT, training_cosines={"functional": 0.95})))
    assert "it overfits" in overfitted
    assert "--epochs" not in overfitted
    weak = " ".join(conclude(worse, replace(CONTEXT, training_cosines={"functional": 0.8})))
    assert "more --epochs" in weak
    assert "it overfits" not in weak
    # A blend has chosen its epochs and weight decay itself.
    blend = " ".join(conclude(worse, replace(CONTEXT, training_cosines={"functional": 0.8}, tuned=True)))
    assert "--epochs" not in blend
