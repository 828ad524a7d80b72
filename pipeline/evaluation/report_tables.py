"""The rows of the report's tables."""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.core.runs import RUN_FILE, RunRecord
from pipeline.core.wording import counted
from pipeline.evaluation import charts
from pipeline.evaluation.metrics import EvaluationSet, ScoredPredictions
from pipeline.evaluation.results import Difference, LabelScores, Scoreboard, Scores
from pipeline.evaluation.retrieval import HITS, RetrievalSummary

CURVES = ("loss", "validation_loss", "validation_cosine")
LISTED = 1000  # labels

_HEADING = re.compile(r'<h2 id="([^"]+)">(.*?)</h2>')


@dataclass(frozen=True)
class Row:
    """A model or a baseline."""

    title: str
    scores: Scores


@dataclass(frozen=True)
class RetrievalRow:
    """Retrieval of a model or a baseline: over all images, by another similarity, or over part of the images."""

    title: str
    summary: RetrievalSummary
    is_part: bool = False


def score_rows(result: Scoreboard) -> list[Row]:
    """A row for each model and each baseline; equal models share a row."""
    models = [Row(title, result.models[name].scores) for name, title in result.titles.items()]
    return [*models, *(Row(f"{name} baseline", scores) for name, scores in result.baselines.items())]


@dataclass(frozen=True)
class IntervalRow:
    """A score of a model or a baseline with its intervals."""

    title: str
    score: str
    value: float
    ci95: tuple[float, float] | None
    ci95_same_labels: tuple[float, float] | None


def interval_rows(rows: Sequence[Row]) -> list[IntervalRow]:
    """Retrieval, identification and the mean r of each model and baseline; none if no score has an interval."""
    listed = []
    for row in rows:
        hits, patterns = row.scores.retrieval, row.scores.patterns
        scores = {
            "hits@1": (hits.top1, hits.top1_ci95, hits.top1_ci95_same_labels),
            "identification": (
                patterns.identification,
                patterns.identification_ci95,
                patterns.identification_ci95_same_labels,
            ),
            "mean r": (patterns.mean_pearson, patterns.mean_pearson_ci95, patterns.mean_pearson_ci95_same_labels),
        }
        for name, (value, *intervals) in scores.items():
            if value is not None:
                listed.append(IntervalRow(row.title, name, value, *intervals))
    return listed if any(row.ci95 or row.ci95_same_labels for row in listed) else []


def difference_rows(result: Scoreboard) -> list[Difference]:
    """The differences, listed once for equal models."""
    shown = {*result.titles, *result.baselines}
    return [row for row in result.differences if {row.of, row.minus} <= shown]


def informative_hits(candidates: int) -> list[int]:
    """The values of k for which hits@k is informative: 1, and those with a chance level below one half."""
    return [k for k in HITS if k == 1 or 2 * k < candidates]


def retrieval_rows(row: Row, with_labels: bool) -> list[RetrievalRow]:
    """Retrieval of a model or a baseline: by cosine, by CSLS, and separately for seen and unseen labels.

    Args:
        row: The model or the baseline.
        with_labels: Whether images share labels, so that seen and unseen labels are listed separately.
    """
    parts = [("by CSLS", row.scores.retrieval_csls)]
    if with_labels:
        parts += [
            ("labels that training saw", row.scores.retrieval_of_seen),
            ("labels that it did not", row.scores.retrieval_of_unseen),
            ("of these, classes of ImageNet", row.scores.retrieval_of_imagenet),
        ]
    rows = [RetrievalRow(f"… {title}", summary, is_part=True) for title, summary in parts if summary]
    return [RetrievalRow(row.title, row.scores.retrieval), *rows]


def listed_labels(labels: Sequence[LabelScores]) -> list[LabelScores]:
    """The labels in order; if there are more than `LISTED`, those with the lowest cosines."""
    worst = sorted(labels, key=lambda label: label.cosine)[:LISTED]
    return sorted(worst, key=lambda label: label.label)


