"""The report: a self-contained HTML file with charts, tables and images.

Jinja (https://jinja.palletsprojects.com) escapes all text; Vega-Lite (https://vega.github.io), whose code is in the
file, draws the charts in the browser. A content security policy blocks all other scripts and all requests, so a file
name cannot run or load anything either.
"""

import base64
import contextlib
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import jinja2
import numpy as np

from pipeline.core.atomic import atomic_write
from pipeline.core.errors import ImageError, PipelineError
from pipeline.core.runs import RunRecord
from pipeline.data import decoding
from pipeline.data.images import ImageRef, ImageSet, contents_of
from pipeline.evaluation import charts
from pipeline.evaluation import report_tables as tables
from pipeline.evaluation.embedding_map import embedding_map
from pipeline.evaluation.metrics import EvaluationSet, ScoredPredictions
from pipeline.evaluation.results import EvaluationResult
from pipeline.evaluation.sections import Section

SUFFIXES = (".html", ".htm")
PREVIEW = 128  # pixels of the longer side
MAPPED = 300  # images on the map, with their previews
TICKS = 2000  # images in the distributions
MOST_LABELS = 40  # in a readable confusion chart, and in a table that is not folded


@dataclass(frozen=True)
class Report:
    """The content of a report.

    Attributes:
        result: The evaluation.
        scored: Name -> scored predictions of each model and baseline; for equal models, those of the first.
        evaluated: The images with their targets.
        images: References to the same images, for previews.
        curves: Title of a model -> learning curves, where known; equal models share a title.
        validation_of: Model -> the images of its validation curves: "held-out", "selection" or "training".
        run: The record of the first model's run, or None.
        folder: The folder of that run.
        shares: Candidate -> its share in the first model, if that is a blend.
        sections: Further sections, after the models and baselines.
    """

    result: EvaluationResult
    scored: Mapping[str, ScoredPredictions]
    evaluated: EvaluationSet
    images: ImageSet
    curves: Mapping[str, Mapping[str, Sequence[float | None]]]
    validation_of: Mapping[str, str] = field(default_factory=dict)
    run: RunRecord | None = None
    folder: Path | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    sections: Sequence[Section] = ()


def write_report(file: Path, report: Report) -> None:
    """Write a report atomically.

    Args:
        file: The file to write.
        report: The content.

    Raises:
        PipelineError: The file cannot be written.
    """
    html = render(report)
    with atomic_write(file) as unfinished:
        # A folder's name may contain bytes that are not UTF-8; they are escaped.
        unfinished.write_text(html, encoding="utf-8", errors="backslashreplace")


