from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import label_ranking_average_precision_score
from sklearn.metrics.pairwise import cosine_similarity

from pipeline.errors import PipelineError
from pipeline.evaluation import Baselines, cosine_summary, cosines, judge, retrieval_summary

RANDOM = np.random.default_rng(0)
Y = RANDOM.normal(size=(40, 7)).astype(np.float32)
NEAR = Y + RANDOM.normal(size=Y.shape).astype(np.float32)


def test_cosines_are_scikit_learns() -> None:
    np.testing.assert_allclose(cosines(NEAR, Y), np.diag(cosine_similarity(NEAR, Y)), atol=1e-6)


def test_zero_vectors_count_as_zero() -> None:
    assert cosines(np.zeros((1, 7)), Y[:1])[0] == 0


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
    assert cosine_summary(np.array([0.5]))["ci95"] is None


def test_retrieval_ranks_are_scikit_learns() -> None:
    found = retrieval_summary(NEAR, Y)
    mrr = label_ranking_average_precision_score(np.eye(40, dtype=int), cosine_similarity(NEAR, Y))
    assert found["mrr"] == pytest.approx(mrr)
    assert found["top1"] == pytest.approx((cosine_similarity(NEAR, Y).argmax(axis=1) == np.arange(40)).mean())
    assert retrieval_summary(Y, Y) == {"top1": 1, "top5": 1, "mrr": 1, "median_rank": 1}


def test_equal_targets_are_one_candidate() -> None:
    targets = np.repeat(np.eye(3), 5, axis=0)
    assert retrieval_summary(targets, targets)["median_rank"] == 1
    assert retrieval_summary(-targets, targets)["median_rank"] == 3


def test_a_prediction_that_cannot_tell_gains_nothing() -> None:
    found = retrieval_summary(np.zeros((9, 3)), np.repeat(np.eye(3), 3, axis=0))
    assert (found["top1"], found["median_rank"]) == (0, 2)


def test_baselines_survive_the_disk(tmp_path: Path) -> None:
    x = RANDOM.normal(size=(40, 12)).astype(np.float32)
    baselines = Baselines.fit(x, Y)
    baselines.save(tmp_path / "b.npz")
    loaded = Baselines.load(tmp_path / "b.npz").predict(x[:5])
    assert np.array_equal(loaded["mean"], np.tile(Y.mean(axis=0), (5, 1)))
    expected = Ridge(alpha=baselines.alpha).fit(x, Y).predict(x[:5])
    np.testing.assert_allclose(loaded["ridge"], expected, atol=1e-4)

    (tmp_path / "b.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:200])
    with pytest.raises(PipelineError, match="damaged"):
        Baselines.load(tmp_path / "b.npz")


def test_judge_names_every_prediction() -> None:
    found = judge({"good": Y, "bad": -Y}, Y)
    assert found["good"]["cosine"]["mean"] == pytest.approx(1)
    assert found["bad"]["cosine"]["mean"] == pytest.approx(-1)
    assert set(found["good"]) == {"cosine", "retrieval"}
