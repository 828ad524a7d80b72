"""Metrics: what a cosine similarity to the target is worth, in numbers.

A mean cosine says little by itself. Beside it stand its intervals; the same with the mean target subtracted from both
sides, for targets that all point one way; the share of the way from the mean baseline to the output ceiling and to the
noise ceiling; the squared error; the rank of the right target among all; correlations of dimensions and patterns; and
the labels and images where it goes wrong.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.vectors import cosines
from pipeline.evaluation import dimensions
from pipeline.evaluation.hubs import csls_ranking, largest_hub
from pipeline.evaluation.imagenet import is_imagenet_class
from pipeline.evaluation.intervals import Interval, across, over_folds, within
from pipeline.evaluation.noise_ceiling import CosineCeiling, noise_corrected
from pipeline.evaluation.results import (
    Bounds,
    Clusters,
    Confusion,
    CosineSummary,
    Difference,
    EvaluationResult,
    ImageScores,
    LabelScores,
    ModelScores,
    PatternScores,
    Scores,
)
from pipeline.evaluation.retrieval import Candidates, RetrievalResult, RetrievalSummary, retrieve, summarize_ranks
from pipeline.evaluation.zero_shot import ZeroShot, zero_shot

LARGEST_COSINE = 1.0
CONFUSIONS = 3  # that are named for a label
NAMED = 10  # worst and best images that are named
CSLS_CANDIDATES = 50_000  # at most; CSLS compares all predictions with all candidates twice


@dataclass(frozen=True)
class NoiseCeiling:
    """What a perfect prediction would score on noisy targets.

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
        paths: The images' names, N of them.
        labels: Their labels, "" where they have none.
        targets: Their target embeddings, shape (N, D).
        candidates: The vectors among which predictions are looked up; all targets are among them.
        centre: The mean target, of the training images where they are known, shape (D,); of each fold's, shape (K, D).
        deviation: The standard deviation of each dimension of those targets, likewise.
        clusters: What images have in common, such as a label or a group, N of them; intervals generalize over them.
        seen: Whether each image's label was one of a training image, shape (N,), bool; None if that is not known, or
            has no meaning because no two images share a label.
        noise: The noise ceiling, where targets were repeated.
        imagenet_weights: Whether the features come from weights that were trained on ImageNet.
        folds: The fold that held each image out, shape (N,), int, where there were several; else None.
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
        """The 95 % intervals of a mean: over clusters, or else over folds, and for new images of the same labels.

        Args:
            values: A value for each image, shape (N,).
            largest: What no mean can exceed.
        """
        if self.folds is not None:
            return _bounds(over_folds(values, self.folds), largest), None
        return _bounds(across(values, self.clusters), largest), _bounds(within(values, self.clusters), largest)

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The rows of images that share a centre, with that centre and deviation, each of shape (D,)."""
        if self.folds is None:
            yield np.arange(len(self.paths)), self.centre, self.deviation
            return
        for fold, (centre, deviation) in enumerate(zip(self.centre, self.deviation, strict=True)):
            yield np.flatnonzero(self.folds == fold), centre, deviation


@dataclass(frozen=True)
class ScoredPredictions:
    """Predictions for all images of an evaluation set, and how good they are.

    Attributes:
        predictions: Shape (N, D).
        cosines: To the targets, shape (N,).
        retrieval: The search for the targets.
        ceiling: The output ceiling: the highest mean cosine that this output can reach.
        scores: The numbers.
    """

    predictions: np.ndarray
    cosines: np.ndarray
    retrieval: RetrievalResult
    ceiling: float
    scores: Scores


def score_predictions(
    predictions: Mapping[str, np.ndarray], images: EvaluationSet, ceilings: Mapping[str, float]
) -> dict[str, ScoredPredictions]:
    """Score several predictions of the same images.

    Args:
        predictions: Name -> predicted embeddings, shape (N, D). Progress is counted from those of "mean".
        images: The images with their targets.
        ceilings: Name -> output ceiling; 1 for names that are missing.

    Returns:
        Name -> scored predictions.
    """
    base = float(cosines(predictions["mean"], images.targets).mean()) if "mean" in predictions else None
    return {name: _score(predicted, images, ceilings.get(name, 1.0), base) for name, predicted in predictions.items()}


def _score(predicted: np.ndarray, images: EvaluationSet, ceiling: float, base: float | None) -> ScoredPredictions:
    values = cosines(predicted, images.targets)
    found = retrieve(predicted, images.targets, images.candidates)
    own = images.candidates.numbers(images.targets)
    seen = images.seen if images.seen is not None and not images.seen.all() else None
    mean = float(values.mean())
    scores = Scores(
        cosine=summarize_cosines(values, images),
        centred_cosine=summarize_cosines(cosines(predicted - images.centres, images.targets - images.centres), images),
        progress=_progress(mean, base, ceiling),
        progress_to_noise_ceiling=_progress(mean, base, _noise_ceiling(images)),
        mse=float(np.square(np.subtract(predicted, images.targets, dtype=np.float64)).mean()),
        retrieval=summarize_ranks(found.ranks),
        retrieval_csls=_csls(predicted, images.candidates, own),
        retrieval_of_seen=_summary_of(found, seen),
        retrieval_of_unseen=_summary_of(found, None if seen is None else ~seen),
        retrieval_of_imagenet=_summary_of(found, _seen_by_vgg16(images)),
        zero_shot=None if seen is None else _zero_shot(predicted, found, images, seen),
        hub=largest_hub(found.nearest[:, 0], own, images.candidates.names),
        patterns=_score_patterns(predicted, images),
        zero_vectors=int((~predicted.any(axis=1)).sum()),
    )
    return ScoredPredictions(predicted, values, found, ceiling, scores)


def _noise_ceiling(images: EvaluationSet) -> float | None:
    return images.noise.cosine.cosine if images.noise and images.noise.cosine else None


def summarize_cosines(values: np.ndarray, images: EvaluationSet) -> CosineSummary:
    """Summarize a cosine for each image, shape (N,)."""
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


def _bounds(interval: Interval | None, largest: float) -> Bounds | None:
    return interval.bounds(largest) if interval else None


def _progress(mean: float, base: float | None, ceiling: float | None) -> float | None:
    if base is None or ceiling is None or ceiling - base < 1e-9:
        return None
    return (mean - base) / (ceiling - base)


def _csls(predicted: np.ndarray, candidates: Candidates, own: np.ndarray) -> RetrievalSummary | None:
    if not 1 < len(candidates) <= CSLS_CANDIDATES:
        return None
    return summarize_ranks(csls_ranking(predicted, candidates.vectors(), own).ranks)


def _summary_of(found: RetrievalResult, rows: np.ndarray | None) -> RetrievalSummary | None:
    return summarize_ranks(found.ranks[rows]) if rows is not None and rows.any() else None


def _seen_by_vgg16(images: EvaluationSet) -> np.ndarray | None:
    """Whether each image has a label that the decoder's training never saw but that of VGG16's weights did."""
    if images.seen is None or not images.imagenet_weights:
        return None
    return ~images.seen & np.array([is_imagenet_class(label) for label in images.labels], bool)


def _zero_shot(
    predicted: np.ndarray, found: RetrievalResult, images: EvaluationSet, seen: np.ndarray
) -> ZeroShot | None:
    """Zero-shot scores, where a label has one target, and labels that training saw are among the candidates."""
    unseen = images.candidates.subset(images.targets[~seen])
    targets = images.candidates.numbers(images.targets)
    if len(set(zip(images.labels, targets.tolist(), strict=True))) > len(set(images.labels)):
        return None
    if len(unseen) == len(images.candidates):
        return None
    among_unseen = retrieve(predicted[~seen], images.targets[~seen], unseen)
    return zero_shot(found.ranks, among_unseen.ranks, images.labels, seen)


def _score_patterns(predicted: np.ndarray, images: EvaluationSet) -> PatternScores:
    by_dimension = dimensions.dimension_scores(predicted, images.targets, images.folds)
    pattern, identification = np.empty((2, len(predicted)))
    for rows, *moments in images.parts():
        z_scored, targets = (dimensions.standardised(each, *moments) for each in (predicted[rows], images.targets))
        pattern[rows] = dimensions.correlations(z_scored, targets[rows])
        identification[rows] = dimensions.identification(z_scored, targets, rows)
    corrected = noise_corrected(by_dimension.pearson, images.noise.reliability) if images.noise else None
    return PatternScores(
        pearson=dimensions.distribution(by_dimension.pearson),
        r2=dimensions.distribution(by_dimension.r2),
        pattern=dimensions.distribution(pattern),
        identification=None if np.isnan(identification).any() else float(identification.mean()),
        effective_rank=dimensions.effective_rank(predicted),
        spread=_spread(predicted, images),
        pearson_of_ceiling=None if corrected is None else dimensions.distribution(corrected),
    )


def _spread(predicted: np.ndarray, images: EvaluationSet) -> float | None:
    """How far predictions are from their mean, or the mean target of their fold, as a share of how far targets are."""
    targets = np.square(images.targets - images.targets.mean(axis=0, dtype=np.float64)).sum()
    if not targets:
        return None
    about_mean = np.square(predicted - predicted.mean(axis=0, dtype=np.float64)).sum()
    about_centre = np.square(predicted - images.centres, dtype=np.float64).sum()
    return float(np.sqrt(min(about_mean, about_centre) / targets))


def _explained(predicted: np.ndarray, images: EvaluationSet) -> np.ndarray:
    """The explained variance of each image, shape (N,): minus its squared error, in units of the training variance."""
    found = np.empty(len(predicted))
    for rows, *moments in images.parts():
        z_scored, targets = (dimensions.standardised(each[rows], *moments) for each in (predicted, images.targets))
        found[rows] = -np.square(z_scored - targets).sum(axis=1) / max(z_scored.shape[1], 1)
    return found


def evaluation_result(
    scored: Mapping[str, ScoredPredictions], models: Sequence[str], images: EvaluationSet, clusters: Clusters
) -> EvaluationResult:
    """The result of an evaluation, before its conclusions.

    Args:
        scored: All scored predictions by name.
        models: Which of them are models; the others are baselines.
        images: The images.
        clusters: What `images.clusters` are.
    """
    noise = images.noise.cosine if images.noise else None
    return EvaluationResult(
        models={name: score_model(scored[name], images) for name in models},
        baselines={name: each.scores for name, each in scored.items() if name not in models},
        differences=differences(scored, models, images),
        ceiling=max(scored[name].ceiling for name in models),
        noise_ceiling=noise.cosine if noise else None,
        noise_ceiling_ci95=(noise.low, noise.high) if noise else None,
        images=len(images.paths),
        clusters=clusters,
        candidates=len(images.candidates),
        target_dim=images.targets.shape[1],
        large_dimensions=dimensions.large_dimensions(images.targets),
        target_rank=dimensions.effective_rank(images.targets),
        zero_targets=int((~images.targets.any(axis=1)).sum()),
    )


def differences(
    scored: Mapping[str, ScoredPredictions], models: Sequence[str], images: EvaluationSet
) -> list[Difference]:
    """Paired differences of cosines on the same images: of every two models, and of each model from each baseline.

    Args:
        scored: All scored predictions by name.
        models: Which of them are models; the others are baselines.
        images: The images.

    Returns:
        The differences.
    """
    pairs = [(first, second) for number, first in enumerate(models) for second in models[number + 1 :]]
    pairs += [(model, baseline) for model in models for baseline in scored if baseline not in models]
    explained = {name: _explained(each.predictions, images) for name, each in scored.items()}
    return [_difference(of, minus, scored, explained, images) for of, minus in pairs]


def _difference(
    of: str,
    minus: str,
    scored: Mapping[str, ScoredPredictions],
    explained: Mapping[str, np.ndarray],
    images: EvaluationSet,
) -> Difference:
    values, r2 = scored[of].cosines - scored[minus].cosines, explained[of] - explained[minus]
    ci95, ci95_same_labels = images.intervals(values, 2 * LARGEST_COSINE)
    r2_ci95, r2_ci95_same_labels = images.intervals(r2, math.inf)
    return Difference(
        of=of,
        minus=minus,
        mean=float(values.mean()),
        ci95=ci95,
        ci95_same_labels=ci95_same_labels,
        r2=float(r2.mean()),
        r2_ci95=r2_ci95 or r2_ci95_same_labels,
        is_zero=not values.any(),
    )


def score_model(scored: ScoredPredictions, images: EvaluationSet) -> ModelScores:
    """A model's scores in detail."""
    order = np.argsort(scored.cosines, kind="stable").tolist()
    return ModelScores(
        scores=scored.scores,
        ceiling=scored.ceiling,
        labels=_score_labels(scored, images),
        worst=[_score_image(scored, images, row) for row in order[:NAMED]],
        best=[_score_image(scored, images, row) for row in order[::-1][:NAMED]],
    )


def _score_labels(scored: ScoredPredictions, images: EvaluationSet) -> list[LabelScores]:
    """The scores on each label; a confusion names the candidate that was nearest in place of the right one."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, label in enumerate(images.labels):
        rows[label].append(row)
    nearest = [images.candidates.names[number] for number in scored.retrieval.nearest[:, 0]]
    hits = scored.retrieval.hits
    found = []
    for label in sorted(rows):
        some = rows[label]
        wrong = Counter(nearest[row] for row in some if not hits[row] and nearest[row] != label)
        found.append(
            LabelScores(
                label=label,
                images=len(some),
                cosine=float(scored.cosines[some].mean()),
                top1=float(hits[some].mean()),
                confused_with=[Confusion(name, count) for name, count in wrong.most_common(CONFUSIONS)],
            )
        )
    return found


def _score_image(scored: ScoredPredictions, images: EvaluationSet, row: int) -> ImageScores:
    return ImageScores(
        row=row,
        path=images.paths[row],
        label=images.labels[row],
        cosine=float(scored.cosines[row]),
        rank=float(scored.retrieval.ranks[row]),
        nearest=[images.candidates.names[number] for number in scored.retrieval.nearest[row]],
    )
