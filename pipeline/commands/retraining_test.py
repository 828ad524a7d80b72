"""`train --permutations`: ridge regression trained again on permuted targets.

The statistic is the mean held-out centred cosine or, for targets of one dimension, Pearson's r. The training targets
are permuted as in `pipeline.evaluation.exchangeable`; held-out targets stay. With folds every target is both trained on
and held out, so the targets of all images are permuted, and the whole cross-validation is repeated. Each permutation
goes through the whole procedure, the choice of the penalty included, so the test is exact if targets are exchangeable.

Targets are permuted among the clusters that intervals generalize over only if these are held out as a whole, such as
labels by `--split classes`. If the labels of held-out images are also trained on, what features tell about labels is
what training teaches, so targets are permuted among single images. Permuted among labels, with folds, they could be
learned as well as before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.commands.examples import SplitExamples
from pipeline.commands.scoring import clusters_of, natural_cluster
from pipeline.commands.training_options import TrainOptions
from pipeline.core.errors import Parameter, RequestError
from pipeline.core.progress import progress_bar
from pipeline.core.vectors import cosines, vector_digest
from pipeline.data.splits import Split, assign_folds, fold_images
from pipeline.decoders.baselines import FOLDS
from pipeline.decoders.hidden_layer import FLAT
from pipeline.decoders.ridge_refits import RidgeRefits, refits_memory
from pipeline.evaluation.dimensions import dimension_scores
from pipeline.evaluation.exchangeable import Units
from pipeline.evaluation.permutation_tests import too_few
from pipeline.evaluation.results import Permutations
from pipeline.evaluation.retraining import RetrainingTest

DIMENSIONS = 1024  # of targets, at a time


@dataclass(frozen=True)
class _Side:
    """Ridge regression on the training images of a split.

    Attributes:
        split: The rows of its training and held-out images.
        refits: The regression for any targets.
    """

    split: Split
    refits: RidgeRefits

    def deviations(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Held-out predictions and targets, minus the mean training target, shape (M, D) each.

        Args:
            targets: The targets of all images, shape (N, D).
        """
        trained = targets[self.split.train]
        return self.refits.deviations(trained), targets[self.split.validation] - trained.mean(axis=0)


def check_memory(examples: SplitExamples, options: TrainOptions) -> None:
    """Check that the refits fit into the memory budget, before any training.

    Raises:
        RequestError: They do not.
    """
    if not options.permutations:
        return
    images = len(examples.all.targets)
    needed = refits_memory(images, examples.all.features.dim) * (options.folds.folds if options.folds else 1)
    if needed > options.memory:
        raise RequestError(
            Parameter("permutations", options.permutations),
            f" fits ridge regression to the features of {images:,} images in memory, which takes about "
            f"{needed / 1e9:.1f} GB, more than the memory budget of {options.memory / 1e9:.1f} GB. Raise ",
            Parameter("memory", "SIZE"),
            ", or leave it out.",
        )


def retraining_test(examples: SplitExamples, options: TrainOptions) -> RetrainingTest | None:
    """Test whether ridge regression learns anything.

    Args:
        examples: The examples and their split.
        options: Permutations, folds, what targets are permuted among, and the random seed.

    Returns:
        The test, with a reason in place of a p-value if there are too few permutations; None if it was not requested.
    """
    count = options.permutations
    if not count:
        return None
    rows = np.arange(len(examples.all.targets)) if options.folds else examples.train
    permuted, splits = examples.all.subset(rows), _splits(examples, options)
    kind = _exchangeable(examples, options.cluster, splits)
    units = Units.of(permuted.targets, clusters_of(permuted, kind))
    how = Permutations(count, kind, units.exchanged, not units.constant, too_few(units, kind))
    score, statistic = (_r, "r") if permuted.targets.shape[1] == 1 else (_centred_cosine, "centred cosine")
    if how.too_few:
        return RetrainingTest(how, statistic)
    sides, targets = _sides(examples, splits, options.examples.seed), _coordinates(examples.all.targets)
    observed, scores = score(sides, targets), []
    with progress_bar(count, "permutation", "retraining", options.extraction.progress) as bar:
        for source in units.permutations(count, options.examples.seed):
            moved = targets.copy()
            moved[rows] = targets[rows][units.rows[source][units.of_image]]
            scores.append(score(sides, moved))
            bar.update(1)
    return RetrainingTest.of(how, statistic, observed, scores)


def _splits(examples: SplitExamples, options: TrainOptions) -> list[Split]:
    """The split of each fold, or the only one."""
    if not options.folds:
        return [Split(examples.train, examples.split.validation, examples.split.moved)]
    images, seed = examples.all.features.images, options.examples.seed
    return list(fold_images(images, examples.rule, examples.duplicates, options.folds.folds, seed))


def _exchangeable(examples: SplitExamples, cluster: str | None, splits: Sequence[Split]) -> str:
    """What targets are permuted among: "image" if most held-out images belong to clusters that are also trained on."""
    kind = cluster or natural_cluster(examples.all)
    clusters = np.asarray(clusters_of(examples.all, kind))
    trained_on = [np.isin(clusters[split.validation], clusters[split.train]) for split in splits]
    return "image" if np.concatenate(trained_on).mean() > 0.5 else kind


def _sides(examples: SplitExamples, splits: Sequence[Split], seed: int) -> list[_Side]:
    """The regression of each split."""
    features, sides = examples.all.features, []
    for split in splits:
        x, rows = features.scaled_by(split.train).stored(), split.train
        folds = assign_folds(examples.all.targets[rows], examples.units[rows], seed, FOLDS)
        sides.append(_Side(split, RidgeRefits(x.subset(rows), folds, x.subset(split.validation))))
    return sides


def _centred_cosine(sides: Sequence[_Side], targets: np.ndarray) -> float:
    """The mean centred cosine over all held-out images."""
    return float(np.concatenate([cosines(*side.deviations(targets)) for side in sides]).mean())


def _r(sides: Sequence[_Side], targets: np.ndarray) -> float:
    """Pearson's r over the held-out images, within folds; 0 if it is undefined."""
    predicted, true = (
        np.concatenate(parts) for parts in zip(*(side.deviations(targets) for side in sides), strict=True)
    )
    folds = np.repeat(np.arange(len(sides)), [len(side.split.validation) for side in sides])
    return float(np.nan_to_num(dimension_scores(predicted, true, folds).pearson[0]))


def _coordinates(targets: np.ndarray) -> np.ndarray:
    """Targets in an orthonormal basis of the space that they span, which changes no error and no cosine.

    With K different targets and more dimensions, the coordinates follow from the eigendecomposition of the targets'
    K x K matrix of dot products; a block of dimensions at a time bounds the memory.

    Returns:
        Shape (N, R), float64, with R <= min(K, D).
    """
    from scipy.linalg import eigh

    _, first, number = np.unique([vector_digest(target) for target in targets], return_index=True, return_inverse=True)
    different = targets[first]
    mean = different.mean(axis=0, dtype=np.float64)
    if len(different) > len(mean):
        return targets - mean
    dots = np.zeros((len(different), len(different)))
    for start in range(0, len(mean), DIMENSIONS):
        block = slice(start, start + DIMENSIONS)
        centred = different[:, block] - mean[block]
        dots += centred @ centred.T
    values, vectors = eigh(dots)
    kept = values > FLAT**2 * values[-1]
    coordinates: np.ndarray = (vectors[:, kept] * np.sqrt(values[kept]))[number.ravel()]
    return coordinates
