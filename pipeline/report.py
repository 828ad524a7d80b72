"""The report: one HTML file with charts, tables and pictures, which asks no other address for anything.

Text goes through Jinja (https://jinja.palletsprojects.com), which escapes it; charts are drawn in the browser by
Vega-Lite (https://vega.github.io), whose code is in the file. A content security policy lets no other script run and no
request leave, whatever a file's name holds.
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

from pipeline import charts
from pipeline import images as image_files
from pipeline.errors import ImageError, PipelineError, RequestError
from pipeline.evaluation import Judgement, Truth
from pipeline.images import ImageSet, Record
from pipeline.outputs import replacing
from pipeline.retrieval import unit
from pipeline.runs import RUN_FILE

SUFFIXES = (".html", ".htm")
PREVIEW = 128  # pixels of a picture's longer side
MAPPED = 300  # images on the map, with their pictures
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
    """What a report is about.

    Attributes:
        document: The `evaluate` document.
        judged: Name -> judgement of each model and baseline.
        truth: What is known of the images.
        images: The images.
        curves: Model -> learning curves, where they are known.
        run: What the first model's `run.json` says, or nothing.
        folder: The folder of that run.
    """

    document: Mapping
    judged: Mapping[str, Judgement]
    truth: Truth
    images: ImageSet
    curves: Mapping[str, Mapping[str, Sequence[float | None]]]
    run: Mapping | None = None
    folder: Path | None = None


def check_report(file: Path) -> None:
    """Refuse a report that could not be written, before any work is spent on it.

    Raises:
        RequestError: The suffix is not one of SUFFIXES, or the folder does not exist.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise RequestError(f"--report {file}: a report is an .html file; give it such a suffix.")
    if not file.parent.is_dir():
        raise RequestError(f"--report {file}: the folder {file.parent} does not exist; make it first.")