def render(report: Report) -> str:
    """The report as HTML."""
    result, evaluated = report.result, report.evaluated
    name = result.best_model
    mapped = _sample(len(evaluated.paths), MAPPED)
    previews = _previews(report, mapped)
    embeddings = embedding_map(report.scored[name], evaluated, mapped)
    cells = tables.confusion_cells(report.scored[name], evaluated)
    drawn = _charts(report, cells)
    if embeddings:
        drawn["map"] = charts.map_of_embeddings(embeddings, previews)
    script = javascript()
    rows = tables.score_rows(result)
    with_labels = result.clusters.kind != "image"
    return template("report.html").render(
        result=result,
        name=name,
        model=result.models[name],
        images=report.images.source,
        rows=rows,
        differences=tables.difference_rows(result),
        intervals=tables.interval_rows(rows),
        hits=tables.informative_hits(result.candidates),
        retrieval=[part for row in rows for part in tables.retrieval_rows(row, with_labels)],
        with_labels=with_labels,
        labels=tables.listed_labels(result.models[name].labels),
        many_labels=MOST_LABELS,
        previews=previews,
        has_images=any(ref.is_readable for ref in report.images.refs),
        charts=drawn,
        map=embeddings,
        sampled_from=None if len(mapped) == len(evaluated.paths) else len(evaluated.paths),
        cells=cells,
        curves=tables.curve_rows(report.curves),
        curve_titles=tables.curve_titles(report.validation_of.values()),
        folds=evaluated.folds is not None,
        shares=report.shares,
        sections=report.sections,
        made=tables.how_made(report.run) if report.run else [],
        command=tables.repeat_command(report.folder) if report.run and report.folder else None,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def write_page(file: Path, heading: str, summary: str, sections: Sequence[Section]) -> None:
    """Write a page of sections atomically, in the style of the report.

    Args:
        file: The file to write.
        heading: Its heading.
        summary: A line below it.
        sections: Its sections.

    Raises:
        PipelineError: The file cannot be written.
    """
    script = javascript()
    html = template("section_page.html").render(
        heading=heading,
        summary=summary,
        sections=sections,
        charts={name: document for section in sections for name, document in section.documents.items()},
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    with atomic_write(file) as unfinished:
        unfinished.write_text(html, encoding="utf-8", errors="backslashreplace")


def template(name: str) -> jinja2.Template:
    """Load a template from this folder; it escapes all values."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.evaluation", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["contents"] = tables.contents
    return environment.get_template(name)


@functools.cache
def javascript() -> str:
    """Vega, Vega-Lite and Vega-Embed from vl-convert (https://github.com/vega/vl-convert), and our own code."""
    import vl_convert

    code = files("pipeline.evaluation").joinpath("report.js").read_text(encoding="utf-8")
    return vl_convert.javascript_bundle(code).replace("</script", "<\\/script")


def _charts(report: Report, cells: Sequence[Mapping]) -> dict[str, dict]:
    """All charts except the map: name -> Vega-Lite document."""
    result = report.result
    patterns = result.models[result.best_model].scores.patterns
    output_ceilings = sorted({round(model.ceiling, 6) for model in result.models.values()})
    ticks = _sample(len(report.evaluated.paths), TICKS)
    scored = {result.titles.get(name, name): predictions for name, predictions in report.scored.items()}
    drawn = {"distributions": charts.distributions(scored, output_ceilings, result.noise_ceiling, ticks)}
    histograms = {
        "pearson": (patterns.pearson, "Pearson's r", "dimensions"),
        "r2": (patterns.r2, "R²", "dimensions"),
        "pearson-of-ceiling": (patterns.pearson_of_ceiling, "Pearson's r / noise ceiling", "dimensions"),
        "pattern": (patterns.pattern, "pattern correlation", "images"),
    }
    for name, (values, title, counted) in histograms.items():
        if values and values.median is not None:
            drawn[name] = charts.histogram(values, title, counted)
    drawn |= {name: document for section in report.sections for name, document in section.documents.items()}
    if report.curves:
        for name, title in tables.curve_titles(report.validation_of.values()).items():
            drawn[f"curve-{name}"] = charts.learning_curves(report.curves, name, title)
    if 1 < max(len({cell[key] for cell in cells}) for key in ("label", "nearest")) <= MOST_LABELS:
        drawn["confusion"] = charts.confusion(cells, sorted({cell["label"] for cell in cells}))
    return drawn


def _sample(count: int, most: int) -> np.ndarray:
    """All row numbers, or a random sample of `most`."""
    return np.sort(np.random.default_rng(0).permutation(count)[:most])


def _previews(report: Report, mapped: np.ndarray) -> dict[int, str]:
    """Previews of the images on the map and of the best and the worst images."""
    model = report.result.models[report.result.best_model]
    shown = sorted({*mapped.tolist(), *(image.row for image in (*model.worst, *model.best))})
    previews = preview_uris([report.images.refs[row] for row in shown])
    return {row: preview for row, preview in zip(shown, previews, strict=True) if preview}


def preview_uris(refs: Sequence[ImageRef]) -> list[str | None]:
    """Small versions of images as data URIs; None for images that can no longer be read."""
    previews: list[str | None] = []
    with contextlib.suppress(PipelineError):  # the remaining images cannot be read
        previews.extend(map(_preview_uri, contents_of(refs)))
    return previews + [None] * (len(refs) - len(previews))


def _preview_uri(content: bytes | None) -> str | None:
    if content is None:
        return None
    try:
        return f"data:image/jpeg;base64,{base64.b64encode(decoding.preview(content, PREVIEW)).decode()}"
    except ImageError:
        return None
