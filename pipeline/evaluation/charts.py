"""The report's charts, made by Altair (VanderPlas et al. 2018) as Vega-Lite documents."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import altair as alt
import numpy as np

from pipeline.evaluation.dimensions import Distribution
from pipeline.evaluation.embedding_map import HEIGHT, LONGEST_LABEL, MARGIN, Dot, EmbeddingMap
from pipeline.evaluation.metrics import ScoredPredictions

# From Okabe and Ito's palette for the colour-blind, with a contrast of at least 3:1 to white and to near-black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#8a6fb0", "#767676")
TRUE, RIGHT, WRONG = "#767676", "#0072b2", "#d55e00"
LONGEST_NAME = 120  # pixels
MOST_ROWS = 20  # of a matrix with the names of its rows
POSITION = ("x", "y", "true x", "true y")  # of a dot on the map

_RIGHT_OR_WRONG = alt.Color("nearest is:N", scale=alt.Scale(domain=["right", "wrong"], range=[RIGHT, WRONG]))


def _styled(chart: Any, height: int) -> dict:
    """A chart as wide as its container, with a transparent background for light and dark pages."""
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    return (
        chart.properties(width="container", height=height, background="transparent", autosize=fit)
        .configure(font="system-ui")
        .configure_view(stroke=None)
        .configure_axis(labelLimit=LONGEST_NAME, titleFontWeight="normal")
        .configure_legend(orient="top", title=None, labelLimit=LONGEST_NAME, columns=3)
        .to_dict()
    )


def _values(rows: Iterable[Mapping], name: str | None = None) -> Any:
    chart = alt.Chart(alt.Data(values=list(rows)))
    return chart.properties(name=name) if name else chart


def _colour_scale(names: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(names), range=[COLOURS[number % len(COLOURS)] for number in range(len(names))])


def distributions(
    scored: Mapping[str, ScoredPredictions],
    output_ceilings: Sequence[float],
    noise_ceiling: float | None,
    rows: np.ndarray,
) -> dict:
    """Cosines of models and baselines: a tick for each image, the mean with its interval, the ceilings.

    Args:
        scored: Name -> scored predictions.
        output_ceilings: Drawn as dotted lines.
        noise_ceiling: Drawn as a dashed line, or None.
        rows: The images that get a tick.
    """
    ticks = [
        {"name": name, "cosine": float(predictions.cosines[row])}
        for name, predictions in scored.items()
        for row in rows
    ]
    means = [
        {"name": name, "mean": cosine.mean, "low": low, "high": high}
        for name, cosine in ((name, predictions.scores.cosine) for name, predictions in scored.items())
        for low, high in [cosine.ci95 or (cosine.mean, cosine.mean)]
    ]
    ceilings = [{"ceiling": ceiling, "of": "output"} for ceiling in output_ceilings]
    if noise_ceiling is not None:
        ceilings.append({"ceiling": noise_ceiling, "of": "noise"})
    y = alt.Y("name:N", sort=list(scored), title=None)
    colour = alt.Color("name:N", scale=_colour_scale(list(scored)), legend=None)
    x = alt.X("cosine:Q", title="cosine to the target", scale=alt.Scale(zero=False, nice=True))
    dashes = alt.Scale(domain=["output", "noise"], range=[[2, 3], [8, 4]])
    layers = [
        _values(ticks).mark_tick(thickness=1.5, opacity=0.6).encode(x, y, color=colour),
        _values(means).mark_rule(strokeWidth=3).encode(alt.X("low:Q"), y, x2="high:Q", color=colour),
        _values(means).mark_point(size=90, filled=True, opacity=1).encode(alt.X("mean:Q"), y, color=colour),
        _values(ceilings)
        .mark_rule(strokeWidth=2, color=TRUE)
        .encode(alt.X("ceiling:Q"), strokeDash=alt.StrokeDash("of:N", scale=dashes, legend=None)),
    ]
    return _styled(alt.layer(*layers), 34 * len(scored))


def histogram(values: Distribution, title: str, counted: str) -> dict:
    """A histogram of values, with a dashed line at their median.

    Args:
        values: The distribution of the values.
        title: The title of the horizontal axis.
        counted: The title of the vertical axis, such as "images".
    """
    bars = [
        {"low": low, "high": high, "count": count}
        for (low, high), count in zip(itertools.pairwise(values.edges), values.counts, strict=True)
    ]
    x = alt.X("low:Q", bin="binned", title=title, axis=alt.Axis(tickCount=5))
    y = alt.Y("count:Q", title=counted, axis=alt.Axis(tickMinStep=1, format="d", tickCount=4))
    layers = [
        _values(bars).mark_bar(color=COLOURS[0]).encode(x, y, x2="high:Q"),
        _values([{"median": values.median}])
        .mark_rule(strokeDash=[6, 4], strokeWidth=2, color="currentColor")
        .encode(alt.X("median:Q")),
    ]
    return _styled(alt.layer(*layers), 160)


def bars(values: Mapping[str, float], title: str) -> dict:
    """A horizontal bar for each name, in order.

    Args:
        values: Name -> its value.
        title: The title of the horizontal axis.
    """
    rows = [{"name": name, "value": value} for name, value in values.items()]
    chart = _values(rows).mark_bar(color=COLOURS[0])
    return _styled(
        chart.encode(alt.X("value:Q", title=title), alt.Y("name:N", sort=list(values), title=None)), 34 * len(rows)
    )


def points(values: Mapping[str, tuple[float, tuple[float, float] | None]], title: str) -> dict:
    """A point with its interval for each name, in order.

    Args:
        values: Name -> its value, and its interval or None.
        title: The title of the horizontal axis.
    """
    rows = [
        {"name": name, "value": value, "low": (interval or (value,))[0], "high": (interval or (value,))[-1]}
        for name, (value, interval) in values.items()
    ]
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False))
    y = alt.Y("name:N", sort=list(values), title=None)
    layers = [
        _values(rows).mark_rule(strokeWidth=2, color=COLOURS[0]).encode(alt.X("low:Q"), y, x2="high:Q"),
        _values(rows).mark_point(filled=True, opacity=1, size=70, color=COLOURS[0]).encode(x, y),
    ]
    return _styled(alt.layer(*layers), 34 * len(rows))


def curve(points: Sequence[tuple[int, float, tuple[float, float] | None]]) -> dict:
    """Held-out cosines over the number of training images, on a logarithmic axis.

    Args:
        points: The number of images, the cosine, and its interval or None.
    """
    rows = [
        {"images": images, "cosine": cosine, "low": (interval or (cosine,))[0], "high": (interval or (cosine,))[-1]}
        for images, cosine, interval in points
    ]
    ticks = alt.Axis(values=[images for images, *_ in points], format="d")
    x = alt.X("images:Q", title="training images", scale=alt.Scale(type="log", nice=False), axis=ticks)
    y = alt.Y("cosine:Q", title="cosine to the target", scale=alt.Scale(zero=False))
    layers = [
        _values(rows).mark_rule(strokeWidth=2, color=COLOURS[0]).encode(x, alt.Y("low:Q"), y2="high:Q"),
        _values(rows).mark_line(point=alt.OverlayMarkDef(size=60), color=COLOURS[0]).encode(x, y),
    ]
    return _styled(alt.layer(*layers), 220)


def matrix(values: np.ndarray, names: Sequence[str]) -> dict:
    """A square matrix of dissimilarities as a heat map; dark pairs are alike.

    Args:
        values: Shape (C, C).
        names: The name of each row, length C.
    """
    rows = [
        {"row": row, "column": column, "first": names[row], "second": names[column], "dissimilarity": float(value)}
        for (row, column), value in np.ndenumerate(values)
    ]
    down = alt.Y("row:O", axis=None)
    if len(set(names)) == len(names) <= MOST_ROWS:
        down = alt.Y("first:N", sort=list(names), axis=alt.Axis(labelLimit=80, ticks=False, title=None))
    colour = alt.Color("dissimilarity:Q", scale=alt.Scale(scheme="viridis"), legend=alt.Legend(gradientThickness=8))
    tips = [alt.Tooltip(name) for name in ("first:N", "second:N", "dissimilarity:Q")]
    chart = _values(rows).mark_rect().encode(alt.X("column:O", axis=None), down, color=colour, tooltip=tips)
    return _styled(chart, 240)


def learning_curves(curves: Mapping[str, Mapping[str, Sequence[float | None]]], name: str, title: str) -> dict:
    """One learning curve of each model over epochs, on a logarithmic axis.

    Args:
        curves: Model -> curves.
        name: The name of the curve, such as "loss".
        title: The title of the vertical axis.
    """
    values = [
        {"model": model, "epoch": epoch, "value": value}
        for model, curves_of_model in curves.items()
        for epoch, value in thin_out(curves_of_model[name])
    ]
    # Dashes keep both lines visible where one covers the other.
    dashes = alt.Scale(domain=list(curves), range=[[1, 0], [6, 5], [2, 2]])
    chart = _values(values).mark_line(strokeWidth=2)
    return _styled(
        chart.encode(
            alt.X("epoch:Q", scale=alt.Scale(type="log", nice=False), title="epoch"),
            alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)),
            alt.StrokeDash("model:N", scale=dashes),
            color=alt.Color("model:N", scale=_colour_scale(list(curves))),
        ),
        220,
    )


def thin_out(curve: Sequence[float | None], most: int = 200) -> list[tuple[int, float]]:
    """At most `most` points of a curve, with epochs evenly spaced on a logarithmic scale, including the last epoch."""
    epochs = np.unique(np.geomspace(1, max(1, len(curve)), most).round().astype(int)).tolist() if curve else []
    return [(epoch, value) for epoch in epochs if (value := curve[epoch - 1]) is not None]


def map_of_embeddings(embeddings: EmbeddingMap, previews: Mapping[int, str]) -> dict:
    """Predicted embeddings as circles (right) and squares (wrong), joined to labelled crosses for the true ones.

    Args:
        embeddings: The positions.
        previews: Row of an image -> its preview as a data URI, for the tooltip.
    """
    dots = [_dot(dot, previews.get(dot.row)) for dot in embeddings.dots]
    landmarks = [asdict(landmark) for landmark in embeddings.landmarks]
    tooltip = [key for key in dict.fromkeys(itertools.chain(*dots)) if key not in POSITION]
    x, y = _map_axes(dots + landmarks, embeddings.margin)
    crosses = (
        _values(landmarks, name="truths")
        .mark_point(shape="cross", size=70, filled=True, color=TRUE, opacity=1)
        .encode(x, y)
    )
    joins = (
        _values([{key: dot[key] for key in (*POSITION, "nearest is")} for dot in dots if landmarks], name="joins")
        .mark_rule(strokeWidth=1, opacity=0.4)
        .encode(x, y, x2="true x:Q", y2="true y:Q", color=_RIGHT_OR_WRONG)
    )
    labels = [
        _values(landmark for landmark in landmarks if landmark["from_width"] and landmark["offset"] == offset)
        .mark_text(dy=offset, fontSize=11, baseline="middle", limit=LONGEST_LABEL)
        .encode(x, y, text="label:N", opacity=alt.condition("width >= datum.from_width", alt.value(1), alt.value(0)))
        for offset in sorted({landmark["offset"] for landmark in landmarks})
    ]
    shapes = alt.Scale(domain=["right", "wrong"], range=["circle", "square"])
    predictions = (
        _values(dots, name="predictions")
        .mark_point(filled=True, size=70, opacity=0.85)
        .encode(
            x,
            y,
            color=_RIGHT_OR_WRONG,
            shape=alt.Shape("nearest is:N", scale=shapes),
            tooltip=[alt.Tooltip(key, type="nominal") for key in tooltip],
        )
    )
    return _styled(alt.layer(joins, crosses, predictions, *labels), HEIGHT)


def _dot(dot: Dot, preview: str | None) -> dict[str, Any]:
    """The position and the tooltip of a predicted embedding."""
    return {
        "x": dot.x,
        "y": dot.y,
        "true x": dot.true_x,
        "true y": dot.true_y,
        **({"image": preview} if preview else {}),
        "title": dot.path,
        "label": dot.label,
        "cosine": f"{dot.cosine:.3f}",
        "nearest": ", ".join(dot.nearest),
        "nearest is": "right" if dot.is_right else "wrong",
    }


def _map_axes(points: Sequence[Mapping], margin: float) -> tuple[alt.X, alt.Y]:
    """Axes that leave room for labels around the outermost points."""
    axis = alt.Axis(labels=False, ticks=False, grid=False, domain=False)
    x, y = ([min(values), max(values)] for values in ([point[key] for point in points] for key in "xy"))
    return (
        alt.X("x:Q", title="first principal component", axis=axis, scale=_exact_scale(x, margin)),
        alt.Y("y:Q", title="second", axis=axis, scale=_exact_scale(y, MARGIN)),
    )


def _exact_scale(domain: Sequence[float], margin: float) -> alt.Scale:
    return alt.Scale(domain=domain, padding=margin, nice=False, zero=False)


def confusion(cells: Sequence[Mapping], labels: Sequence[str]) -> dict:
    """A confusion matrix of labels and nearest names: right predictions blue, wrong ones orange.

    Args:
        cells: `label`, `nearest` and `images`.
        labels: The labels, in display order.
    """
    order = [*labels, *sorted({cell["nearest"] for cell in cells} - set(labels))]
    of_label: Counter[str] = Counter()
    for cell in cells:
        of_label[cell["label"]] += cell["images"]
    values = [
        {
            **cell,
            "share": cell["images"] / of_label[cell["label"]],
            "nearest is": "right" if cell["label"] == cell["nearest"] else "wrong",
        }
        for cell in cells
    ]
    chart = _values(values).encode(
        alt.X("nearest:N", scale=alt.Scale(domain=order), title="nearest to the prediction"),
        alt.Y("label:N", scale=alt.Scale(domain=list(labels)), title="true"),
    )
    # Transparent enough to read the numbers on a light or a dark page.
    opacity = alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.15, 0.6]), legend=None)
    layers = [
        chart.mark_rect().encode(_RIGHT_OR_WRONG, opacity),
        chart.mark_text(fontSize=10).encode(text="images:Q"),
    ]
    return _styled(alt.layer(*layers), 18 * len(labels))
