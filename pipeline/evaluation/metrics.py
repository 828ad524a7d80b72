"""Metrics that show what a cosine similarity to the target is worth.

A mean cosine says little by itself. It comes with its intervals; the same cosine with the mean target subtracted from
both sides, for targets that all point one way; the progress from the mean baseline to the output ceiling and to the
noise ceiling; the squared error; the rank of the right target among all targets; correlations of dimensions and
patterns; and the labels and images that are predicted worst.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.core.nearest import Ranking, Similarities
from pipeline.core.vectors import cosines, slices
from pipeline.evaluation import dimensions
from pipeline.evaluation.correlation_intervals import correlation_intervals, fold_interval, mean_over_dimensions
from pipeline.evaluation.dimensions import DimensionScores
from pipeline.evaluation.hubs import csls_ranking, largest_hub
from pipeline.evaluation.imagenet import is_imagenet_class
from pipeline.evaluation.intervals import (
    Interval,
    both,
    fold_means,
    over_folds,
    share_across,
    share_within,
)
from pipeline.evaluation.noise_ceiling import CosineCeiling, noise_corrected
from pipeline.evaluation.results import (
    Bounds,
    CosineSummary,
    PatternScores,
    Scores,
)
from pipeline.evaluation.retrieval import (
    Candidates,
    RetrievalSummary,
    rank_targets,
    retrieve,
    similarities,
    summarize_ranks,
)
from pipeline.evaluation.zero_shot import ZeroShot, zero_shot

LARGEST_COSINE = 1.0
CSLS_CANDIDATES = 50_000  # at most, because CSLS compares all predictions with all candidates


@dataclass(frozen=True)
class NoiseCeiling:
    """The scores of a perfect prediction on noisy targets.

    Attributes:
        cosine: The noise ceiling of the mean cosine, or None.
        reliability: The reliability of each dimension, shape (D,); NaN where it is not shown to be above 0.
    """

    cosine: CosineCeiling | None
    reliability: np.ndarray


@dataclass(frozen=True)
class EvaluationSet:
    """The images that predictions are scored on.

    Attributes:
        paths: The name of each image, length N.
        labels: The label of each image, "" for none.
        targets: The target embeddings, shape (N, D).
        candidates: The vectors that predictions are compared with; they include all targets.
        centre: The mean target, of the training images if known, shape (D,); with folds, one per fold, shape (K, D).
        deviation: The standard deviation of each dimension of those targets, shape (D,) or (K, D).
        clusters: The cluster of each image, such as its label or group; intervals generalize over clusters.
        seen: For each image, whether the decoders were trained on its label, shape (N,), bool; None if unknown, or
            meaningless because no two images share a label.
        noise: The noise ceiling; None without repeated targets.
        imagenet_weights: Whether the features come from weights that were trained on ImageNet.
        folds: The fold in which each image was held out, shape (N,), int; None without cross-validation.
    """

    paths: Sequence[str]
    labels: Sequence[str]
    targets: np.ndarray
    candidates: Candidates
    centre: np.ndarray
    deviation: np.ndarray
    clusters: Sequence[str]
    seen: np.ndarray | None = None
    noise: NoiseCeiling | None = None
    imagenet_weights: bool = False
    folds: np.ndarray | None = None

    @property
    def centres(self) -> np.ndarray:
        """The centre of each image, shape (D,) or (N, D)."""
        return self.centre if self.folds is None else self.centre[self.folds]

    def intervals(self, values: np.ndarray, largest: float) -> tuple[Bounds | None, Bounds | None]:
        """The 95 % intervals of a mean: over clusters or folds, and for new images of the same labels.

        Args:
            values: A value for each image, shape (N,).
            largest: The largest possible absolute mean.
        """
        if self.folds is not None:
            means = fold_means(values, self.folds)
            return _bounds(over_folds(means, len(means), len(values)), largest), None
        return both(values, self.clusters, largest)

    def share_intervals(self, values: np.ndarray, influences: np.ndarray) -> tuple[Bounds | None, Bounds | None]:
        """The 95 % intervals of a share, such as hits: over clusters or folds, and for new images of the same labels.

        Args:
            values: A value from 0 to 1 for each image, shape (N,).
            influences: The influence of each image on the mean of the values, shape (N,); the values themselves if they
                are independent.
        """
        if self.folds is not None:
            means = fold_means(values, self.folds)
            interval = over_folds(means, len(means), len(values)) if np.ptp(means) else None
            return _bounds(interval, 1.0, 0.0), None
        over_clusters, same_labels = (share(influences, self.clusters) for share in (share_across, share_within))
        return _bounds(over_clusters, 1.0, 0.0), _bounds(same_labels, 1.0, 0.0)

    def correlation_intervals(self, r: np.ndarray, predictions: np.ndarray) -> tuple[Bounds | None, Bounds | None]:
        """The 95 % intervals of the mean over dimensions of Pearson's r, for the same questions.

        Args:
            r: Pearson's r of each dimension, shape (D,); NaN where undefined.
            predictions: Shape (N, D).
        """
        if self.folds is not None:
            return _bounds(fold_interval(predictions, self.targets, self.folds), LARGEST_COSINE), None
        intervals = correlation_intervals(r, predictions, self.targets, self.clusters)
        over_clusters, same_labels = (_bounds(interval, LARGEST_COSINE) for interval in intervals)
        return over_clusters, same_labels

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The rows of images that share a centre, with their centre and deviation, shape (D,) each."""
        if self.folds is None:
            yield np.arange(len(self.paths)), self.centre, self.deviation
            return
        for fold, (centre, deviation) in enumerate(zip(self.centre, self.deviation, strict=True)):
            yield np.flatnonzero(self.folds == fold), centre, deviation


