import numpy as np
import pytest

from pipeline.core.errors import RequestError
from pipeline.core.vectors import cosines
from pipeline.evaluation.arrays import evaluate_predictions

RANDOM = np.random.default_rng(0)
TARGETS, TRAINED = RANDOM.normal(size=(40, 5)).astype(np.float32), RANDOM.normal(size=(60, 5)).astype(np.float32) + 1
PREDICTED = TARGETS + RANDOM.normal(size=TARGETS.shape).astype(np.float32)


def test_scores_are_those_of_the_command() -> None:
    scores = evaluate_predictions({"mine": PREDICTED}, TARGETS, TRAINED)
    assert scores["mine"].cosine.mean == pytest.approx(cosines(PREDICTED, TARGETS).mean())
    mean = TRAINED.mean(axis=0)
    assert scores["mean"].cosine.mean == pytest.approx(cosines(np.tile(mean, (40, 1)), TARGETS).mean())
    assert scores["mine"].centred_cosine.mean == pytest.approx(cosines(PREDICTED - mean, TARGETS - mean).mean())
    assert scores["mine"].progress is not None
    low, high = scores["mine"].cosine.ci95
    assert low < scores["mine"].cosine.mean < high


def test_without_training_targets_there_is_no_baseline() -> None:
    scores = evaluate_predictions({"mine": PREDICTED}, TARGETS)
    assert list(scores) == ["mine"]
    assert scores["mine"].progress is None


def test_labels_widen_the_intervals() -> None:
    labels = [str(row // 2) for row in range(40)]
    shared = np.repeat(RANDOM.normal(size=(20, 5)), 2, axis=0).astype(np.float32)
    widths = [
        np.diff(evaluate_predictions({"mine": TARGETS + shared}, TARGETS, labels=names)["mine"].cosine.ci95)[0]
        for names in (None, labels)
    ]
    assert widths[1] > widths[0]


def test_other_shapes_are_refused() -> None:
    with pytest.raises(RequestError, match=r"'mine' have shape \(40, 4\); the targets have \(40, 5\)"):
        evaluate_predictions({"mine": PREDICTED[:, :4]}, TARGETS)
