"""Metrics: what a cosine similarity to the target is worth, in numbers.

A mean cosine says little by itself. Beside it stand its interval; the same with the mean target subtracted from both
sides, for targets that all point one way; the share of the way from the mean baseline to the output ceiling; the
squared error; the rank of the right target among all; and the labels and images where it goes wrong.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.core.vectors import cosines
from pipeline.evaluation.retrieval import Candidates, RetrievalResult, RetrievalSummary, retrieve

RESAMPLES = 2000
RESAMPLED_AT_ONCE = 2**22  # values
CONFUSIONS = 3  # that are named for a label
NAMED = 10  # worst and best images that are named

Interval = tuple[float, float]


@dataclass(frozen=True)
class EvaluationSet:
    """The images that predictions are scored on.

    Attributes:
        paths: The images' names, N of them.
        labels: Their labels, "" where they have none.
        targets: Their target embeddings, shape (N, D).
        candidates: The vectors among which predictions are looked up; all targets are among them.
        centre: The mean target, of the training images where they are known, shape (D,).
        seen: Whether each image's target was one of a training image, shape (N,), bool; None if that is not known.
    """

    paths: Sequence[str]
    labels: Sequence[str]
    targets: np.ndarray
    candidates: Candidates
    centre: np.ndarray
    seen: np.ndarray | None = None


@dataclass(frozen=True)
class CosineSummary:
    """Cosines over several images; `ci95` is the 95 % interval of the mean, None for a single image."""

    mean: float
    median: float
    p05: float
    p95: float
    ci95: Interval | None


@dataclass(frozen=True)
class Scores:
    """The numbers of one model or baseline.

    Attributes:
        cosine: To the target.
        centred_cosine: The same, with the mean target subtracted from both sides.
        progress: From the mean baseline at 0 to the output ceiling at 1; None where they are equal or unknown.
        mse: The mean squared error.
        retrieval: The rank of the right target.
        zero_vectors: How many predictions are zero and have no direction.
        retrieval_of_seen: The same for images whose target training saw, where others are held out.
        retrieval_of_unseen: The same for images whose target training never saw.
    """

    cosine: CosineSummary
    centred_cosine: CosineSummary
    progress: float | None
    mse: float
    retrieval: RetrievalSummary
    zero_vectors: int
    retrieval_of_seen: RetrievalSummary | None = None
    retrieval_of_unseen: RetrievalSummary | None = None


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


@dataclass(frozen=True)
class Difference:
    """The mean difference of cosines on the same images, `of` minus `minus`, with its 95 % interval."""

    of: str
    minus: str
    mean: float
    ci95: Interval | None

    @property
    def is_positive(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.ci95 is not None and self.ci95[0] > 0

    @property
    def is_negative(self) -> bool:
        """Whether the whole interval is below zero."""
        return self.ci95 is not None and self.ci95[1] < 0


@dataclass(frozen=True)
class Confusion:
    """How many images of a label have another label's target nearest."""

    label: str
    images: int


@dataclass(frozen=True)
class LabelScores:
    """A model's scores on the images of one label."""

    label: str
    images: int
    cosine: float
    top1: float
    confused_with: Sequence[Confusion]


@dataclass(frozen=True)
class ImageScores:
    """A model's scores on one image: its row and path, its label, the rank of its target, and the nearest names."""

    row: int
    path: str
    label: str
    cosine: float
    rank: float
    nearest: Sequence[str]


