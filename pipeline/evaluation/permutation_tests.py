"""Permutation tests: would a decoder that learned nothing score as high?

The predictions stay as they are, the targets are permuted (`pipeline.evaluation.exchangeable`), and the scores are
computed again. A p-value is the share of permutations, the observed order among them, that score at least as high:
p = (1 + count) / (1 + N) (Phipson and Smyth 2010, "Permutation P-values Should Never Be Zero"). It is one-sided.

The scores are the mean centred cosine (the cosine itself is mostly that of the mean target, which every permutation
keeps), pairwise identification, and Pearson's r of each dimension and its mean. The false discovery rate over
dimensions is Benjamini and Hochberg's (1995).
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pipeline.core.nearest import TIE
from pipeline.core.wording import counted
from pipeline.evaluation import dimensions
from pipeline.evaluation.exchangeable import FEWEST_DIFFERENT, Units
from pipeline.evaluation.metrics import DimensionTests, EvaluationSet, ScoredPredictions
from pipeline.evaluation.results import Permutations, PermutationTest, Scoreboard
from pipeline.evaluation.sections import Section, Table

RATE = 0.05  # false discovery rate
DIMENSIONS = 256  # at a time
VALUES = 2**21  # similarities of images to targets at a time


def test(
    scored: Mapping[str, ScoredPredictions], images: EvaluationSet, kind: str, count: int
) -> tuple[dict[str, ScoredPredictions], Permutations]:
    """Test the scores of models and baselines, all with the same permutations.

    Args:
        scored: Name -> scored predictions.
        images: The images with their targets, without folds: there, the targets of a fold have trained the decoders of
            the other folds, so p-values with these predictions would be too small.
        kind: The kind of `images.clusters`: "group", "label" or "image".
        count: The number of permutations.

    Returns:
        The scored predictions with their tests, if there are enough permutations; and how targets were permuted.
    """
    assert images.folds is None
    units = Units.of(images.targets, images.clusters)
    permutations = Permutations(count, kind, units.exchanged, not units.constant, too_few(units, kind))
    if permutations.too_few:
        return dict(scored), permutations
    sources = units.permutations(count)
    return {name: _tested(each, images, units, sources) for name, each in scored.items()}, permutations


def too_few(units: Units, kind: str) -> str | None:
    """Why there are too few permutations for p < 0.05, or None."""
    if units.are_enough:
        return None
    different = round(math.exp(units.log_permutations))
    among = f"among {counted(len(units.rows), kind)}"
    if not units.constant:
        among = f"between {kind}s with the same number of images"
    return (
        f"No permutation test: exchanging targets {among} gives {counted(different, 'different result')}; p < 0.05 "
        f"takes {FEWEST_DIFFERENT}."
    )


def _tested(scored: ScoredPredictions, images: EvaluationSet, units: Units, sources: np.ndarray) -> ScoredPredictions:
    sources = np.vstack([np.arange(len(units.rows), dtype=sources.dtype), sources])  # the first keeps the targets
    defined = ~np.isnan(scored.patterns.dimensions.pearson)
    cosine, r, p = _cosine_and_r(scored.predictions, images, units, sources, defined)
    accuracy = _identification(scored.predictions, images, units, sources)
    tests = DimensionTests(p, _false_discovery(p))
    tested = int((~np.isnan(p)).sum())
    test = PermutationTest(
        centred_cosine=_p_value(cosine),
        identification=None if np.isnan(accuracy).any() else _p_value(accuracy),
        pearson=_p_value(r) if tested else None,
        significant_dimensions=int((tests.q < RATE).sum()),
        tested_dimensions=tested,
    )
    return replace(scored, scores=replace(scored.scores, permutation_test=test), dimension_tests=tests)


def _p_value(scores: np.ndarray) -> float:
    """The share of scores, shape (1 + P,), that are not below the first."""
    return float((~(scores < scores[0] - TIE)).mean())


def _false_discovery(p: np.ndarray) -> np.ndarray:
    from scipy.stats import false_discovery_control

    q, defined = np.full(len(p), np.nan), ~np.isnan(p)
    if defined.any():
        q[defined] = false_discovery_control(p[defined])
    return q


def _cosine_and_r(
    predicted: np.ndarray, images: EvaluationSet, units: Units, sources: np.ndarray, defined: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores for each permutation, as sums of products over units.

    A block of dimensions at a time bounds the memory.

    Args:
        predicted: Shape (N, D).
        images: The images.
        units: Their units.
        sources: Permutations of the units, shape (1 + P, U); the first keeps the targets.
        defined: Whether r is defined, for each dimension, shape (D,).

    Returns:
        The mean centred cosine and the mean r, shape (1 + P,) each, and the p-value of each dimension's r, (D,).
    """
    sizes = np.bincount(units.of_image)
    order, starts = np.argsort(units.of_image, kind="stable"), np.cumsum(sizes) - sizes
    scales, of_targets = _inverse_lengths(predicted, images.centre), _inverse_lengths(images.targets, images.centre)
    of_targets = of_targets[units.rows]
    cosine, sum_of_r, p = np.zeros(len(sources)), np.zeros(len(sources)), np.full(len(defined), np.nan)
    for block in _blocks(len(defined)):
        x = np.subtract(predicted[:, block], images.centre[block], dtype=np.float64)
        y = np.subtract(images.targets[units.rows, block], images.centre[block], dtype=np.float64)
        directions = np.add.reduceat((x * scales[:, None])[order], starts)
        for number, source in enumerate(sources):
            cosine[number] += np.einsum("ud,ud->u", directions, y[source]) @ of_targets[source]
        x, y = x[:, defined[block]], y[:, defined[block]] - y[:, defined[block]].mean(axis=0)
        deviations = np.add.reduceat(((x - x.mean(axis=0)) / x.std(axis=0))[order], starts)
        r = np.stack([_correlations(deviations, y[source], sizes) for source in sources])
        sum_of_r += r.sum(axis=1)
        p[block][defined[block]] = (~(r < r[0] - TIE)).mean(axis=0)
    return cosine / len(predicted), sum_of_r / max(defined.sum(), 1), p