@dataclass(frozen=True)
class DimensionTests:
    """The permutation tests of each dimension's r.

    Attributes:
        p: p-values, shape (D,); NaN where r is undefined.
        q: The same, adjusted for the false discovery rate.
    """

    p: np.ndarray
    q: np.ndarray


@dataclass(frozen=True)
class PatternValues:
    """The values that `PatternScores` summarizes.

    Attributes:
        dimensions: Pearson's r and R² of each dimension.
        pattern: The pattern correlation of each image, shape (N,); NaN where undefined.
        identification: The identification accuracy of each image, shape (N,); NaN if all images have the same target.
        influence: The influence of each image on the mean identification accuracy, shape (N,); with folds, its fold
            counts as all images.
        identification_bdpy: The identification accuracy of each image by bdpy's definition, shape (N,).
        pearson_of_ceiling: Pearson's r of each dimension divided by its noise ceiling, shape (D,); NaN where undefined;
            None without repeated targets.
    """

    dimensions: DimensionScores
    pattern: np.ndarray
    identification: np.ndarray
    influence: np.ndarray
    identification_bdpy: np.ndarray
    pearson_of_ceiling: np.ndarray | None


@dataclass(frozen=True)
class ScoredPredictions:
    """Predictions for all images of an evaluation set, with their scores.

    Attributes:
        predictions: Shape (N, D).
        cosines: Cosines to the targets, shape (N,).
        centred_cosines: The same with the mean target subtracted from both sides, shape (N,).
        patterns: The values of each dimension and each image's pattern.
        retrieval: The ranks of the targets, and the nearest candidates.
        ceiling: The output ceiling: the highest mean cosine that the output can reach.
        scores: The scores.
        dimension_tests: The permutation tests of each dimension, or None.
    """

    predictions: np.ndarray
    cosines: np.ndarray
    centred_cosines: np.ndarray
    patterns: PatternValues
    retrieval: Ranking
    ceiling: float
    scores: Scores
    dimension_tests: DimensionTests | None = None