def confusion_cells(scored: ScoredPredictions, evaluated: EvaluationSet) -> list[dict]:
    """Count the images of each label by the name nearest to their prediction."""
    nearest = [evaluated.candidates.names[number] for number in scored.retrieval.nearest[:, 0]]
    counted = Counter(zip(evaluated.labels, nearest, strict=True))
    return [{"label": label, "nearest": near, "images": count} for (label, near), count in sorted(counted.items())]


def curve_titles(validation_of: Iterable[str]) -> dict[str, str]:
    """Curve -> its title, which says which images it was measured on.

    Args:
        validation_of: The images of each model's validation curves: "held-out", "selection" or "training".
    """
    of = " or ".join(sorted(set(validation_of))) or "held-out"
    return {
        "loss": "training loss, during the epoch",
        "validation_loss": f"loss on the {of} images, after the epoch",
        "validation_cosine": f"cosine on the {of} images, after the epoch",
    }


def curve_rows(curves: Mapping[str, Mapping[str, Sequence[float | None]]]) -> list[tuple]:
    """Rows for selected epochs: model, epoch, and a number for each curve."""
    return [
        (model, epoch, [curves_of_model[name][epoch - 1] for name in CURVES])
        for model, curves_of_model in curves.items()
        for epoch, _ in charts.thin_out(curves_of_model["loss"], 12)
    ]


def contents(html: Markup) -> list[tuple[str, Markup]]:
    """The ids and titles of the sections of a page."""
    return [(id_, Markup(title)) for id_, title in _HEADING.findall(html)]


def how_made(run: RunRecord) -> list[tuple[str, str]]:
    """How a run was trained, as pairs of a title and a text."""
    return [
        ("images", str(run.options.get("images") or run.options.get("features"))),
        ("targets", str(run.options.get("targets", "in the list of images"))),
        ("features", ", ".join(f"{key} {value}" for key, value in run.extractor.items())),
        *_training_lines(run.training),
        ("split", _split_line(run)),
        ("random seed", str(run.seed)),
        ("versions", ", ".join(f"{key} {value}" for key, value in run.versions.items())),
    ]


def repeat_command(folder: Path) -> str:
    """The command that repeats a run, for a POSIX shell."""
    return shlex.join(["python", "-m", "pipeline", "train", "--config", str(folder / RUN_FILE)])


def _split_line(run: RunRecord) -> str:
    split = run.split
    if not split.validation:
        return f"{split.rule}, cross-validated; then trained on all {len(split.train)}"
    chosen = f", {len(split.selection)} to choose the epoch" if split.selection else ""
    return f"{split.rule}: {len(split.train)} training{chosen}, {len(split.validation)} held out"


def _training_lines(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "decoder" in training:
        return _network_lines(training)
    return _blend_lines(training) if "ramps" in training else _banded_lines(training)


def _banded_lines(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    chosen = (
        "banded ridge regression (himalaya); the penalties of each dimension chosen on "
        f"{training['folds']} folds of the training images, with {counted(training['draws'], 'combination')} of layer "
        "weights"
    )
    return [("decoder", chosen)]


def _blend_lines(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    decays = ", ".join(f"{decay:g}" for decay in training["weight_decays"])
    blended = (
        f"a blend of ridge regression, {training['ramps']} random ramps and networks of {training['units']} units "
        f"with weight decay {decays}, {training['epochs']} epochs each; shares chosen on {training['folds']} folds of "
        "the training images"
    )
    return [("decoder", blended)]


def _network_lines(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    decoder = training["decoder"]
    hidden = ", ".join(map(str, decoder["hidden"])) or "none"
    trained = (
        f"{training['epochs']} epochs, batches of {training['batch_size']}, {training['optimizer']} at "
        f"{training['learning_rate']:g} ({training['schedule']}), weight decay {training['weight_decay']:g}, loss "
        f"{training['loss']}, keeping the {training['keep']} epoch"
    )
    return [
        ("decoder", f"hidden layers {hidden}, {decoder['activation']}; output {decoder['output_activation']}"),
        ("training", trained),
    ]
