"""The report: one HTML file with charts, tables and images that loads nothing from any other address.

Text goes through Jinja (https://jinja.palletsprojects.com), which escapes it; charts are drawn in the browser by
Vega-Lite (https://vega.github.io), whose code is in the file. A content security policy lets no other script run and no
request leave, so a file name cannot either.
"""

import base64
import functools
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np

from pipeline.core.atomic import atomic_write
from pipeline.core.errors import PipelineError
from pipeline.core.runs import RUN_FILE, RunRecord
from pipeline.core.vectors import unit
from pipeline.data import decoding
from pipeline.data.images import ImageRef, ImageSet
from pipeline.evaluation import charts
from pipeline.evaluation.metrics import EvaluationSet, ScoredPredictions
from pipeline.evaluation.results import EvaluationResult

SUFFIXES = (".html", ".htm")
PREVIEW = 128  # pixels of the longer side
MAPPED = 300  # images on the map, with their previews
TICKS = 2000  # images in the distributions
MOST_LABELS = 40  # in the confusion; more cannot be read
CURVES = {"loss": "training loss", "validation_loss": "held-out loss", "validation_cosine": "held-out cosine"}
DRAW = """
for (const place of document.querySelectorAll("[data-chart]")) {
  const chart = JSON.parse(document.getElementById(place.dataset.chart).textContent);
  vegaEmbed(place, chart, {actions: false, ast: true, renderer: "svg"});
}
"""


@dataclass(frozen=True)
class Report:
    """The content of a report.

    Attributes:
        result: The evaluation.
        scored: Name -> scored predictions of each model and baseline.
        evaluated: The images with their targets.
        images: The same images, to show them.
        curves: Model -> learning curves, where they are known.
        run: The record of the first model's run, or None.
        folder: The folder of that run.
    """

    result: EvaluationResult
    scored: Mapping[str, ScoredPredictions]
    evaluated: EvaluationSet
    images: ImageSet
    curves: Mapping[str, Mapping[str, Sequence[float | None]]]
    run: RunRecord | None = None
    folder: Path | None = None


def write_report(file: Path, report: Report) -> None:
    """Write a report, whole or not at all.

    Args:
        file: Where to write it.
        report: Its content.

    Raises:
        PipelineError: It cannot be written.
    """
    html = render(report)
    with atomic_write(file) as unfinished:
        # A folder's name may hold bytes that are not UTF-8; they appear escaped.
        unfinished.write_text(html, encoding="utf-8", errors="backslashreplace")


def render(report: Report) -> str:
    """The report as HTML."""
    name = report.result.best_model
    document = report.result.to_json()
    model = document["models"][name]
    scored, evaluated = report.scored[name], report.evaluated
    mapped = _sample(len(evaluated.paths), MAPPED)
    shown = {*map(int, mapped), *(image["row"] for which in ("worst", "best") for image in model[which])}
    previews = {row: preview for row in sorted(shown) if (preview := _preview(report.images.refs[row]))}
    dots, landmarks = _map(scored, evaluated, mapped, previews)
    cells, labels = _confusion(scored, evaluated)
    drawn = {
        "distributions": charts.distributions(
            report.scored, _ceilings(report.result), _sample(len(evaluated.paths), TICKS)
        ),
        **{
            f"curve-{curve}": charts.learning_curves(report.curves, curve, title)
            for curve, title in CURVES.items()
            if report.curves
        },
        **({"map": charts.embedding_map(dots, landmarks)} if dots else {}),
        **({"confusion": charts.confusion(cells, labels)} if 1 < _most(cells) <= MOST_LABELS else {}),
    }
    script = javascript()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.evaluation", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html").render(
        document=document,
        name=name,
        model=model,
        previews=previews,
        charts=drawn,
        dots=dots,
        landmarks=landmarks,
        cells=cells,
        curves=_curve_rows(report.curves),
        curve_titles=CURVES,
        made=_made(report),
        images=report.images.source,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        of_all=None if len(mapped) == len(evaluated.paths) else len(evaluated.paths),
    )


@functools.cache
def javascript() -> str:
    """Vega, Vega-Lite and Vega-Embed from vl-convert (https://github.com/vega/vl-convert), and the code that draws."""
    import vl_convert

    return vl_convert.javascript_bundle(DRAW).replace("</script", "<\\/script")


