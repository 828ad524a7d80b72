"""Evaluation: what a cosine similarity to the target is worth, in numbers.

A mean cosine says little by itself. Beside it stand its interval; the same with the mean target taken from both sides,
for targets that all point one way; the share of the way from the mean baseline to the ceiling; the squared error; the
rank of the right target among all; and where, label by label and image by image, it goes wrong.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.retrieval import Candidates, Found, look_up, unit

RESAMPLES = 2000
RESAMPLED_AT_ONCE = 2**22  # values
CONFUSIONS = 3  # that are named for a label
NAMED = 10  # worst and best images that are named


def cosines(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Cosine similarity of each prediction to its target; 0 where either is a zero vector.

    Args:
        predictions: Shape (N, D).
        targets: Shape (N, D).

    Returns:
        Shape (N,), float64, from -1 to 1.
    """
    return np.einsum("nd,nd->n", unit(predictions), unit(targets)).clip(-1, 1)


def interval(values: np.ndarray, seed: int = 0) -> list[float] | None:
    """The percentile bootstrap's 95 % interval of a mean (Efron 1979, by SciPy).

    Args:
        values: Shape (N,).
        seed: Seeds the resampling.

    Returns:
        The lower and the upper end; None for fewer than two values.
    """
    if len(values) < 2:
        return None
    from scipy.stats import bootstrap

    found = bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed),
        batch=max(1, RESAMPLED_AT_ONCE // len(values)),
    )  # fmt: skip
    return [float(found.confidence_interval.low), float(found.confidence_interval.high)]


def cosine_summary(values: np.ndarray, seed: int = 0) -> dict:
    """Summarise cosines.

    Args:
        values: Shape (N,).
        seed: Seeds the bootstrap.

    Returns:
        mean, median, p05, p95, and ci95, the interval of the mean.
    """
    p05, median, p95 = np.percentile(values, [5, 50, 95])
    return {"mean": float(values.mean()), "median": float(median), "p05": float(p05), "p95": float(p95),
            "ci95": interval(values, seed)}  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """What is known of the images that predictions are judged on.

    Attributes:
        paths: The images' names, N of them.
        labels: Their labels, "" where they have none.
        targets: Their target embeddings, shape (N, D).
        candidates: What predictions are looked up among; all targets are in it.
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
class Judgement:
    """One prediction of all images, judged.

    Attributes:
        predictions: Shape (N, D).
        cosines: To the targets, shape (N,).
        found: The search for the targets.
        ceiling: The highest mean cosine that whatever predicted this can reach.
        summary: The numbers, as `--json` prints them.
    """

    predictions: np.ndarray
    cosines: np.ndarray
    found: Found
    ceiling: float
    summary: dict


def judge(
    predictions: Mapping[str, np.ndarray], truth: Truth, ceilings: Mapping[str, float], seed: int = 0
) -> dict[str, Judgement]:
    """Judge several predictions of the same images.

    Args:
        predictions: Name -> predicted embeddings, shape (N, D). That of "mean", where there is one, is the baseline
            from which progress is counted.
        truth: What is known of the images.
        ceilings: Name -> ceiling; 1 for those it lacks.
        seed: Seeds the bootstraps.

    Returns:
        Name -> judgement. Its summary holds `cosine` and `centred_cosine` (see `cosine_summary`; centred: the mean
        target taken from both sides), `progress` (from the mean baseline at 0 to the ceiling at 1, None where they
        are the same or there is no baseline), `mse`, `retrieval` (see `Found.summary`), `zero_vectors` (how many
        predictions are zero and have no direction) and, where labels were held out, `retrieval_of_seen` and
        `retrieval_of_unseen`.
    """
    base = float(cosines(predictions["mean"], truth.targets).mean()) if "mean" in predictions else None
    judged = {}
    for name, predicted in predictions.items():
        values = cosines(predicted, truth.targets)
        found = look_up(predicted, truth.targets, truth.candidates)
        ceiling = ceilings.get(name, 1.0)
        centred = cosines(predicted - truth.centre, truth.targets - truth.centre)
        summary = {
            "cosine": cosine_summary(values, seed),
            "centred_cosine": cosine_summary(centred, seed),
            "progress": _progress(float(values.mean()), base, ceiling),
            "mse": float(np.square(np.subtract(predicted, truth.targets, dtype=np.float64)).mean()),
            "retrieval": found.summary(),
            "zero_vectors": int((~predicted.any(axis=1)).sum()),
        }
        if truth.seen is not None and not truth.seen.all():
            if truth.seen.any():
                summary["retrieval_of_seen"] = found.summary(truth.seen)
            summary["retrieval_of_unseen"] = found.summary(~truth.seen)
        judged[name] = Judgement(predicted, values, found, ceiling, summary)
    return judged


def _progress(mean: float, base: float | None, ceiling: float) -> float | None:
    if base is None or ceiling - base < 1e-9:
        return None
    return (mean - base) / (ceiling - base)


def differences(judged: Mapping[str, Judgement], models: Sequence[str], seed: int = 0) -> list[dict]:
    """Paired differences of cosines on the same images: of every two models, and of each model from each baseline.

    Args:
        judged: All judgements by name.
        models: Which of them are models; the others are baselines.
        seed: Seeds the bootstraps.

    Returns:
        For each pair `of`, `minus`, `mean` and `ci95`, the interval of the mean.
    """
    pairs = [(first, second) for number, first in enumerate(models) for second in models[number + 1 :]]
    pairs += [(model, baseline) for model in models for baseline in judged if baseline not in models]
    found = []
    for of, minus in pairs:
        values = judged[of].cosines - judged[minus].cosines
        found.append({"of": of, "minus": minus, "mean": float(values.mean()), "ci95": interval(values, seed)})
    return found


def by_label(judgement: Judgement, truth: Truth) -> list[dict]:
    """How a prediction does on each label: label, images, cosine (mean), top1, and what it is confused with.

    Returns:
        One document a label, in the labels' order; `confused_with` names the candidates that were nearest in place of
        the right one, the most frequent first.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for row, label in enumerate(truth.labels):
        rows[label].append(row)
    nearest = [truth.candidates.names[number] for number in judgement.found.nearest[:, 0]]
    right = judgement.found.ranks < 1.5
    documents = []
    for label in sorted(rows):
        some = rows[label]
        wrong = Counter(nearest[row] for row in some if not right[row] and nearest[row] != label)
        documents.append({
            "label": label,
            "images": len(some),
            "cosine": float(judgement.cosines[some].mean()),
            "top1": float(right[some].mean()),
            "confused_with": [{"label": name, "images": count} for name, count in wrong.most_common(CONFUSIONS)],
        })  # fmt: skip
    return documents


def extremes(judgement: Judgement, truth: Truth) -> dict[str, list[dict]]:
    """The `worst` and the `best` images by cosine, NAMED of each: row, path, label, cosine, rank and nearest names."""
    order = np.argsort(judgement.cosines, kind="stable")
    return {
        "worst": [_image(judgement, truth, row) for row in order[:NAMED]],
        "best": [_image(judgement, truth, row) for row in order[::-1][:NAMED]],
    }


def _image(judgement: Judgement, truth: Truth, row: int) -> dict:
    return {
        "row": int(row),
        "path": truth.paths[row],
        "label": truth.labels[row],
        "cosine": float(judgement.cosines[row]),
        "rank": float(judgement.found.ranks[row]),
        "nearest": [truth.candidates.names[number] for number in judgement.found.nearest[row]],
    }
