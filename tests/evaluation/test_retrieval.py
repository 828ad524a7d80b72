from pathlib import Path

import numpy as np
import pytest
from helpers import run_program
from sklearn.metrics import coverage_error, label_ranking_average_precision_score, top_k_accuracy_score
from sklearn.metrics.pairwise import cosine_similarity

from pipeline.core import nearest
from pipeline.evaluation import retrieval
from pipeline.evaluation.retrieval import Candidates, RetrievalSummary, retrieve, summarize_ranks

RANDOM = np.random.default_rng(0)
Y = RANDOM.normal(size=(40, 7)).astype(np.float32)
NEAR = Y + RANDOM.normal(size=Y.shape).astype(np.float32)


def candidates(vectors: np.ndarray) -> Candidates:
    return Candidates((str(number), vector) for number, vector in enumerate(vectors))


def summary(predictions: np.ndarray, targets: np.ndarray) -> RetrievalSummary:
    return summarize_ranks(retrieve(predictions, targets, candidates(targets)).ranks)


@pytest.fixture(params=[(1000, 1000), (7, 11)], ids=["one block", "blocks"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "BLOCK", request.param[0])
    monkeypatch.setattr(nearest, "ROWS", request.param[1])


@pytest.mark.usefixtures("_blocks")
def test_ranks_and_nearest_match_scikit_learn() -> None:
    similarity = cosine_similarity(NEAR.astype(np.float64), Y.astype(np.float64))
    result = retrieve(NEAR, Y, candidates(Y))
    assert np.array_equal(result.nearest, np.argsort(-similarity, axis=1)[:, : result.nearest.shape[1]])
    own = np.eye(40, dtype=int)
    whole = summarize_ranks(result.ranks)
    assert whole.mrr == pytest.approx(label_ranking_average_precision_score(own, similarity))
    assert result.ranks.mean() == pytest.approx(coverage_error(own, similarity))
    assert whole.top1 == pytest.approx((similarity.argmax(axis=1) == np.arange(40)).mean())
    expected = {str(k): top_k_accuracy_score(np.arange(40), similarity, k=k) for k in (1, 2, 5, 10, 20)}
    assert whole.hits == pytest.approx(expected)
    assert whole.top5 == whole.hits["5"]
    assert whole.median_rank == np.median(result.ranks)


def test_a_perfect_prediction_is_first() -> None:
    for predictions in (Y, 1e-3 * Y):
        scores = summary(predictions, Y)
        assert (scores.top1, scores.top5, scores.mrr, scores.median_rank) == (1, 1, 1, 1)


def test_equal_vectors_are_one_candidate_with_the_first_name() -> None:
    distinct = Candidates([("a", Y[0]), ("b", Y[1]), ("c", Y[0]), ("d", -Y[1] * 0), ("e", Y[1] * 0)])
    assert distinct.names == ["a", "b", "d"]
    targets = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    assert summary(targets, targets).median_rank == 1
    assert summary(-targets, targets).median_rank == 3


@pytest.mark.usefixtures("_blocks")
def test_ties_give_no_advantage() -> None:
    targets = np.eye(3, dtype=np.float32)
    scores = summary(np.zeros((3, 3)), targets)
    assert (scores.top1, scores.median_rank) == (0, 2)
    # Two candidates in the same direction are equally near, despite rounding.
    many = np.concatenate([Y, 3 * Y])
    assert retrieve(Y, Y, candidates(many)).ranks.tolist() == [1.5] * 40


@pytest.mark.slow
def test_a_vocabulary_of_400_000_words_uses_less_than_2_gb(tmp_path: Path) -> None:
    words, dim, random = 400_000, 300, np.random.default_rng(0)
    with open(tmp_path / "words.bin", "wb") as opened:
        opened.write(f"{words} {dim}\n".encode())
        for number in range(words):
            opened.write(f"w{number} ".encode() + random.standard_normal(dim, np.float32).tobytes() + b"\n")
    assert int(run_program("large_vocabulary", tmp_path / "words.bin").out) < 2e9
