"""Permutation tests, against the scores of permuted targets, SciPy, and simulations without and with a signal."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from pipeline.core.vectors import cosines
from pipeline.decoders.ridge import RidgeFolds
from pipeline.evaluation import permutation_tests
from pipeline.evaluation.dimensions import dimension_scores, identification, z_scores
from pipeline.evaluation.exchangeable import Units
from pipeline.evaluation.metrics import EvaluationSet, ScoredPredictions, score_predictions
from pipeline.evaluation.results import PermutationTest
from pipeline.evaluation.retrieval import Candidates

SIZES = (1, 2, 2, 3, 4, 5, 7, 9)  # images of each label
FEATURES, LABELS = 8, 12


def images_of(targets: np.ndarray, clusters: np.ndarray, training: np.ndarray | None = None) -> EvaluationSet:
    training = targets if training is None else training
    names = [str(cluster) for cluster in clusters]
    return EvaluationSet(
        paths=[str(row) for row in range(len(targets))],
        labels=names,
        targets=targets,
        candidates=Candidates(zip(names, targets, strict=True)),
        centre=training.mean(axis=0),
        deviation=training.std(axis=0),
        clusters=names,
    )


def run_tests(predicted: np.ndarray, images: EvaluationSet, count: int = 99) -> ScoredPredictions:
    scored, _ = permutation_tests.test(score_predictions({"model": predicted}, images, {}), images, "label", count)
    return scored["model"]


def p_values(predicted: np.ndarray, images: EvaluationSet, count: int = 99) -> PermutationTest:
    test = run_tests(predicted, images, count).scores.permutation_test
    assert test is not None
    return test


def example(case: str) -> tuple[np.ndarray, EvaluationSet]:
    """Predictions that are weakly related to the targets, and images in labels of unequal sizes."""
    random = np.random.default_rng(3)
    label = np.repeat(np.arange(len(SIZES)), SIZES)
    targets = random.normal(size=(len(SIZES), 1 if case == "one dimension" else 5))[label]
    if case == "a target for each image":
        label = np.arange(len(label)) // 3
        targets = random.normal(size=targets.shape)
    if case == "constant dimension":
        targets[:, 2] = 1
    predicted = targets + 2 * random.normal(size=targets.shape)
    return predicted.astype(np.float32), images_of(targets.astype(np.float32), label)


@pytest.mark.parametrize("case", ["a target for each label", "a target for each image", "constant dimension"])
def test_p_values_are_those_of_scores_on_permuted_targets(case: str) -> None:
    predicted, images = example(case)
    units = Units.of(images.targets, images.clusters)
    sources = np.vstack([np.arange(len(units.rows)), units.permutations(99)])
    scores = []
    for source in sources:
        moved = images.targets[units.rows][source][units.of_image]
        z = [z_scores(vectors, images.centre, images.deviation) for vectors in (predicted, moved)]
        r = dimension_scores(predicted, moved).pearson
        centred = cosines(predicted - images.centre, moved - images.centre).mean()
        scores.append([centred, identification(*z).mean(), np.nanmean(r), *r])
    accuracy = permutation_tests._identification(predicted, images, units, sources)
    assert accuracy == pytest.approx([score[1] for score in scores])
    p = (np.array(scores) >= np.array(scores[0]) - 1e-9).mean(axis=0)
    p[np.isnan(scores[0])] = np.nan
    scored = run_tests(predicted, images)
    test = scored.scores.permutation_test
    assert test is not None
    assert [test.centred_cosine, test.identification, test.pearson] == pytest.approx(p[:3].tolist())
    assert scored.dimension_tests.p == pytest.approx(p[3:], nan_ok=True)
    defined = ~np.isnan(p[3:])
    assert test.tested_dimensions == defined.sum() == (4 if case == "constant dimension" else 5)
    assert scored.dimension_tests.q[defined] == pytest.approx(benjamini_hochberg(p[3:][defined]))
    assert np.isnan(scored.dimension_tests.q[~defined]).all()


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """The smallest rate at which the step-up procedure rejects each hypothesis, by its definition."""
    ordered = np.sort(p)
    rates = ordered * len(p) / np.arange(1, len(p) + 1)
    return np.array([min(1, rates[ordered >= value].min()) for value in p])


def test_blocks_of_dimensions_and_of_images_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    predicted, images = example("a target for each label")
    whole = run_tests(predicted, images)
    monkeypatch.setattr(permutation_tests, "DIMENSIONS", 2)
    monkeypatch.setattr(permutation_tests, "VALUES", 40)
    parts = run_tests(predicted, images)
    assert parts.scores == whole.scores
    assert (parts.dimension_tests.p == whole.dimension_tests.p).all()


def test_r_of_one_dimension_agrees_with_scipy() -> None:
    random = np.random.default_rng(5)
    targets = random.normal(size=(40, 1)).astype(np.float32)
    predicted = (targets + 4 * random.normal(size=targets.shape)).astype(np.float32)
    p = p_values(predicted, images_of(targets, np.arange(40)), 4999).pearson
    reference = stats.permutation_test(
        (targets[:, 0],),
        lambda y: stats.pearsonr(predicted[:, 0], y).statistic,
        permutation_type="pairings",
        alternative="greater",
        n_resamples=4999,
        rng=0,
    )
    expected = float(reference.pvalue)
    assert 0.02 < expected < 0.2
    assert p == pytest.approx(expected, abs=4 * (2 * expected / 5000) ** 0.5)


def test_equal_predictions_have_a_p_value_of_one() -> None:
    _, images = example("a target for each label")
    test = p_values(np.tile(images.centre, (len(images.targets), 1)), images)
    assert test == PermutationTest(1.0, 1.0, None, 0, 0)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("3 labels", "exchanging targets among 3 labels gives 6 different results"),
        ("all sizes differ", "between labels with the same number of images gives 1 different result;"),
    ],
)
def test_too_few_permutations_give_no_p_values(case: str, words: str) -> None:
    random = np.random.default_rng(0)
    label = np.arange(30) % 3 if case == "3 labels" else np.repeat(np.arange(5), [4, 5, 6, 7, 8])
    targets = random.normal(size=(30, 4)).astype(np.float32)
    images = images_of(targets[label] if case == "3 labels" else targets, label)
    scored = score_predictions({"model": images.targets}, images, {})
    scored, permutations = permutation_tests.test(scored, images, "label", 99)
    assert scored["model"].scores.permutation_test is None
    assert words in permutations.too_few


def simulate(dim: int, signal: float, random: np.random.Generator, by_image: bool = False) -> PermutationTest:
    """Train ridge regression on some labels, and test it on others: labels of unequal sizes that features tell apart.

    Args:
        dim: The dimension of the targets.
        signal: How much the targets depend on the features.
        random: Random numbers.
        by_image: Whether to permute targets image by image, which is wrong.
    """
    weights = random.normal(size=(FEATURES, dim))

    def sample(sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        label = np.repeat(np.arange(len(sizes)), sizes)
        centres = random.normal(size=(len(sizes), FEATURES))
        targets = random.normal(size=(len(sizes), dim)) + signal * centres @ weights
        x = centres[label] + random.normal(size=(len(label), FEATURES)) / 2
        return x.astype(np.float32), targets[label].astype(np.float32), label

    x, y, label = sample((4,) * LABELS)
    ridge = RidgeFolds(x, y, label % 5, penalties=np.array([0.01, 0.1, 1.0])).best()
    new, targets, label = sample(SIZES)
    images = images_of(targets, np.arange(len(label)) if by_image else label, training=y)
    return p_values(new @ ridge.coefficients + ridge.intercept, images, 39)


def rejected(dim: int, signal: float, times: int, **options: bool) -> np.ndarray:
    """How often p <= 0.05: of the centred cosine, of identification (not defined for one dimension), and of r."""
    random = np.random.default_rng(dim)
    tests = [simulate(dim, signal, random, **options) for _ in range(times)]
    p = np.array([[test.centred_cosine, test.identification, test.pearson] for test in tests], float)
    return (p <= 0.05).sum(axis=0)[[0, 2] if dim == 1 else [0, 1, 2]]


@pytest.mark.parametrize("dim", [1, 20])
def test_a_decoder_that_learned_nothing_is_rarely_significant(dim: int) -> None:
    """At most one test in twenty, within the range of a binomial (99.9 %)."""
    assert (rejected(dim, 0, 200) <= stats.binom.ppf(0.999, 200, 0.05)).all()


def test_permuting_image_by_image_would_be_wrong() -> None:
    assert (rejected(20, 0, 100, by_image=True) > stats.binom.ppf(0.9999, 100, 0.05)).all()


def test_a_signal_is_significant() -> None:
    assert (rejected(20, 0.5, 20) >= 19).all()


@pytest.mark.parametrize("common", [0, 0.8], ids=["independent", "correlated"])
def test_few_of_the_significant_dimensions_are_false(common: float) -> None:
    """Of 60 dimensions, 12 are predicted; errors of predictions and noise of targets are independent or correlated."""
    random, runs, false, right = np.random.default_rng(6), 40, [], []

    def noise() -> np.ndarray:
        own, shared = random.normal(size=(40, 60)), random.normal(size=(40, 1))
        return (1 - common) ** 0.5 * own + common**0.5 * shared

    for _ in range(runs):
        signal = random.normal(size=(40, 60)) * (np.arange(60) < 12)
        targets, predicted = (noise() + signal, noise() + signal)
        images = images_of(targets.astype(np.float32), np.arange(40))
        significant = run_tests(predicted.astype(np.float32), images, 999).dimension_tests.q < 0.05
        false.append(significant[12:].sum() / max(significant.sum(), 1))
        right.append(significant[:12].mean())
    assert np.mean(false) < 0.08  # 0.16 without the correction
    assert np.mean(right) > 0.5


def test_the_tests_in_words_and_in_the_report() -> None:
    from pipeline.evaluation.results import Clusters
    from pipeline.evaluation.scoreboard import scoreboard

    predicted, images = example("a target for each label")
    scored = score_predictions({"model": predicted, "mean": np.tile(images.centre, (len(predicted), 1))}, images, {})
    scored, permutations = permutation_tests.test(scored, images, "label", 1000)
    board = scoreboard(scored, {"model": "model"}, images, Clusters("label", len(SIZES)))
    text = permutation_tests.sentence(board, permutations)
    assert text.startswith("Permutation test of model, with 1,000 permutations of the targets among 8 labels: p = ")
    section = permutation_tests.section(board, permutations)
    assert [row[0] for row in section.tables[0].rows] == ["model", "mean baseline"]
    assert section.tables[0].rows[1][1:] == ["1", "1", "-", "0 of 0"]
    assert "also trained on" not in " ".join(section.paragraphs)
    trained_on = replace(board, clusters=Clusters("label", len(SIZES), trained_on=True))
    assert (
        "These labels were also trained on: a decoder"
        in permutation_tests.section(trained_on, permutations).paragraphs[-1]
    )
    too_few = replace(permutations, too_few="No permutation test.")
    assert permutation_tests.section(board, too_few).tables == []
