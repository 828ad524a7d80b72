import numpy as np
import pytest
from sklearn.metrics import mean_squared_error
from sklearn.metrics.pairwise import cosine_similarity

from pipeline.core.vectors import cosines
from pipeline.evaluation.metrics import by_label, cosine_summary, differences, extremes, interval, judge
from pipeline.evaluation.retrieval import Candidates

RANDOM = np.random.default_rng(0)
Y = RANDOM.normal(size=(40, 7)).astype(np.float32)
NEAR = Y + RANDOM.normal(size=Y.shape).astype(np.float32)


def truth(targets: np.ndarray = Y, labels: list[str] | None = None, **given) -> Truth:
    labels = labels or [str(number) for number in range(len(targets))]
    candidates = Candidates(zip(labels, targets, strict=True))
    paths = [f"{number}.png" for number in range(len(targets))]
    return Truth(paths, labels, targets, candidates, targets.mean(axis=0), **given)


def test_cosines_are_scikit_learns() -> None:
    np.testing.assert_allclose(cosines(NEAR, Y), np.diag(cosine_similarity(NEAR, Y)), atol=1e-6)


def test_zero_vectors_count_as_zero_and_are_counted() -> None:
    assert cosines(np.zeros((1, 7)), Y[:1])[0] == 0
    predicted = NEAR.copy()
    predicted[[3, 5]] = 0
    assert judge({"model": predicted}, truth(), {})["model"].summary["zero_vectors"] == 2


def test_summary_of_cosines() -> None:
    values = cosines(NEAR, Y)
    found = cosine_summary(values)
    assert found["mean"] == pytest.approx(values.mean())
    assert found["p05"] < found["median"] < found["p95"]
    low, high = found["ci95"]
    # The bootstrap's interval of a mean is near the normal one.
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert (low, high) == (pytest.approx(values.mean() - half, abs=0.02), pytest.approx(values.mean() + half, abs=0.02))
    assert cosine_summary(values) == found
    assert interval(np.array([0.5])) is None


def test_centred_cosine_progress_and_squared_error() -> None:
    shifted = Y + 5  # all targets point one way, so that any answer has a high cosine
    mean = np.tile(shifted.mean(axis=0), (40, 1))
    judged = judge({"model": NEAR + 5, "mean": mean}, truth(shifted), {"model": 0.99})
    model, baseline = judged["model"].summary, judged["mean"].summary
    assert baseline["cosine"]["mean"] > 0.9
    assert baseline["centred_cosine"]["mean"] == pytest.approx(0, abs=1e-6)
    centre = shifted.mean(axis=0)
    expected = np.diag(cosine_similarity(NEAR + 5 - centre, shifted - centre)).mean()
    assert model["centred_cosine"]["mean"] == pytest.approx(expected, abs=1e-6)
    way = (model["cosine"]["mean"] - baseline["cosine"]["mean"]) / (0.99 - baseline["cosine"]["mean"])
    assert model["progress"] == pytest.approx(way)
    assert baseline["progress"] == 0
    assert model["mse"] == pytest.approx(mean_squared_error(shifted, NEAR + 5), rel=1e-5)
    assert judge({"model": NEAR}, truth(), {})["model"].summary["progress"] is None


def test_labels_that_training_never_saw_are_counted_apart() -> None:
    seen = np.arange(40) < 30
    predicted = np.where(seen[:, None], Y, -Y)
    summary = judge({"model": predicted}, truth(seen=seen), {})["model"].summary
    assert summary["retrieval_of_seen"]["top1"] == 1
    assert summary["retrieval_of_unseen"]["top1"] == 0
    assert summary["retrieval"]["top1"] == 0.75
    assert "retrieval_of_unseen" not in judge({"model": Y}, truth(seen=np.ones(40, bool)), {})["model"].summary


def test_differences_are_paired() -> None:
    mean = np.tile(Y.mean(axis=0), (40, 1))
    judged = judge({"functional": NEAR, "sequential": NEAR + 1e-4, "mean": mean}, truth(), {})
    found = {(each["of"], each["minus"]): each for each in differences(judged, ["functional", "sequential"])}
    assert set(found) == {("functional", "sequential"), ("functional", "mean"), ("sequential", "mean")}
    styles = found["functional", "sequential"]
    values = judged["functional"].cosines - judged["sequential"].cosines
    assert styles["mean"] == pytest.approx(values.mean())
    # Both vary by 0.2 from image to image, but together: only a paired interval is this narrow.
    assert styles["ci95"][1] - styles["ci95"][0] < 1e-3
    assert found["functional", "mean"]["ci95"][0] > 0


def test_labels_and_what_they_are_confused_with() -> None:
    targets = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    labels = ["ape"] * 4 + ["bee"] * 4 + ["cow"] * 4
    predicted = targets.copy()
    predicted[0], predicted[1], predicted[2] = targets[4], targets[4], targets[8]
    of = truth(targets, labels)
    judgement = judge({"model": predicted}, of, {})["model"]
    ape, bee, cow = by_label(judgement, of)
    assert ape == {
        "label": "ape", "images": 4, "cosine": 0.25, "top1": 0.25,
        "confused_with": [{"label": "bee", "images": 2}, {"label": "cow", "images": 1}],
    }  # fmt: skip
    assert (bee["top1"], cow["confused_with"]) == (1, [])
    found = extremes(judgement, of)
    assert [image["path"] for image in found["worst"][:3]] == ["0.png", "1.png", "2.png"]
    assert found["worst"][0]["nearest"][0] == "bee"
    assert found["best"][0]["cosine"] == pytest.approx(1)
    assert found["best"][0]["rank"] == 1
