"""The typed results of an evaluation, from a single interval to the whole document."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.core.wording import joined
from pipeline.evaluation.dimensions import Distribution
from pipeline.evaluation.hubs import Hub
from pipeline.evaluation.retrieval import RetrievalSummary
from pipeline.evaluation.zero_shot import ZeroShot

Bounds = tuple[float, float]

CONSTANT = 0.01  # of the targets' spread; predictions with less spread count as constant
NEGLIGIBLE = 0.01  # a difference in cosine that nobody would notice
FEW_DIMENSIONS = 10  # the cosine leads if 90 % of the squared length takes more than one dimension in ten


@dataclass(frozen=True)
class CosineSummary:
    """Cosines over several images.

    Attributes:
        mean: Their mean.
        median: Their median.
        p05: Their 5th percentile.
        p95: Their 95th percentile.
        ci95: The 95 % interval of the mean over clusters (`pipeline.evaluation.intervals.across`) or, under
            cross-validation, over folds (`over_folds`), or None; `Clusters.question` says what it is for.
        ci95_same_labels: The 95 % interval for new images of the same labels (`within`), or None.
    """

    mean: float
    median: float
    p05: float
    p95: float
    ci95: Bounds | None
    ci95_same_labels: Bounds | None


@dataclass(frozen=True)
class PatternScores:
    """Scores of dimensions and of patterns.

    Attributes:
        pearson: Pearson's r of each dimension over images; under cross-validation within folds, averaged over them.
        r2: The coefficient of determination of each dimension over images.
        pattern: The correlation of each image's z-scored prediction and target over dimensions.
        identification: Mean pairwise identification accuracy over images (chance 0.5); None for a single target.
        effective_rank: The effective rank of the predictions; None if they are all equal.
        spread: The predictions' distance from their mean, or from their fold's mean target, relative to the targets'
            spread; None if all targets are equal.
        pearson_of_ceiling: Pearson's r divided by its noise ceiling; None without repeated targets.
        identification_ci95: The 95 % interval of identification for the question of `CosineSummary.ci95`, or None.
        identification_ci95_same_labels: The same for new images of the same labels, or None.
        identification_bdpy: Mean pairwise identification accuracy of the same z-scored patterns by bdpy's definition,
            where ties and other images with the same target are wrong; None for a single image.
        mean_pearson: The mean over dimensions of Pearson's r; None if no r is defined.
        mean_pearson_ci95: Its 95 % interval over clusters or folds (`pipeline.evaluation.correlation_intervals`), or
            None.
        mean_pearson_ci95_same_labels: Its 95 % interval for new images of the same labels, or None.
    """

    pearson: Distribution
    r2: Distribution
    pattern: Distribution
    identification: float | None
    effective_rank: float | None
    spread: float | None
    pearson_of_ceiling: Distribution | None = None
    identification_ci95: Bounds | None = None
    identification_ci95_same_labels: Bounds | None = None
    identification_bdpy: float | None = None
    mean_pearson: float | None = None
    mean_pearson_ci95: Bounds | None = None
    mean_pearson_ci95_same_labels: Bounds | None = None


@dataclass(frozen=True)
class PermutationTest:
    """The p-values of one model or baseline (`pipeline.evaluation.permutation_tests`).

    Attributes:
        centred_cosine: p-value of the mean centred cosine.
        identification: p-value of pairwise identification; None for a single target.
        pearson: p-value of the mean over dimensions of Pearson's r; None if no r is defined.
        significant_dimensions: The number of dimensions with an r above chance, at a false discovery rate of 5 %.
        tested_dimensions: The number of dimensions with a defined r.
    """

    centred_cosine: float
    identification: float | None
    pearson: float | None
    significant_dimensions: int
    tested_dimensions: int


@dataclass(frozen=True)
class Permutations:
    """How the targets were permuted.

    Attributes:
        count: The number of permutations.
        kind: What the targets were permuted among: "group", "label" or "image".
        clusters: The number of these clusters that could get other targets.
        whole: Whether targets differ within clusters, so that clusters of the same size exchanged all of theirs.
        too_few: Why there are no p-values, or None.
    """

    count: int
    kind: str
    clusters: int
    whole: bool
    too_few: str | None


@dataclass(frozen=True)
class Scores:
    """The scores of one model or baseline.

    Attributes:
        cosine: Cosine to the target.
        centred_cosine: The same with the mean target subtracted from both sides.
        progress: From the mean baseline at 0 to the output ceiling at 1; None if they are equal or unknown.
        progress_to_noise_ceiling: From the mean baseline at 0 to the noise ceiling at 1; None if that is unknown.
        mse: Mean squared error.
        retrieval: Rank of the right target.
        retrieval_csls: The same by CSLS, which corrects for hubs; None for too many candidates.
        retrieval_of_seen: For images with a label from training, if other labels are held out.
        retrieval_of_unseen: For images with a label that was not in training.
        retrieval_of_imagenet: For images with an unseen label that is a class of ImageNet, with ImageNet weights.
        zero_shot: Class-averaged accuracy on seen and unseen labels, if labels are held out.
        hub: The candidate that is nearest to the most predictions.
        patterns: Dimensions, patterns and identification.
        zero_vectors: The number of predictions that are zero vectors, which have no direction.
        permutation_test: The p-values, or None.
    """

    cosine: CosineSummary
    centred_cosine: CosineSummary
    progress: float | None
    progress_to_noise_ceiling: float | None
    mse: float
    retrieval: RetrievalSummary
    retrieval_csls: RetrievalSummary | None
    retrieval_of_seen: RetrievalSummary | None
    retrieval_of_unseen: RetrievalSummary | None
    retrieval_of_imagenet: RetrievalSummary | None
    zero_shot: ZeroShot | None
    hub: Hub
    patterns: PatternScores
    zero_vectors: int
    permutation_test: PermutationTest | None = None


@dataclass(frozen=True)
class Difference:
    """The mean difference in cosine on the same images, `of` minus `minus`.

    Attributes:
        of: A model.
        minus: Another model, or a baseline.
        mean: The mean difference.
        ci95: Its 95 % interval over clusters, or None.
        ci95_same_labels: Its 95 % interval for new images of the same labels, or None.
        r2: The difference in mean explained variance of dimensions, each relative to its variance in training.
        r2_ci95: Its 95 % interval over clusters, or else for new images of the same labels, or None.
        is_zero: Whether both have the same cosine on every image.
        centred: The mean difference in centred cosine.
        centred_ci95: Its 95 % interval over clusters, or else for new images of the same labels, or None.
    """

    of: str
    minus: str
    mean: float
    ci95: Bounds | None
    ci95_same_labels: Bounds | None
    r2: float
    r2_ci95: Bounds | None
    is_zero: bool
    centred: float
    centred_ci95: Bounds | None

    def interval(self, lead: str = "cosine") -> Bounds | None:
        """The decisive interval: the one over clusters, or else the one for new images of the same labels.

        Args:
            lead: "cosine" or "r2", the score that is compared.
        """
        return self.r2_ci95 if lead == "r2" else self.ci95 or self.ci95_same_labels

    def is_positive(self, lead: str = "cosine") -> bool:
        """Whether the whole interval is above zero."""
        interval = self.interval(lead)
        return interval is not None and interval[0] > 0

    def is_negative(self, lead: str = "cosine") -> bool:
        """Whether the whole interval is below zero."""
        interval = self.interval(lead)
        return interval is not None and interval[1] < 0


@dataclass(frozen=True)
class Confusion:
    """The number of images of a label whose predictions are nearest to another label's target."""

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
    """A model's scores on one image: cosine, rank of the target, and the nearest names."""

    row: int
    path: str
    label: str
    cosine: float
    rank: float
    nearest: Sequence[str]


