"""Scores of arrays: predictions and targets without images, runs or files."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.core.errors import RequestError
from pipeline.evaluation.metrics import EvaluationSet, score_predictions
from pipeline.evaluation.results import Scores
from pipeline.evaluation.retrieval import Candidates


def evaluate_predictions(
    predictions: Mapping[str, np.ndarray],
    targets: np.ndarray,
    training_targets: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
) -> dict[str, Scores]:
    """Score predictions of the same targets, like the command `evaluate`.

    Args:
        predictions: Name -> predicted embeddings, shape (N, D).
        targets: Target embeddings, shape (N, D), float32.
        training_targets: The targets of the training images, shape (M, D); their mean is the baseline "mean". With
            None, there is no baseline, and centred scores subtract the mean of `targets`.
        labels: The label of each row; intervals generalize to new labels. None if all differ.

    Returns:
        Name -> scores, with "mean" for the baseline.

    Raises:
        RequestError: The shapes differ.
    """
    known = targets if training_targets is None else np.asarray(training_targets, np.float32)
    mean = known.mean(axis=0)
    if training_targets is not None:
        predictions = {**predictions, "mean": np.tile(mean, (len(targets), 1))}
    for name, predicted in predictions.items():
        if predicted.shape != targets.shape:
            raise RequestError(
                f"The predictions {name!r} have shape {predicted.shape}; the targets have {targets.shape}."
            )
    names = [str(row) for row in range(len(targets))]
    images = EvaluationSet(
        paths=names,
        labels=labels or names,
        targets=targets,
        candidates=Candidates(zip(labels or names, targets, strict=True)),
        centre=mean,
        deviation=known.std(axis=0),
        clusters=labels or names,
    )
    return {name: scored.scores for name, scored in score_predictions(predictions, images, {}).items()}
