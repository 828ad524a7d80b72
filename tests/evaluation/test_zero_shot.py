import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import balanced_accuracy_score
from sklearn.metrics.pairwise import cosine_similarity

from pipeline.evaluation.zero_shot import class_averaged, zero_shot

RANDOM = np.random.default_rng(0)
CANDIDATES = RANDOM.normal(size=(30, 8)).astype(np.float32)
OWN = np.concatenate([np.arange(30), RANDOM.integers(0, 30, 70)])
PREDICTIONS = CANDIDATES[OWN] + 1.5 * RANDOM.normal(size=(100, 8)).astype(np.float32)
SIMILARITY = cosine_similarity(PREDICTIONS.astype(np.float64), CANDIDATES.astype(np.float64))
SEEN = OWN < 18


def ranks_of_own(similarity: np.ndarray, own: np.ndarray) -> np.ndarray:
    return rankdata(-similarity, axis=1)[np.arange(len(own)), own]


def test_class_averaged_accuracy_matches_scikit_learns_balanced_accuracy() -> None:
    nearest = SIMILARITY.argmax(axis=1)
    names = np.array([f"label {number}" for number in OWN])
    assert class_averaged(nearest == OWN, names) == pytest.approx(balanced_accuracy_score(OWN, nearest))
    assert class_averaged(nearest == OWN, names) != pytest.approx((nearest == OWN).mean())


def test_seen_and_unseen_labels_are_scored_separately() -> None:
    unseen = np.arange(18, 30)
    among_unseen = ranks_of_own(SIMILARITY[np.ix_(~SEEN, unseen)], OWN[~SEEN] - 18)
    scores = zero_shot(ranks_of_own(SIMILARITY, OWN), among_unseen, OWN, SEEN)

    def accuracy(rows: np.ndarray, columns: np.ndarray) -> float:
        nearest = columns[SIMILARITY[np.ix_(rows, columns)].argmax(axis=1)]
        return float(np.mean([(nearest[OWN[rows] == label] == label).mean() for label in np.unique(OWN[rows])]))

    of_seen, of_unseen = (accuracy(rows, np.arange(30)) for rows in (SEEN, ~SEEN))
    assert scores.seen_among_all == pytest.approx(of_seen)
    assert scores.unseen_among_all == pytest.approx(of_unseen)
    assert scores.unseen_among_unseen == pytest.approx(accuracy(~SEEN, unseen))
    assert scores.harmonic_mean == pytest.approx(2 / (1 / of_seen + 1 / of_unseen))
    assert scores.unseen_among_unseen > scores.unseen_among_all
    assert json.loads(json.dumps(asdict(scores))) == asdict(scores)


def test_missing_groups_have_no_accuracy() -> None:
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