def _sample(count: int, most: int) -> np.ndarray:
    """At most so many row numbers, chosen at random where there are more."""
    return np.sort(np.random.default_rng(0).permutation(count)[:most])


def _ceilings(result: EvaluationResult) -> list[float]:
    return sorted({round(model.ceiling, 6) for model in result.models.values()})


def _preview(ref: ImageRef) -> str | None:
    """A small version of an image as a data URI; None where it can no longer be read."""
    try:
        preview = decoding.preview(ref.read()[0], PREVIEW)
    except PipelineError:
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(preview).decode()}"


def _map(
    scored: ScoredPredictions, evaluated: EvaluationSet, rows: np.ndarray, previews: Mapping[int, str]
) -> tuple[list[dict], list[dict]]:
    """The positions of predicted and true embeddings by their first two principal components (scikit-learn's PCA).

    Returns:
        A dot for each prediction and a landmark for each different target; nothing where there are fewer than two
        dimensions or three points.
    """
    from sklearn.decomposition import PCA

    targets, first = np.unique(evaluated.targets[rows], axis=0, return_index=True)
    points = unit(np.concatenate([scored.predictions[rows], targets]))
    if min(points.shape[1], len(points) - 1) < 2:
        return [], []
    places = PCA(2, svd_solver="full").fit_transform(points).round(4)
    dots = []
    for row, (x, y) in zip(map(int, rows), places, strict=False):
        nearest = [evaluated.candidates.names[number] for number in scored.retrieval.nearest[row]]
        dots.append(
            {
                "x": float(x),
                "y": float(y),
                **({"image": previews[row]} if row in previews else {}),
                "title": evaluated.paths[row],
                "label": evaluated.labels[row],
                "cosine": f"{scored.cosines[row]:.3f}",
                "nearest": ", ".join(nearest),
                "nearest is": "right" if scored.retrieval.hits[row] else "wrong",
            }
        )
    landmarks = [
        {"x": float(x), "y": float(y), "label": evaluated.labels[rows[at]]}
        for at, (x, y) in zip(first, places[len(rows) :], strict=True)
    ]
    return dots, landmarks if len(landmarks) <= MOST_LABELS else []


def _confusion(scored: ScoredPredictions, evaluated: EvaluationSet) -> tuple[list[dict], list[str]]:
    """How many images of each label have which name nearest; and the labels."""
    nearest = [evaluated.candidates.names[number] for number in scored.retrieval.nearest[:, 0]]
    counted = Counter(zip(evaluated.labels, nearest, strict=True))
    cells = [{"label": label, "nearest": near, "images": count} for (label, near), count in sorted(counted.items())]
    return cells, sorted(set(evaluated.labels))


def _most(cells: Sequence[Mapping]) -> int:
    """The number of rows or columns of a confusion, the larger of the two."""
    return max(len({cell[key] for cell in cells}) for key in ("label", "nearest"))


def _curve_rows(curves: Mapping[str, Mapping[str, Sequence[float | None]]]) -> list[tuple]:
    """Rows of some epochs: model, epoch, and a number for each curve."""
    return [
        (model, epoch, [each[name][epoch - 1] for name in CURVES])
        for model, each in curves.items()
        for epoch, _ in charts.thinned(each["loss"], 12)
    ]


def _made(report: Report) -> list[tuple[str, str]]:
    """How the first model was trained, line by line."""
    if not report.run:
        return []
    run, training = report.run, report.run.training
    decoder = training["decoder"]
    hidden = ", ".join(map(str, decoder["hidden"])) or "none"
    return [
        ("images", str(run.options.get("images", ""))),
        ("targets", str(run.options.get("targets", "in the list of images"))),
        ("features", ", ".join(f"{key} {value}" for key, value in run.extractor.items())),
        ("decoder", f"hidden layers {hidden}, {decoder['activation']}; output {decoder['output_activation']}"),
        (
            "training",
            f"{training['epochs']} epochs, batches of {training['batch_size']}, {training['optimizer']} at "
            f"{training['learning_rate']:g} ({training['schedule']}), loss {training['loss']}, "
            f"keeping the {training['keep']} epoch",
        ),
        ("split", f"{run.split.rule}: {len(run.split.train)} training, {len(run.split.validation)} held out"),
        ("random seed", str(run.seed)),
        ("versions", ", ".join(f"{key} {value}" for key, value in run.versions.items())),
        ("repeat with", f"python -m pipeline train --config {(report.folder or Path()) / RUN_FILE}"),
    ]
