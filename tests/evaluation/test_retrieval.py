import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from sklearn.metrics import coverage_error, label_ranking_average_precision_score
from sklearn.metrics.pairwise import cosine_similarity

from pipeline.evaluation import retrieval
from pipeline.evaluation.retrieval import Candidates, retrieve

RANDOM = np.random.default_rng(0)
Y = RANDOM.normal(size=(40, 7)).astype(np.float32)
NEAR = Y + RANDOM.normal(size=Y.shape).astype(np.float32)


def candidates(vectors: np.ndarray) -> Candidates:
    return Candidates((str(number), vector) for number, vector in enumerate(vectors))


@pytest.fixture(params=[(1000, 1000), (7, 11)], ids=["one block", "blocks"])
def _blocks(request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "BLOCK", request.param[0])
    monkeypatch.setattr(retrieval, "ROWS", request.param[1])


@pytest.mark.usefixtures("_blocks")
def test_ranks_and_nearest_are_scikit_learns() -> None:
    similarity = cosine_similarity(NEAR.astype(np.float64), Y.astype(np.float64))
    found = retrieve(NEAR, Y, candidates(Y))
    assert np.array_equal(found.nearest, np.argsort(-similarity, axis=1)[:, :5])
    own = np.eye(40, dtype=int)
    assert found.summary()["mrr"] == pytest.approx(label_ranking_average_precision_score(own, similarity))
    assert found.ranks.mean() == pytest.approx(coverage_error(own, similarity))
    assert found.summary()["top1"] == pytest.approx((similarity.argmax(axis=1) == np.arange(40)).mean())
    assert found.summary(slice(0, 3))["median_rank"] == np.median(found.ranks[:3])


def test_a_perfect_prediction_is_first() -> None:
    assert retrieve(Y, Y, candidates(Y)).summary() == {"top1": 1, "top5": 1, "mrr": 1, "median_rank": 1}
    assert retrieve(1e-3 * Y, Y, candidates(Y)).summary()["top1"] == 1


def test_equal_vectors_are_one_candidate_under_the_first_name() -> None:
    found = Candidates([("a", Y[0]), ("b", Y[1]), ("c", Y[0]), ("d", -Y[1] * 0), ("e", Y[1] * 0)])
    assert found.names == ["a", "b", "d"]
    targets = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    assert retrieve(targets, targets, candidates(targets)).summary()["median_rank"] == 1
    assert retrieve(-targets, targets, candidates(targets)).summary()["median_rank"] == 3


@pytest.mark.usefixtures("_blocks")
def test_a_prediction_that_cannot_tell_gains_nothing() -> None:
    targets = np.eye(3, dtype=np.float32)
    found = retrieve(np.zeros((3, 3)), targets, candidates(targets)).summary()
    assert (found["top1"], found["median_rank"]) == (0, 2)
    # Two candidates in one direction are as near as each other, in spite of rounding.
    many = np.concatenate([Y, 3 * Y])
    assert retrieve(Y, Y, candidates(many)).ranks.tolist() == [1.5] * 40


@pytest.mark.slow
def test_a_vocabulary_of_400_000_words_takes_less_than_2_gb(tmp_path: Path) -> None:
    words, dim, random = 400_000, 300, np.random.default_rng(0)
    with open(tmp_path / "words.bin", "wb") as opened:
        opened.write(f"{words} {dim}\n".encode())
        for number in range(words):
            opened.write(f"w{number} ".encode() + random.standard_normal(dim, np.float32).tobytes() + b"\n")
    code = f"""
import resource, numpy as np
from pathlib import Path
from pipeline.evaluation.retrieval import Candidates, retrieve
from pipeline.data.word_vectors import read_vocabulary
found = Candidates(read_vocabulary(Path({str(tmp_path / "words.bin")!r})))
targets = next(block for _, block in found.blocks())[:2000]
noisy = targets + np.random.default_rng(1).normal(size=targets.shape, scale=8)
ranks = retrieve(noisy, targets, found).ranks
assert len(found) == 400_000 and 1 < np.median(ranks) < 200_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(finished.stdout) < 2e9