@dataclass(frozen=True)
class ModelScores:
    """The numbers of a model in detail: by label, and its worst and best images."""

    scores: Scores
    ceiling: float
    labels: Sequence[LabelScores]
    worst: Sequence[ImageScores]
    best: Sequence[ImageScores]

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with the scores at the top level."""
        details = asdict(self)
        return {**details.pop("scores"), **details}


@dataclass(frozen=True)
class EvaluationResult:
    """The result of an evaluation.

    Attributes:
        models: Name -> scores.
        baselines: Name -> scores.
        differences: Of every two models, and of each model from each baseline.
        ceiling: The highest output ceiling of the models.
        images: How many images were evaluated.
        candidates: How many different targets predictions were looked up among.
        zero_targets: How many targets are zero vectors.
        conclusions: What the numbers mean, in sentences.
        report: The report's file, or None.
    """

    models: Mapping[str, ModelScores]
    baselines: Mapping[str, Scores]
    differences: Sequence[Difference]
    ceiling: float
    images: int
    candidates: int
    zero_targets: int
    conclusions: Sequence[str] = ()
    report: str | None = None

    @property
    def best_model(self) -> str:
        """The name of the model with the highest mean cosine."""
        return max(self.models, key=lambda name: self.models[name].scores.cosine.mean)

    def difference(self, of: str, minus: str) -> Difference | None:
        """The difference of two by name, if it was computed."""
        return next((each for each in self.differences if (each.of, each.minus) == (of, minus)), None)

    def to_json(self) -> dict[str, Any]:
        """The `evaluate` document of the contract."""
        return {**asdict(self), "models": {name: model.to_json() for name, model in self.models.items()}}


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> Interval | None:
    """The percentile bootstrap's 95 % interval of a mean (Efron 1979, by SciPy).

    Args:
        values: Shape (N,).
        seed: Random seed.

    Returns:
        The lower and the upper end; None for fewer than two values.
    """
    if len(values) < 2:
        return None
    from scipy.stats import bootstrap

    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
        batch=max(1, RESAMPLED_AT_ONCE // len(values)),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def summarize_cosines(values: np.ndarray) -> CosineSummary:
    """Summarize cosines, shape (N,)."""
    p05, median, p95 = np.percentile(values, [5, 50, 95])
    return CosineSummary(float(values.mean()), float(median), float(p05), float(p95), bootstrap_interval(values))


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
    return {name: _scored(predicted, images, ceilings.get(name, 1.0), base) for name, predicted in predictions.items()}


def _scored(predicted: np.ndarray, images: EvaluationSet, ceiling: float, base: float | None) -> ScoredPredictions:
    values = cosines(predicted, images.targets)
    found = retrieve(predicted, images.targets, images.candidates)
    seen = images.seen if images.seen is not None and not images.seen.all() else None
    scores = Scores(
        cosine=summarize_cosines(values),
        centred_cosine=summarize_cosines(cosines(predicted - images.centre, images.targets - images.centre)),
        progress=_progress(float(values.mean()), base, ceiling),
        mse=float(np.square(np.subtract(predicted, images.targets, dtype=np.float64)).mean()),
        retrieval=found.summary(),
        zero_vectors=int((~predicted.any(axis=1)).sum()),
        retrieval_of_seen=found.summary(seen) if seen is not None and seen.any() else None,
        retrieval_of_unseen=found.summary(~seen) if seen is not None else None,
    )
    return ScoredPredictions(predicted, values, found, ceiling, scores)


def _progress(mean: float, base: float | None, ceiling: float) -> float | None:
    if base is None or ceiling - base < 1e-9:
        return None
    return (mean - base) / (ceiling - base)


def differences(scored: Mapping[str, ScoredPredictions], models: Sequence[str]) -> list[Difference]:
    """Paired differences of cosines on the same images: of every two models, and of each model from each baseline.

    Args:
        scored: All scored predictions by name.
        models: Which of them are models; the others are baselines.

    Returns:
        The differences.
    """
    pairs = [(first, second) for number, first in enumerate(models) for second in models[number + 1 :]]
    pairs += [(model, baseline) for model in models for baseline in scored if baseline not in models]
    found = []
    for of, minus in pairs:
        values = scored[of].cosines - scored[minus].cosines
        found.append(Difference(of, minus, float(values.mean()), bootstrap_interval(values)))
    return found


def score_model(scored: ScoredPredictions, images: EvaluationSet) -> ModelScores:
    """A model's scores in detail."""
    order = np.argsort(scored.cosines, kind="stable")
    return ModelScores(
        scores=scored.scores,
        ceiling=scored.ceiling,
        labels=_score_labels(scored, images),
        worst=[_score_image(scored, images, int(row)) for row in order[:NAMED]],
        best=[_score_image(scored, images, int(row)) for row in order[::-1][:NAMED]],
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