def score_predictions(
    predictions: Mapping[str, np.ndarray], images: EvaluationSet, ceilings: Mapping[str, float]
) -> dict[str, ScoredPredictions]:
    """Score several predictions of the same images.

    Args:
        predictions: Name -> predicted embeddings, shape (N, D). Progress starts from "mean".
        images: The images with their targets.
        ceilings: Name -> output ceiling; 1 for names that are missing.

    Returns:
        Name -> scored predictions.
    """
    mean = float(cosines(predictions["mean"], images.targets).mean()) if "mean" in predictions else None
    return {name: _score(predicted, images, ceilings.get(name, 1.0), mean) for name, predicted in predictions.items()}


def _score(predicted: np.ndarray, images: EvaluationSet, ceiling: float, baseline: float | None) -> ScoredPredictions:
    values = cosines(predicted, images.targets)
    centred = cosines(predicted - images.centres, images.targets - images.centres)
    patterns = _pattern_values(predicted, images)
    compared = similarities(predicted, images.candidates)
    retrieval = rank_targets(compared, values)
    own = images.candidates.numbers(images.targets)
    seen = images.seen if images.seen is not None and not images.seen.all() else None
    mean = float(values.mean())
    scores = Scores(
        cosine=summarize_cosines(values, images),
        centred_cosine=summarize_cosines(centred, images),
        progress=_progress(mean, baseline, ceiling),
        progress_to_noise_ceiling=_progress(mean, baseline, _noise_ceiling(images)),
        mse=_squares_about(images.targets, predicted) / predicted.size,
        retrieval=_summarize_retrieval(retrieval, images),
        retrieval_csls=_csls(compared, own, values),
        retrieval_of_seen=_summary_of(retrieval, seen),
        retrieval_of_unseen=_summary_of(retrieval, None if seen is None else ~seen),
        retrieval_of_imagenet=_summary_of(retrieval, _seen_by_vgg16(images)),
        zero_shot=None if seen is None else _zero_shot(predicted, retrieval, images, seen),
        hub=largest_hub(retrieval.nearest[:, 0], own, images.candidates.names),
        patterns=_summarize_patterns(patterns, predicted, images),
        zero_vectors=int((~predicted.any(axis=1)).sum()),
    )
    return ScoredPredictions(predicted, values, centred, patterns, retrieval, ceiling, scores)


def _noise_ceiling(images: EvaluationSet) -> float | None:
    return images.noise.cosine.cosine if images.noise and images.noise.cosine else None


def summarize_cosines(values: np.ndarray, images: EvaluationSet) -> CosineSummary:
    """Summarize the cosines of all images, shape (N,)."""
    p05, median, p95 = np.percentile(values, [5, 50, 95])
    ci95, ci95_same_labels = images.intervals(values, LARGEST_COSINE)
    return CosineSummary(
        mean=float(values.mean()),
        median=float(median),
        p05=float(p05),
        p95=float(p95),
        ci95=ci95,
        ci95_same_labels=ci95_same_labels,
    )


def _bounds(interval: Interval | None, largest: float, smallest: float | None = None) -> Bounds | None:
    return interval.bounds(largest, smallest) if interval else None


def _progress(mean: float, baseline: float | None, ceiling: float | None) -> float | None:
    if baseline is None or ceiling is None or ceiling - baseline < 1e-9:
        return None
    return (mean - baseline) / (ceiling - baseline)


def _csls(compared: Similarities, own: np.ndarray, to_own: np.ndarray) -> RetrievalSummary | None:
    if not 1 < compared.count <= CSLS_CANDIDATES:
        return None
    return summarize_ranks(csls_ranking(compared, own, to_own).ranks)


def _summary_of(retrieval: Ranking, rows: np.ndarray | None) -> RetrievalSummary | None:
    return summarize_ranks(retrieval.ranks[rows]) if rows is not None and rows.any() else None


def _summarize_retrieval(retrieval: Ranking, images: EvaluationSet) -> RetrievalSummary:
    ci95, ci95_same_labels = images.share_intervals(retrieval.hits, retrieval.hits)
    summary = summarize_ranks(retrieval.ranks)
    return replace(summary, top1_ci95=ci95, top1_ci95_same_labels=ci95_same_labels)


