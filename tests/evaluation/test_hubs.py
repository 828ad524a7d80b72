import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr
from sklearn.metrics.pairwise import cosine_similarity

from pipeline.core import nearest
from pipeline.core.nearest import Ranking, Similarities, numbered_blocks
from pipeline.core.vectors import cosines
from pipeline.evaluation.hubs import Hub, csls_ranking, largest_hub

RANDOM = np.random.default_rng(0)
CANDIDATES = RANDOM.normal(size=(30, 8)).astype(np.float32)
OWN = np.concatenate([np.arange(30), RANDOM.integers(0, 30, 70)])
PREDICTIONS = CANDIDATES[OWN] + 1.5 * RANDOM.normal(size=(100, 8)).astype(np.float32)
SIMILARITY = cosine_similarity(PREDICTIONS.astype(np.float64), CANDIDATES.astype(np.float64))


@pytest.fixture(params=[(2**24, 1024), (0, 7)], ids=["kept", "in blocks"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "KEPT", request.param[0])
    monkeypatch.setattr(nearest, "ROWS", request.param[1])


def ranking_by_csls(predictions: np.ndarray, candidates: np.ndarray, own: np.ndarray, neighbours: int = 10) -> Ranking:
    similarities = Similarities(predictions, lambda: numbered_blocks(candidates, 11), len(candidates))
    return csls_ranking(similarities, own, cosines(predictions, candidates[own]), neighbours)


def ranked(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    return rankdata(-scores, axis=1)[np.arange(len(own)), own]


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("neighbours", [1, 10, 1000])
def test_csls_ranks_follow_the_formula(neighbours: int) -> None:
    def density(similarity: np.ndarray) -> np.ndarray:
        return np.sort(similarity, axis=1)[:, ::-1][:, :neighbours].mean(axis=1)

    csls = 2 * SIMILARITY - density(SIMILARITY)[:, None] - density(SIMILARITY.T)
    ranking = ranking_by_csls(PREDICTIONS, CANDIDATES, OWN, neighbours)
    assert np.array_equal(ranking.ranks, ranked(csls, OWN))
    assert np.array_equal(ranking.nearest[:, 0], csls.argmax(axis=1))
    assert 0.5 < spearmanr(ranking.ranks, ranked(SIMILARITY, OWN)).statistic < 1


@pytest.mark.usefixtures("_blocks")
def test_ties_count_half() -> None:
    zeros = np.zeros((4, 8))
    assert ranking_by_csls(zeros, CANDIDATES, OWN[:4]).ranks.tolist() == [15.5] * 4


def test_csls_corrects_for_a_hub() -> None:
    random = np.random.default_rng(3)
    candidates = random.normal(size=(40, 60))
    hub = candidates.mean(axis=0)
    predictions = candidates + 0.8 * random.normal(size=candidates.shape) + 8 * hub
    candidates = np.concatenate([candidates, hub[None]])
    own = np.arange(40)
    names = [str(number) for number in range(41)]
    similarity = cosine_similarity(predictions, candidates)
    hub = largest_hub(similarity.argmax(axis=1), own, names)
    assert (hub.candidate, hub.own) == ("40", 0)
    assert hub.share > 0.5
    csls = ranking_by_csls(predictions, candidates, own)
    assert largest_hub(csls.nearest[:, 0], own, names).share < 0.2
    assert csls.ranks.mean() < ranked(similarity, own).mean()


def test_the_largest_hub_is_counted() -> None:
    hub = largest_hub(np.array([3, 1, 3, 3, 0]), np.array([3, 1, 2, 4, 0]), ["a", "b", "c", "d", "e"])
    assert hub == Hub("d", share=0.6, own=0.2)
