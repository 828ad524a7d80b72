import tracemalloc
from collections.abc import Mapping
from dataclasses import is_dataclass

import numpy as np
import pytest
from sklearn.metrics import mean_squared_error
from sklearn.metrics.pairwise import cosine_similarity

from pipeline.core import vectors
from pipeline.core.vectors import cosines
from pipeline.evaluation import dimensions, retrieval
from pipeline.evaluation.dimensions import correlations, identification, z_scores
from pipeline.evaluation.intervals import over_folds
from pipeline.evaluation.metrics import EvaluationSet, score_predictions, summarize_cosines
from pipeline.evaluation.results import Clusters, Confusion, Scores
from pipeline.evaluation.retrieval import Candidates
from pipeline.evaluation.scoreboard import differences, score_model, scoreboard

RANDOM = np.random.default_rng(0)
Y = RANDOM.normal(size=(40, 7)).astype(np.float32)
NEAR = Y + RANDOM.normal(size=Y.shape).astype(np.float32)
CLUSTERS = Clusters("image", 40, None, over_folds=False)


def evaluation_set(targets: np.ndarray = Y, labels: list[str] | None = None, **columns) -> EvaluationSet:
    labels = labels or [str(number) for number in range(len(targets))]
    return EvaluationSet(
        paths=[f"{number}.png" for number in range(len(targets))],
        labels=labels,
        targets=targets,
        candidates=Candidates(zip(labels, targets, strict=True)),
        clusters=labels,
        **{"centre": targets.mean(axis=0), "deviation": targets.std(axis=0), **columns},
    )


def scores_of(predicted: np.ndarray, images: EvaluationSet) -> Scores:
    return score_predictions({"model": predicted}, images, {})["model"].scores


def test_zero_vectors_count_as_zero_and_are_counted() -> None:
    predicted = NEAR.copy()
    predicted[[3, 5]] = 0
    scores = scores_of(predicted, evaluation_set())
    assert scores.zero_vectors == 2
    assert scores.cosine.mean == pytest.approx(cosines(NEAR, Y)[[row not in (3, 5) for row in range(40)]].sum() / 40)


def test_summary_of_cosines() -> None:
    values = cosines(NEAR, Y)
    summary = summarize_cosines(values, evaluation_set())
    assert summary.mean == pytest.approx(values.mean())
    assert [summary.p05, summary.median, summary.p95] == pytest.approx(np.percentile(values, [5, 50, 95]))
    low, high = summary.ci95
    assert low < summary.mean < high
    assert summarize_cosines(values[:1], evaluation_set(Y[:1])).ci95 is None


def test_centred_cosine_progress_and_squared_error() -> None:
    shifted = Y + 5  # all targets have a similar direction, so any prediction has a high cosine
    mean = np.tile(shifted.mean(axis=0), (40, 1))
    scored = score_predictions({"model": NEAR + 5, "mean": mean}, evaluation_set(shifted), {"model": 0.99})
    model, baseline = scored["model"].scores, scored["mean"].scores
    assert baseline.cosine.mean > 0.9
    assert baseline.centred_cosine.mean == pytest.approx(0, abs=1e-6)
    centre = shifted.mean(axis=0)
    expected = np.diag(cosine_similarity(NEAR + 5 - centre, shifted - centre)).mean()
    assert model.centred_cosine.mean == pytest.approx(expected, abs=1e-6)
    way = (model.cosine.mean - baseline.cosine.mean) / (0.99 - baseline.cosine.mean)
    assert model.progress == pytest.approx(way)
    assert baseline.progress == 0
    assert model.mse == pytest.approx(mean_squared_error(shifted, NEAR + 5), rel=1e-5)
    assert scores_of(NEAR, evaluation_set()).progress is None


def test_each_fold_has_its_own_centre() -> None:
    folds = np.arange(40) % 2
    centres, deviations = (np.stack([f(Y[folds == other], 0) for other in (1, 0)]) for f in (np.mean, np.std))
    whole = scores_of(NEAR, evaluation_set(centre=centres, deviation=deviations, folds=folds))
    centred = np.where(folds, *(cosines(NEAR - centre, Y - centre) for centre in centres[::-1]))
    assert whole.centred_cosine.mean == pytest.approx(centred.mean())
    z_scored = [[z_scores(each, *moments) for each in (NEAR, Y)] for moments in zip(centres, deviations, strict=True)]
    identified = np.where(folds, *(identification(*each) for each in z_scored[::-1]))
    assert whole.patterns.identification == pytest.approx(identified.mean())
    pattern = np.where(folds, *(correlations(*each) for each in z_scored[::-1]))
    assert whole.patterns.pattern.median == pytest.approx(np.median(pattern))
    mean = scores_of(centres[folds], evaluation_set(centre=centres, deviation=deviations, folds=folds))
    assert mean.centred_cosine.mean == 0  # the mean of the training images says nothing about the held-out images
    assert mean.patterns.identification == 0.5