def _seen_by_vgg16(images: EvaluationSet) -> np.ndarray | None:
    """For each image, whether VGG16's weights, but not the decoder, were trained on its label."""
    if images.seen is None or not images.imagenet_weights:
        return None
    return ~images.seen & np.array([is_imagenet_class(label) for label in images.labels], bool)


def _zero_shot(predicted: np.ndarray, retrieval: Ranking, images: EvaluationSet, seen: np.ndarray) -> ZeroShot | None:
    """Zero-shot scores, if each label has one target and the candidates include labels from training."""
    unseen = images.candidates.subset(images.targets[~seen])
    targets = images.candidates.numbers(images.targets)
    if len(set(zip(images.labels, targets.tolist(), strict=True))) > len(set(images.labels)):
        return None
    if len(unseen) == len(images.candidates):
        return None
    among_unseen = retrieve(predicted[~seen], images.targets[~seen], unseen)
    return zero_shot(retrieval.ranks, among_unseen.ranks, images.labels, seen)


def _pattern_values(predicted: np.ndarray, images: EvaluationSet) -> PatternValues:
    by_dimension = dimensions.dimension_scores(predicted, images.targets, images.folds)
    pattern, identification, influence, bdpy = np.empty((4, len(predicted)))
    for rows, *moments in images.parts():
        z_scored = dimensions.ZScored(predicted[rows], *moments)
        targets = dimensions.ZScored(images.targets, *moments)
        pattern[rows] = dimensions.correlations(z_scored, dimensions.ZScored(images.targets[rows], *moments))
        identification[rows], influence[rows], bdpy[rows] = dimensions.identify(z_scored, targets, rows)
    corrected = noise_corrected(by_dimension.pearson, images.noise.reliability) if images.noise else None
    return PatternValues(by_dimension, pattern, identification, influence, bdpy, corrected)


def _summarize_patterns(values: PatternValues, predicted: np.ndarray, images: EvaluationSet) -> PatternScores:
    corrected, identification = values.pearson_of_ceiling, values.identification
    is_defined = not np.isnan(identification).any()
    none = (None, None)
    of_identification = images.share_intervals(identification, values.influence) if is_defined else none
    mean_pearson = mean_over_dimensions(values.dimensions.pearson)
    of_pearson = none if mean_pearson is None else images.correlation_intervals(values.dimensions.pearson, predicted)
    return PatternScores(
        pearson=dimensions.distribution(values.dimensions.pearson),
        r2=dimensions.distribution(values.dimensions.r2),
        pattern=dimensions.distribution(values.pattern),
        identification=float(identification.mean()) if is_defined else None,
        effective_rank=dimensions.effective_rank(predicted),
        spread=_spread(predicted, images),
        pearson_of_ceiling=None if corrected is None else dimensions.distribution(corrected),
        identification_ci95=of_identification[0],
        identification_ci95_same_labels=of_identification[1],
        identification_bdpy=float(values.identification_bdpy.mean()) if len(predicted) > 1 else None,
        mean_pearson=mean_pearson,
        mean_pearson_ci95=of_pearson[0],
        mean_pearson_ci95_same_labels=of_pearson[1],
    )


def _spread(predicted: np.ndarray, images: EvaluationSet) -> float | None:
    """The predictions' distance from their mean, or from their fold's mean target, relative to the targets' spread."""
    targets = _squares_about(images.targets.mean(axis=0, dtype=np.float64), images.targets)
    if not targets:
        return None
    about_mean = _squares_about(predicted.mean(axis=0, dtype=np.float64), predicted)
    about_centre = _squares_about(images.centres, predicted)
    return float(np.sqrt(min(about_mean, about_centre) / targets))


def _squares_about(centres: np.ndarray, vectors: np.ndarray) -> float:
    """The sum of the squared distances of vectors (N, D) from centres, (N, D) or (D,), in float64."""
    blocks = slices(vectors.shape[1], len(vectors))
    return sum(
        float(np.square(np.subtract(vectors[:, block], centres[..., block], dtype=np.float64)).sum())
        for block in blocks
    )
