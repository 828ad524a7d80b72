import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from sklearn.metrics.pairwise import cosine_similarity

from pipeline.evaluation import zero_shot as module
from pipeline.evaluation.zero_shot import (
    HITS,
    class_averaged,
    cosine_ranking,
    csls_ranking,
    hits,
    largest_hub,
    zero_shot,
)

RANDOM = np.random.default_rng(0)
CANDIDATES = RANDOM.normal(size=(30, 8)).astype(np.float32)
OWN = np.concatenate([np.arange(30), RANDOM.integers(0, 30, 70)])
PREDICTIONS = CANDIDATES[OWN] + 1.5 * RANDOM.normal(size=(100, 8)).astype(np.float32)
SIMILARITY = cosine_similarity(PREDICTIONS.astype(np.float64), CANDIDATES.astype(np.float64))
SEEN = OWN < 18


@pytest.fixture(params=[2**22, 700], ids=["one block", "blocks"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VALUES", request.param)


def ranked(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    return rankdata(-scores, axis=1)[np.arange(len(own)), own]


@pytest.mark.usefixtures("_blocks")
def test_cosine_ranks_are_scipys() -> None:
    found = cosine_ranking(PREDICTIONS, CANDIDATES, OWN)
    assert np.array_equal(found.ranks, ranked(SIMILARITY, OWN))
    assert np.array_equal(found.nearest, SIMILARITY.argmax(axis=1))


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("neighbours", [1, 10, 1000])
def test_csls_ranks_are_those_of_its_formula(neighbours: int) -> None:
    def density(similarity: np.ndarray) -> np.ndarray:
        return np.sort(similarity, axis=1)[:, ::-1][:, :neighbours].mean(axis=1)

    csls = 2 * SIMILARITY - density(SIMILARITY)[:, None] - density(SIMILARITY.T)
    found = csls_ranking(PREDICTIONS, CANDIDATES, OWN, neighbours)
    assert np.array_equal(found.ranks, ranked(csls, OWN))
    assert np.array_equal(found.nearest, csls.argmax(axis=1))
    assert 0.5 < spearmanr(found.ranks, ranked(SIMILARITY, OWN)).statistic < 1


@pytest.mark.usefixtures("_blocks")
def test_ties_count_half() -> None:
    zeros = np.zeros((4, 8))
    assert cosine_ranking(zeros, CANDIDATES, OWN[:4]).ranks.tolist() == [15.5] * 4
    assert csls_ranking(zeros, CANDIDATES, OWN[:4]).ranks.tolist() == [15.5] * 4
    # Candidates in one direction are equally similar, in spite of rounding.
    twice = np.concatenate([CANDIDATES, 3 * CANDIDATES])
    assert cosine_ranking(CANDIDATES, twice, np.arange(30)).ranks.tolist() == [1.5] * 30


def test_csls_takes_a_hub_back() -> None:
    random = np.random.default_rng(3)
    candidates = random.normal(size=(40, 60))
    hub = candidates.mean(axis=0)
    predictions = candidates + 0.8 * random.normal(size=candidates.shape) + 8 * hub
    candidates = np.concatenate([candidates, hub[None]])
    own = np.arange(40)
    cosine, csls = (rank(predictions, candidates, own) for rank in (cosine_ranking, csls_ranking))
    found = largest_hub(cosine.nearest, own)
    assert (found.candidate, found.own) == (40, 0)
    assert found.share > 0.5
    assert largest_hub(csls.nearest, own).share < 0.2
    assert csls.ranks.mean() < cosine.ranks.mean()


def test_the_largest_hub_is_counted() -> None:
    found = largest_hub(np.array([3, 1, 3, 3, 0]), np.array([3, 1, 2, 4, 0]))
    assert asdict(found) == {"candidate": 3, "share": 0.6, "own": 0.2}


def test_hits_are_scikit_learns() -> None:
    found = hits(cosine_ranking(PREDICTIONS, CANDIDATES, OWN).ranks)
    expected = {str(k): top_k_accuracy_score(OWN, SIMILARITY, k=k, labels=np.arange(30)) for k in HITS}
    assert list(found) == ["1", "2", "5", "10", "20"]
    assert found == pytest.approx(expected)


def test_class_averaged_accuracy_is_scikit_learns_balanced_accuracy() -> None:
    nearest = SIMILARITY.argmax(axis=1)
    names = np.array([f"label {number}" for number in OWN])
    assert class_averaged(nearest == OWN, names) == pytest.approx(balanced_accuracy_score(OWN, nearest))
    assert class_averaged(nearest == OWN, names) != pytest.approx((nearest == OWN).mean())


def test_seen_and_unseen_labels_are_scored_apart() -> None:
    unseen = np.arange(18, 30)
    among_unseen = cosine_ranking(PREDICTIONS[~SEEN], CANDIDATES[unseen], OWN[~SEEN] - 18)
    found = zero_shot(cosine_ranking(PREDICTIONS, CANDIDATES, OWN).ranks, among_unseen.ranks, OWN, SEEN)

    def accuracy(rows: np.ndarray, columns: np.ndarray) -> float:
        nearest = columns[SIMILARITY[np.ix_(rows, columns)].argmax(axis=1)]
        return float(np.mean([(nearest[OWN[rows] == label] == label).mean() for label in np.unique(OWN[rows])]))

    of_seen, of_unseen = (accuracy(rows, np.arange(30)) for rows in (SEEN, ~SEEN))
    assert found.seen_among_all == pytest.approx(of_seen)
    assert found.unseen_among_all == pytest.approx(of_unseen)
    assert found.unseen_among_unseen == pytest.approx(accuracy(~SEEN, unseen))
    assert found.harmonic_mean == pytest.approx(2 / (1 / of_seen + 1 / of_unseen))
    assert found.unseen_among_unseen > found.unseen_among_all
    assert json.loads(json.dumps(asdict(found))) == asdict(found)


def test_what_there_is_none_of_has_no_accuracy() -> None:
    ranks, labels = np.array([1.0, 3.0]), ["a", "b"]
    only_unseen = zero_shot(ranks, ranks, labels, np.zeros(2, bool))
    assert asdict(only_unseen) == {
        "unseen_among_unseen": 0.5,
        "unseen_among_all": 0.5,
        "seen_among_all": None,
        "harmonic_mean": None,
    }
    assert zero_shot(ranks, ranks[:0], labels, np.ones(2, bool)).unseen_among_unseen is None
    assert zero_shot(np.array([2.0, 2.0]), np.ones(1), labels, np.array([True, False])).harmonic_mean == 0