def _blocks(dim: int) -> list[slice]:
    return [slice(start, start + DIMENSIONS) for start in range(0, dim, DIMENSIONS)]


def _inverse_lengths(vectors: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """1 / the length of each vector minus the centre, shape (N,); 0 for zero vectors."""
    squares = np.zeros(len(vectors))
    for block in _blocks(len(centre)):
        squares += np.square(np.subtract(vectors[:, block], centre[block], dtype=np.float64)).sum(axis=1)
    lengths: np.ndarray = np.divide(1, np.sqrt(squares), out=np.zeros(len(squares)), where=squares > 0)
    return lengths


def _correlations(deviations: np.ndarray, targets: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Pearson's r of each dimension, from the sums of z-scored predictions over units and the units' targets."""
    images = sizes.sum()
    variance = sizes @ np.square(targets) / images - np.square(sizes @ targets / images)
    r: np.ndarray = np.einsum("ud,ud->d", deviations, targets) / (images * np.sqrt(variance))
    return r


def _identification(predicted: np.ndarray, images: EvaluationSet, units: Units, sources: np.ndarray) -> np.ndarray:
    """Mean identification accuracy (`dimensions.identification`) for each permutation, shape (1 + P,)."""
    _, first, target = np.unique(units.target, return_index=True, return_inverse=True)
    different, own = images.targets[units.rows[first]], target[sources]  # (K, D) and (1 + P, U)
    weights = np.stack([np.bincount(row, np.bincount(units.of_image), len(different)) for row in own])
    # Most permutations keep the number of images of each target; those share the sums over targets.
    weights, group = np.unique(weights, axis=0, return_inverse=True)
    members = [np.flatnonzero(group.ravel() == number) for number in range(len(weights))]
    accuracy = np.zeros(len(sources))
    step = max(1, VALUES // len(different))
    for start in range(0, len(predicted), step):
        rows = np.arange(start, min(start + step, len(predicted)))
        order, below, up_to = _ranks(_pattern_correlations(predicted[rows], different, images))
        for weight, numbers in zip(weights, members, strict=True):
            sums = np.pad(np.cumsum(weight[order], axis=1), [(0, 0), (1, 0)])
            targets = own[numbers][:, units.of_image[rows]]
            at = np.arange(len(rows))
            lower, upper = sums[at, below[at, targets]], sums[at, up_to[at, targets]]
            alternatives = len(predicted) - weight[targets]
            undefined = np.full(targets.shape, np.nan)
            right = (lower + upper - weight[targets]) / 2  # ties count half, without the tie with the own target
            accuracy[numbers] += np.divide(right, alternatives, out=undefined, where=alternatives > 0).sum(axis=1)
    return accuracy / len(predicted)


def _pattern_correlations(predicted: np.ndarray, targets: np.ndarray, images: EvaluationSet) -> np.ndarray:
    """The correlation of each z-scored prediction, (M, D), with each z-scored target, (K, D): (M, K); 0 if constant.

    It is summed over blocks of dimensions, which bounds the memory.
    """
    products = np.zeros((len(predicted), len(targets)))
    sums = [np.zeros((2, len(vectors))) for vectors in (predicted, targets)]  # of the values, and of their squares
    for block in _blocks(predicted.shape[1]):
        moments = images.centre[block], images.deviation[block]
        z = [dimensions.z_scores(vectors[:, block], *moments) for vectors in (predicted, targets)]
        products += z[0] @ z[1].T
        for total, values in zip(sums, z, strict=True):
            total += values.sum(axis=1), np.square(values).sum(axis=1)
    dim = max(int((images.deviation > 0).sum()), 1)
    scales = [_inverse_root(squares - total**2 / dim, squares) for total, squares in sums]
    correlations: np.ndarray = (products - np.outer(sums[0][0], sums[1][0]) / dim) * np.outer(*scales)
    return correlations


def _inverse_root(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """1 / sqrt(values), 0 for values that are rounding errors of the scale."""
    positive = values > TIE * scale
    root: np.ndarray = np.divide(1, np.sqrt(np.maximum(values, 0)), out=np.zeros(len(values)), where=positive)
    return root


def _ranks(similarities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order of each row's values, and for each value the numbers of values below it, and not above it: (M, K)."""
    order = np.argsort(similarities, axis=1)
    ordered = np.take_along_axis(similarities, order, axis=1)
    below, up_to = np.empty_like(order), np.empty_like(order)
    for row, (values, increasing) in enumerate(zip(similarities, ordered, strict=True)):
        below[row] = increasing.searchsorted(values - TIE, "left")
        up_to[row] = increasing.searchsorted(values + TIE, "right")
    return order, below, up_to


def sentence(board: Scoreboard, permutations: Permutations) -> str:
    """What the tests of the best model show, or why there are none."""
    test = board.models[board.best_model].scores.permutation_test
    if permutations.too_few or test is None:
        return permutations.too_few or ""
    p = {"the centred cosine": test.centred_cosine, "identification": test.identification, "the mean r": test.pearson}
    if board.target_dim == 1:
        p = {"r": test.pearson}
    scores = ", ".join(f"p = {_p(value)} for {name}" for name, value in p.items() if value is not None)
    above = (
        f"; {test.significant_dimensions} of {counted(test.tested_dimensions, 'dimension')} have an r above chance "
        "(false discovery rate 5 %)"
    )
    return (
        f"Permutation test of {board.best_model}, with {permutations.count:,} permutations of the targets among "
        f"{counted(permutations.clusters, permutations.kind)}: {scores}{above if board.target_dim > 1 else ''}."
    )


def section(board: Scoreboard, permutations: Permutations) -> Section:
    """The section of the report."""
    paragraphs = [sentence(board, permutations)]
    rows = {title: board.models[name].scores.permutation_test for name, title in board.titles.items()}
    rows |= {f"{name} baseline": scores.permutation_test for name, scores in board.baselines.items()}
    tables = []
    if not permutations.too_few:
        kind = permutations.kind
        how = f"Targets differ within {kind}s: {kind}s with the same number of images exchanged all of theirs."
        paragraphs.append(
            "The predictions are kept. p is the share of permutations, the observed order among them, that score at "
            "least as high: whether a score is above chance, not how high it is for other images. "
            + (how if permutations.whole else "")
        )
        if board.clusters.trained_on:
            sizes = " If their numbers of images differ much, p for the centred cosine is somewhat too small."
            paragraphs.append(
                f"These {kind}s were also trained on: a decoder that recognizes them predicts every dimension above "
                f"chance, even one that does not depend on the features.{'' if permutations.whole else sizes}"
            )
        header = ("model", "p: centred cosine", "identification", "mean r", "dimensions above chance")
        tables = [Table("Permutation tests", header, [_row(title, test) for title, test in rows.items() if test])]
    return Section("permutations", "Permutation tests", paragraphs, tables=tables)


def _row(title: str, test: PermutationTest) -> list[str]:
    above = f"{test.significant_dimensions} of {test.tested_dimensions}"
    return [title, _p(test.centred_cosine), _p(test.identification), _p(test.pearson), above]


def _p(p: float | None) -> str:
    return "-" if p is None else f"{p:.2g}"