def test_intervals_of_a_cross_validation_are_over_folds() -> None:
    """Over images, as if one decoder had predicted them, the difference would be significant; over folds it is not."""
    folds = np.repeat(np.arange(4), 10)
    shift = np.array([0.0, 0.1, 0.3, 0.8])[folds, None] * (NEAR - Y)
    predictions = {"ours": NEAR - shift, "theirs": NEAR}
    known = {"folds": folds, "centre": np.zeros((4, 7)), "deviation": np.ones((4, 7))}
    scored = score_predictions(predictions, evaluation_set(**known), {})
    [over_folds] = differences(scored, {"ours": "ours", "theirs": "theirs"}, evaluation_set(**known))
    [over_images] = differences(scored, {"ours": "ours", "theirs": "theirs"}, evaluation_set())
    assert over_images.is_positive()
    assert not over_folds.is_positive()
    of_folds = [(scored["ours"].cosines - scored["theirs"].cosines)[folds == fold].mean() for fold in range(4)]
    half = 3.1824 * (np.var(of_folds, ddof=1) * (1 / 4 + 1 / 3)) ** 0.5  # t(0.975; 3) = 3.1824
    assert over_folds.ci95 == pytest.approx((np.mean(of_folds) - half, np.mean(of_folds) + half), abs=1e-4)
    assert over_folds.ci95_same_labels is None
    assert scored["ours"].scores.cosine.ci95_same_labels is None


def test_unseen_labels_are_scored_separately() -> None:
    seen = np.arange(40) < 30
    scores = scores_of(np.where(seen[:, None], Y, -Y), evaluation_set(seen=seen))
    assert (scores.retrieval_of_seen.top1, scores.retrieval_of_unseen.top1, scores.retrieval.top1) == (1, 0, 0.75)
    all_seen = scores_of(Y, evaluation_set(seen=np.ones(40, bool)))
    assert all_seen.retrieval_of_seen is all_seen.retrieval_of_unseen is None


def test_differences_are_paired() -> None:
    images = evaluation_set()
    mean = np.tile(Y.mean(axis=0), (40, 1))
    scored = score_predictions({"functional": NEAR, "sequential": NEAR + 1e-4, "mean": mean}, images, {})
    pairs = differences(scored, {"functional": "functional", "sequential": "sequential"}, images)
    by_names = {(difference.of, difference.minus): difference for difference in pairs}
    assert set(by_names) == {("functional", "sequential"), ("functional", "mean"), ("sequential", "mean")}
    styles = by_names["functional", "sequential"]
    values = scored["functional"].cosines - scored["sequential"].cosines
    assert styles.mean == pytest.approx(values.mean())
    # Both vary by 0.2 between images, but together: only a paired interval is this narrow.
    assert styles.ci95[1] - styles.ci95[0] < 1e-3
    assert by_names["functional", "mean"].is_positive()
    centred = scored["functional"].centred_cosines - scored["mean"].centred_cosines
    difference = by_names["functional", "mean"]
    assert difference.centred == pytest.approx(centred.mean())