def write_report(file: Path, report: Report) -> None:
    """Write a report, whole or not at all.

    Args:
        file: Where to write it.
        report: What it is about.

    Raises:
        PipelineError: It cannot be written.
    """
    html = render(report)
    try:
        with replacing(file) as unfinished:
            # A folder's name may hold bytes that are no UTF-8; they appear escaped.
            unfinished.write_text(html, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise PipelineError(f"The report {file} cannot be written ({error.strerror or error}).") from error


def render(report: Report) -> str:
    """The report as HTML."""
    name = max(report.document["models"], key=lambda model: report.document["models"][model]["cosine"]["mean"])
    model = report.document["models"][name]
    mapped = _sample(len(report.truth.paths), MAPPED)
    shown = {*map(int, mapped), *(image["row"] for which in ("worst", "best") for image in model[which])}
    pictures = {row: picture for row in sorted(shown) if (picture := _picture(report.images.files[row]))}
    dots, landmarks = _map(report.judged[name], report.truth, mapped, pictures)
    cells, labels = _confusion(report.judged[name], report.truth)
    drawn = {
        "distributions": charts.distributions(
            report.judged, _ceilings(report), _sample(len(report.truth.paths), TICKS)
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
        loader=jinja2.PackageLoader("pipeline", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("report.html").render(
        document=report.document, name=name, model=model, pictures=pictures, charts=drawn, dots=dots,
        landmarks=landmarks, cells=cells, curves=_curve_rows(report.curves), curve_titles=CURVES,
        made=_made(report), images=report.images.source, script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        of_all=None if len(mapped) == len(report.truth.paths) else len(report.truth.paths),
    )  # fmt: skip


@functools.cache
def javascript() -> str:
    """Vega, Vega-Lite and Vega-Embed as vl-convert (https://github.com/vega/vl-convert) brings them, and what draws."""
    import vl_convert

    return vl_convert.javascript_bundle(DRAW).replace("</script", "<\\/script")


def _sample(count: int, most: int) -> np.ndarray:
    """At most so many row numbers, chosen at random where there are more."""
    return np.sort(np.random.default_rng(0).permutation(count)[:most])


def _ceilings(report: Report) -> list[float]:
    return sorted({round(model["ceiling"], 6) for model in report.document["models"].values()})


def _picture(file: Path | Record) -> str | None:
    """A small version of an image as a data URI; None where it can no longer be read."""
    try:
        data = file.read() if isinstance(file, Record) else image_files.read(file)[0]
        preview = image_files.preview(data, PREVIEW)
    except ImageError:
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(preview).decode()}"


def _map(
    judgement: Judgement, truth: Truth, rows: np.ndarray, pictures: Mapping[int, str]
) -> tuple[list[dict], list[dict]]:
    """Where predicted and true embeddings lie by their first two principal components (scikit-learn's PCA).

    Returns:
        A dot for each prediction and a landmark for each different target; nothing where there are fewer than two
        dimensions or three points.
    """
    from sklearn.decomposition import PCA

    targets, first = np.unique(truth.targets[rows], axis=0, return_index=True)
    points = unit(np.concatenate([judgement.predictions[rows], targets]))
    if min(points.shape[1], len(points) - 1) < 2:
        return [], []
    places = PCA(2, svd_solver="full").fit_transform(points).round(4)
    dots = []
    for row, (x, y) in zip(map(int, rows), places, strict=False):
        right = judgement.found.ranks[row] < 1.5
        dots.append({
            "x": float(x), "y": float(y),
            **({"image": pictures[row]} if row in pictures else {}),
            "title": truth.paths[row],
            "label": truth.labels[row],
            "cosine": f"{judgement.cosines[row]:.3f}",
            "nearest": ", ".join(truth.candidates.names[number] for number in judgement.found.nearest[row]),
            "nearest is": "right" if right else "wrong",
        })  # fmt: skip
    landmarks = [
        {"x": float(x), "y": float(y), "label": truth.labels[rows[at]]}
        for at, (x, y) in zip(first, places[len(rows) :], strict=True)
    ]
    return dots, landmarks if len(landmarks) <= MOST_LABELS else []


def _confusion(judgement: Judgement, truth: Truth) -> tuple[list[dict], list[str]]:
    """How many images of each label have which name nearest; and the labels."""
    nearest = [truth.candidates.names[number] for number in judgement.found.nearest[:, 0]]
    counted = Counter(zip(truth.labels, nearest, strict=True))
    cells = [{"label": label, "nearest": near, "images": count} for (label, near), count in sorted(counted.items())]
    return cells, sorted(set(truth.labels))


def _most(cells: Sequence[Mapping]) -> int:
    """How many rows or columns a confusion has, whichever are more."""
    return max(len({cell[key] for cell in cells}) for key in ("label", "nearest"))


def _curve_rows(curves: Mapping[str, Mapping[str, Sequence[float | None]]]) -> list[tuple]:
    """Rows of some epochs: model, epoch, and a number for each curve."""
    return [
        (model, epoch, [each[name][epoch - 1] for name in CURVES])
        for model, each in curves.items()
        for epoch, _ in charts.thinned(each["loss"], 12)
    ]


def _made(report: Report) -> list[tuple[str, str]]:
    """How the first model was made, line by line."""
    if not report.run:
        return []
    run, recipe = report.run, report.run["recipe"]
    decoder = recipe["decoder"]
    layers = [*map(str, decoder["hidden"])]
    return [
        ("images", str(run["options"].get("images", ""))),
        ("targets", str(run["options"].get("targets", "of the images' list"))),
        ("features", ", ".join(f"{key} {value}" for key, value in run["extractor"].items())),
        ("decoder", f"hidden layers {', '.join(layers) or 'none'}, {decoder['activation']}; "
                    f"output {decoder['output_activation']}"),
        ("training", f"{recipe['epochs']} epochs, batches of {recipe['batch_size']}, {recipe['optimizer']} at "
                     f"{recipe['learning_rate']:g} ({recipe['schedule']}), loss {recipe['loss']}, "
                     f"keeping the {recipe['keep']} epoch"),
        ("split", f"{run['split']['rule']}: {len(run['split']['train'])} to learn from, "
                  f"{len(run['split']['validation'])} held out"),
        ("seed", str(run["seed"])),
        ("versions", ", ".join(f"{key} {value}" for key, value in run["versions"].items())),
        ("once more", f"python -m pipeline train --config {report.folder / RUN_FILE}"),
    ]  # fmt: skip
