"""The scoreboard: the scores of models and baselines on the same images, and their paired differences."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np

from pipeline.core.vectors import slices
from pipeline.evaluation import dimensions
from pipeline.evaluation.metrics import LARGEST_COSINE, EvaluationSet, ScoredPredictions
from pipeline.evaluation.results import (
    Clusters,
    Confusion,
    Difference,
    ImageScores,
    LabelScores,
    ModelScores,
    Scoreboard,
)

CONFUSIONS = 3  # listed per label
NAMED = 10  # worst and best images that are listed


def scoreboard(
    scored: Mapping[str, ScoredPredictions], equal: Mapping[str, str], images: EvaluationSet, clusters: Clusters
) -> Scoreboard:
    """The scores of models and baselines.

    Args:
        scored: Name -> scored predictions of models and baselines; for equal models, the first is enough.
        equal: Model -> the first model with bit-identical weights, possibly itself.
        images: The images.
        clusters: A description of `images.clusters`.
    """
    noise = images.noise.cosine if images.noise else None
    models = {name: score_model(scored[name], images) for name in dict.fromkeys(equal.values())}
    return Scoreboard(
        equal=equal,
        models={name: models[first] for name, first in equal.items()},
        baselines={name: baseline.scores for name, baseline in scored.items() if name not in equal},
        differences=differences(scored, equal, images),
        ceiling=max(model.ceiling for model in models.values()),
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
    scored: Mapping[str, ScoredPredictions], equal: Mapping[str, str], images: EvaluationSet
) -> list[Difference]:
    """Paired differences on the same images: between all models, and between each model and each baseline.

    Args:
        scored: See `scoreboard`.
        equal: See `scoreboard`.
        images: The images.
    """
    baselines = [name for name in scored if name not in equal]
    pairs = [*itertools.combinations(equal, 2), *itertools.product(equal, baselines)]
    explained = {name: _explained(scores.predictions, images) for name, scores in scored.items()}
    differences = []
    for of, minus in pairs:
        first, second = scored[equal[of]], scored[equal.get(minus, minus)]
        r2 = explained[equal[of]] - explained[equal.get(minus, minus)]
        differences.append(_difference(of, minus, (first, second), r2, images))
    return differences


def _explained(predicted: np.ndarray, images: EvaluationSet) -> np.ndarray:
    """The explained variance of each image, shape (N,): minus its squared error, in units of the training variance."""
    explained = np.empty(len(predicted))
    for part, *moments in images.parts():
        for block in slices(len(part), predicted.shape[1]):
            rows = part[block]
            z_scored = dimensions.z_scores(predicted[rows], *moments)
            targets = dimensions.z_scores(images.targets[rows], *moments)
            explained[rows] = -np.square(z_scored - targets).sum(axis=1) / max(z_scored.shape[1], 1)
    return explained


def _difference(
    of: str, minus: str, pair: tuple[ScoredPredictions, ScoredPredictions], r2: np.ndarray, images: EvaluationSet
) -> Difference:
    """The mean differences between two names, from each image's differences; `r2` is that in explained variance."""
    values, centred = (pair[0].cosines - pair[1].cosines, pair[0].centred_cosines - pair[1].centred_cosines)
    ci95, ci95_same_labels = images.intervals(values, 2 * LARGEST_COSINE)
    r2_ci95, r2_ci95_same_labels = images.intervals(r2, math.inf)
    centred_ci95, centred_ci95_same_labels = images.intervals(centred, 2 * LARGEST_COSINE)
    return Difference(
        of=of,
        minus=minus,
        mean=float(values.mean()),
        ci95=ci95,
        ci95_same_labels=ci95_same_labels,
        r2=float(r2.mean()),
        r2_ci95=r2_ci95 or r2_ci95_same_labels,
        is_zero=not values.any(),
        centred=float(centred.mean()),
        centred_ci95=centred_ci95 or centred_ci95_same_labels,
    )


def score_model(scored: ScoredPredictions, images: EvaluationSet) -> ModelScores:
    """The detailed scores of a model."""
    order = np.argsort(scored.cosines, kind="stable").tolist()
    return ModelScores(
        scores=scored.scores,
        ceiling=scored.ceiling,
        labels=_score_labels(scored, images),
        worst=[_score_image(scored, images, row) for row in order[:NAMED]],
        best=[_score_image(scored, images, row) for row in order[::-1][:NAMED]],
    )


def _score_labels(scored: ScoredPredictions, images: EvaluationSet) -> list[LabelScores]:
    """The scores for each label; a confusion names the candidate that was nearest instead of the right one."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, label in enumerate(images.labels):
        rows[label].append(row)
    nearest = [images.candidates.names[number] for number in scored.retrieval.nearest[:, 0]]
    hits = scored.retrieval.hits
    scores = []
    for label in sorted(rows):
        of_label = rows[label]
        wrong = Counter(nearest[row] for row in of_label if not hits[row] and nearest[row] != label)
        scores.append(
            LabelScores(
                label=label,
                images=len(of_label),
                cosine=float(scored.cosines[of_label].mean()),
                top1=float(hits[of_label].mean()),
                confused_with=[Confusion(name, count) for name, count in wrong.most_common(CONFUSIONS)],
            )
        )
    return scores


def _score_image(scored: ScoredPredictions, images: EvaluationSet, row: int) -> ImageScores:
    return ImageScores(
        row=row,
        path=images.paths[row],
        label=images.labels[row],
        cosine=float(scored.cosines[row]),
        rank=float(scored.retrieval.ranks[row]),
        nearest=[images.candidates.names[number] for number in scored.retrieval.nearest[row]],
    )