def test_top1_identification_and_mean_r_have_intervals() -> None:
    labels = [str(number // 2) for number in range(40)]
    scores = scores_of(NEAR, evaluation_set(labels=labels, centre=np.zeros(7), deviation=np.ones(7)))
    patterns, retrieval = scores.patterns, scores.retrieval
    assert patterns.mean_pearson == pytest.approx(np.mean([np.corrcoef(NEAR.T, Y.T)[d, 7 + d] for d in range(7)]))
    for value, *intervals in (
        (retrieval.top1, retrieval.top1_ci95, retrieval.top1_ci95_same_labels),
        (patterns.identification, patterns.identification_ci95, patterns.identification_ci95_same_labels),
        (patterns.mean_pearson, patterns.mean_pearson_ci95, patterns.mean_pearson_ci95_same_labels),
    ):
        for low, high in intervals:
            assert 0 <= low < value < high <= 1
    few = evaluation_set(Y[:20], labels[:20])
    few_scores = scores_of(NEAR[:20], few)
    assert few_scores.retrieval.top1_ci95 is few_scores.patterns.identification_ci95 is None
    assert few_scores.patterns.mean_pearson_ci95 is None


def test_with_folds_all_scores_have_intervals_over_folds() -> None:
    folds = np.arange(40) % 4
    images = evaluation_set(folds=folds, centre=np.zeros((4, 7)), deviation=np.ones((4, 7)))
    predictions = {"model": NEAR, "flat": np.zeros_like(Y)}
    scored = score_predictions(predictions, images, {})
    scores = scored["model"].scores
    for values, interval in (
        (scored["model"].retrieval.hits, scores.retrieval.top1_ci95),
        (scored["model"].patterns.identification, scores.patterns.identification_ci95),
    ):
        expected = over_folds(np.array([values[folds == fold].mean() for fold in range(4)]), 4, 40).bounds(1, 0)
        assert interval == pytest.approx(expected)
    assert scores.patterns.mean_pearson_ci95[0] < scores.patterns.mean_pearson < scores.patterns.mean_pearson_ci95[1]
    assert scores.patterns.mean_pearson_ci95_same_labels is scores.retrieval.top1_ci95_same_labels is None
    [difference] = differences(scored, {"model": "model"}, images)
    centred = scored["model"].centred_cosines - scored["flat"].centred_cosines
    means = np.array([centred[folds == fold].mean() for fold in range(4)])
    assert difference.centred_ci95 == pytest.approx(over_folds(means, 4, 40).bounds(2))
    flat = scored["flat"].scores.patterns  # it ties with all alternatives, so folds show no spread
    assert (flat.identification, flat.identification_ci95) == (0.5, None)
    assert flat.mean_pearson is flat.mean_pearson_ci95 is None


def test_labels_list_their_confusions() -> None:
    targets = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    images = evaluation_set(targets, ["ape"] * 4 + ["bee"] * 4 + ["cow"] * 4)
    predicted = targets.copy()
    predicted[0], predicted[1], predicted[2] = targets[4], targets[4], targets[8]
    scores = score_model(score_predictions({"model": predicted}, images, {})["model"], images)
    ape, bee, cow = scores.labels
    assert (ape.label, ape.images, ape.cosine, ape.top1) == ("ape", 4, 0.25, 0.25)
    assert ape.confused_with == [Confusion("bee", 2), Confusion("cow", 1)]
    assert (bee.top1, cow.confused_with) == (1, [])
    assert [image.path for image in scores.worst[:3]] == ["0.png", "1.png", "2.png"]
    assert scores.worst[0].nearest[0] == "bee"
    assert scores.best[0].cosine == pytest.approx(1)
    assert scores.best[0].rank == 1
    assert set(scores.to_json()) >= {"cosine", "retrieval", "ceiling", "labels", "worst", "best"}


def test_blocks_of_images_and_dimensions_give_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    images = evaluation_set(np.repeat(Y[:30], [2] * 10 + [1] * 20, axis=0), centre=Y.mean(axis=0))
    predicted = {"first": NEAR, "mean": np.broadcast_to(Y.mean(axis=0), Y.shape)}
    equal = {"first": "first"}
    whole = scoreboard(score_predictions(predicted, images, {}), equal, images, CLUSTERS)
    monkeypatch.setattr(vectors.slices, "__defaults__", (7 * 40 // 3,))
    monkeypatch.setattr(dimensions, "VALUES", 30)
    monkeypatch.setattr(retrieval, "VALUES", 30)
    parts = scoreboard(score_predictions(predicted, images, {}), equal, images, CLUSTERS)
    assert numbers_of(parts) == pytest.approx(numbers_of(whole), rel=1e-9, abs=1e-9, nan_ok=True)


def numbers_of(value: object) -> list[float]:
    """All numbers in a result, in order."""
    if isinstance(value, Mapping):
        return [number for part in value.values() for number in numbers_of(part)]
    if isinstance(value, list | tuple):
        return [number for part in value for number in numbers_of(part)]
    if is_dataclass(value):
        return numbers_of(vars(value))
    return [float(value)] if isinstance(value, int | float) else []


def test_scoring_wide_targets_copies_them_only_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors.slices, "__defaults__", (2**16,))
    for module in (dimensions, retrieval):
        monkeypatch.setattr(module, "VALUES", 2**16)
    random = np.random.default_rng(0)
    y = random.normal(size=(100, 8000)).astype(np.float32)
    images = evaluation_set(y)
    tracemalloc.start()
    try:
        scored = score_predictions({"model": y + random.normal(size=y.shape).astype(np.float32)}, images, {})
        scoreboard(scored, {"model": "model"}, images, CLUSTERS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 7 * y.nbytes  # measured: 4.4; with float64 copies of everything, 14
