import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

from pipeline.core.errors import RequestError
from pipeline.evaluation.rsa import RsaResult, representational_similarity

RANDOM = np.random.default_rng(0)
SOURCE, OTHER = RANDOM.normal(loc=1, size=(24, 30)), RANDOM.normal(size=(24, 50))
TARGETS = SOURCE @ RANDOM.normal(size=(30, 12)) + RANDOM.normal(size=(24, 12))
REPEATS = TARGETS + 2 * RANDOM.normal(size=(5, *TARGETS.shape))


def compared(dissimilarity: str = "correlation", method: str = "rho-a", repeats: np.ndarray | None = None) -> RsaResult:
    vectors = {"source": SOURCE, "other": OTHER}
    return representational_similarity(vectors, TARGETS, repeats, dissimilarity, method, images=24, bootstraps=200)


@pytest.mark.parametrize(
    ("dissimilarity", "metric"), [("correlation", "correlation"), ("cosine", "cosine"), ("euclidean", "sqeuclidean")]
)
def test_matrices_and_similarities_are_scipys(dissimilarity: str, metric: str) -> None:
    result = compared(dissimilarity, "spearman")
    for name, values in {"targets": TARGETS, "source": SOURCE, "other": OTHER}.items():
        expected = squareform(pdist(values, metric))
        scale = values.shape[1] if metric == "sqeuclidean" else 1  # rsatoolbox's is the mean over dimensions
        assert result.rdms[name] == pytest.approx(expected / scale, abs=1e-9)
    for score, values in zip(result.scores, (SOURCE, OTHER), strict=True):
        expected = spearmanr(pdist(values, metric), pdist(TARGETS, metric)).statistic
        assert score.similarity == pytest.approx(expected, abs=1e-9)


def test_the_vectors_that_made_the_targets_are_the_most_similar() -> None:
    source, other = compared().scores
    assert source.ci95[0] > 0.2 > other.ci95[0]
    assert source.difference == pytest.approx(source.similarity - other.similarity) == pytest.approx(-other.difference)
    assert source.difference_ci95[0] > 0
    assert source.cka > 0.3 > other.cka
    tables = compared().tables()
    assert [row[0] for row in tables[0].rows] == ["source", "other"]
    assert compared().to_json() == compared().to_json()  # the bootstrap is seeded


def test_intervals_of_unrelated_and_of_equally_similar_vectors_cover_0() -> None:
    random, times = np.random.default_rng(0), 30
    unrelated = differences = 0
    for _ in range(times):
        targets = random.normal(size=(12, 5))
        vectors = {name: targets + random.normal(size=targets.shape) for name in ("one", "other")}
        vectors |= {"unrelated": random.normal(size=(12, 5))}
        one, _, none = representational_similarity(vectors, targets, None, "euclidean", "corr", 12, 100).scores
        unrelated += none.ci95[0] <= 0 <= none.ci95[1]
        differences += one.difference_ci95[0] <= 0 <= one.difference_ci95[1]
    assert min(unrelated, differences) >= 0.9 * times


def test_what_predictions_and_several_layers_do_not_show_is_said() -> None:
    vectors = {"source": SOURCE, "other": OTHER, "predictions": SOURCE}
    result = representational_similarity(vectors, TARGETS, None, "correlation", "corr", images=30, bootstraps=100)
    text = " ".join(result.paragraphs())
    assert "each interval is for one comparison" in text
    assert "A decoder has learned the targets of its training images" in text
    assert "was trained on" not in text
    assert "was trained on 7 of 30 images" in replace(result, trained_on=7).paragraphs()[-1]
    assert len(compared().paragraphs()) == 1


def test_repeats_give_a_noise_ceiling_and_cross_validated_distances() -> None:
    low, high = compared(repeats=REPEATS).noise_ceiling
    assert compared(repeats=REPEATS).scores[0].similarity < low < high < 1
    assert compared().noise_ceiling is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        crossed = compared("crossnobis", repeats=REPEATS)
    assert crossed.noise_ceiling is None
    # The noise does not add to cross-validated distances, as it does to others.
    noise = REPEATS.std(axis=0, ddof=1).mean() ** 2
    pairs = np.triu_indices(24, 1)
    without = squareform(pdist(TARGETS, "sqeuclidean"))[pairs].mean() / 12 / noise
    assert crossed.rdms["targets"][pairs].mean() == pytest.approx(without, rel=0.15)


def test_few_conditions_have_no_interval_and_blind_vectors_are_refused() -> None:
    result = representational_similarity({"a": SOURCE[:6]}, TARGETS[:6], None, "correlation", "corr", images=6)
    assert (result.scores[0].ci95, result.scores[0].difference) == (None, None)
    blind = SOURCE * (np.arange(24) > 0)[:, None]
    with pytest.raises(RequestError, match="1 of the 24 vectors of the a have no direction"):
        representational_similarity({"a": blind}, TARGETS, None, "cosine", "corr", images=24)


def test_global_random_numbers_are_left_alone() -> None:
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    compared()
    assert np.random.random() == expected