@dataclass(frozen=True)
class ModelScores:
    """The detailed scores of a model: overall, by label, and of its worst and best images."""

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
class Clusters:
    """The units that `ci95` generalizes over.

    Attributes:
        kind: "group", "label" or "image".
        count: The number of clusters among the images.
        trained_on: Whether these labels or groups were also in training; None if only some were, or if unknown.
        over_folds: Whether the images were held out in several folds; `ci95` then also covers the variation between
            trainings.
    """

    kind: str
    count: int
    trained_on: bool | None = None
    over_folds: bool = False

    @property
    def question(self) -> str:
        """What `ci95` is for, such as "new labels"."""
        if self.over_folds:
            if self.kind != "image" and self.trained_on is False:
                return f"another training and new {self.kind}s"
            same = f" of these {self.kind}s" if self.kind != "image" and self.trained_on else ""
            return f"another training and new images{same}"
        if self.kind == "image":
            return "new images"
        if self.trained_on:
            return f"other {self.kind}s that are also trained on"
        return f"other {self.kind}s" if self.trained_on is None else f"new {self.kind}s"


@dataclass(frozen=True)
class Scoreboard:
    """The scores of models and baselines on the same images.

    Attributes:
        equal: Model -> the first model with bit-identical weights, possibly itself; both have the same scores.
        models: Name -> scores.
        baselines: Name -> scores.
        differences: Differences between all models, and between each model and each baseline.
        ceiling: The highest output ceiling of the models.
        noise_ceiling: The noise ceiling of the mean cosine; None without repeated targets.
        noise_ceiling_ci95: Its 95 % interval over images, or None.
        images: The number of images evaluated.
        clusters: The units that `ci95` generalizes over.
        candidates: The number of distinct targets that predictions were compared with.
        target_dim: The dimension of the targets.
        large_dimensions: The number of dimensions that make up 90 % of the targets' squared length, which is what a
            cosine measures.
        target_rank: The effective rank of the targets; None if they are all equal.
        zero_targets: The number of targets that are zero vectors.
    """

    equal: Mapping[str, str]
    models: Mapping[str, ModelScores]
    baselines: Mapping[str, Scores]
    differences: Sequence[Difference]
    ceiling: float
    noise_ceiling: float | None
    noise_ceiling_ci95: Bounds | None
    images: int
    clusters: Clusters
    candidates: int
    target_dim: int
    large_dimensions: int
    target_rank: float | None
    zero_targets: int

    @property
    def titles(self) -> dict[str, str]:
        """The first of equal models -> the names of all of them, such as "functional = sequential"."""
        return joined(self.equal)

    @property
    def lead(self) -> str:
        """The leading score: "cosine", or "r2" if the cosine is dominated by one or a few dimensions."""
        return "r2" if self.large_dimensions <= max(1, self.target_dim // FEW_DIMENSIONS) else "cosine"

    def value(self, name: str) -> float:
        """The leading score of a model or a baseline: the mean cosine, or the median R² of dimensions."""
        scores = self.models[name].scores if name in self.models else self.baselines[name]
        if self.lead == "cosine":
            return scores.cosine.mean
        return -math.inf if scores.patterns.r2.median is None else scores.patterns.r2.median

    @property
    def best_model(self) -> str:
        """The name of the model with the highest leading score."""
        return max(self.models, key=self.value)

    @property
    def best_baseline(self) -> str | None:
        """The name of the baseline with the highest leading score, except "shuffled"; None without baselines."""
        return max((name for name in self.baselines if name != "shuffled"), key=self.value, default=None)

    @property
    def is_constant(self) -> bool:
        """Whether the best model predicts (nearly) the same for all images, without any gain over the mean."""
        spread, mean = self.models[self.best_model].scores.patterns.spread, self.difference(self.best_model, "mean")
        return spread is not None and spread < CONSTANT and (mean is None or mean.mean < NEGLIGIBLE)

    @property
    def above_mean(self) -> bool | None:
        """Whether the best model is shown to be better than the mean baseline; None if that is unknown."""
        difference = self.difference(self.best_model, "mean")
        if difference is None:
            return None
        if self.is_constant:
            return False
        if difference.interval(self.lead):
            return difference.is_positive(self.lead)
        return False if (difference.r2 if self.lead == "r2" else difference.mean) <= 0 else None

    def difference(self, of: str, minus: str) -> Difference | None:
        """The difference between two models or a model and a baseline, by name; None if it was not computed."""
        pair = (of, minus)
        return next((difference for difference in self.differences if (difference.of, difference.minus) == pair), None)


@dataclass(frozen=True)
class EvaluationResult(Scoreboard):
    """Scores, and what they mean.

    Attributes:
        headline: The verdict on the best model in one line.
        conclusions: What the numbers mean, in sentences.
        report: The report's file, or None.
        permutations: How the targets were permuted for the permutation tests, or None.
        scores: The file of the scores of every image and every dimension, or None.
    """

    headline: str
    conclusions: Sequence[str]
    report: str | None
    permutations: Permutations | None = None
    scores: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `evaluate`."""
        models = {name: model.to_json() for name, model in self.models.items()}
        document = {**asdict(self), "models": models, "above_mean": self.above_mean}
        del document["equal"]
        return document
