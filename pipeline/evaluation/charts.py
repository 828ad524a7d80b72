"""The report's charts, made by Altair (VanderPlas et al. 2018) as Vega-Lite documents."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from pipeline.evaluation.metrics import ScoredPredictions

# Of Okabe and Ito, told apart by the colour-blind, and at least 3:1 against white and against near-black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#8a6fb0", "#767676")
TRUE, RIGHT, WRONG = "#767676", "#0072b2", "#d55e00"
LONGEST_NAME = 120  # pixels

_RIGHT_OR_WRONG = alt.Color("nearest is:N", scale=alt.Scale(domain=["right", "wrong"], range=[RIGHT, WRONG]))


def _styled(chart: Any, height: int) -> dict:
    """A chart as wide as its place, without a ground of its own, so that it suits light and dark pages."""
    return (
        chart.properties(
            width="container", height=height, background="transparent",
            autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        )
        .configure(font="system-ui")
        .configure_view(stroke=None)
        .configure_axis(labelLimit=LONGEST_NAME, titleFontWeight="normal")
        .configure_legend(orient="top", title=None, labelLimit=LONGEST_NAME, columns=3)
        .to_dict()
    )  # fmt: skip


def _coloured(names: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(names), range=[COLOURS[at % len(COLOURS)] for at in range(len(names))])


def distributions(scored: Mapping[str, ScoredPredictions], ceilings: Sequence[float], rows: np.ndarray) -> dict:
    """Cosines of models and baselines: a tick for each image, the mean with its interval, the ceilings dotted.

    Args:
        scored: Name -> scored predictions.
        ceilings: Where to mark a ceiling.
        rows: Which images to draw.
    """
    ticks = [{"name": name, "cosine": float(each.cosines[row])} for name, each in scored.items() for row in rows]
    means = [
        {"name": name, "mean": cosine.mean, "low": low, "high": high}
        for name, cosine in ((name, each.scores.cosine) for name, each in scored.items())
        for low, high in [cosine.ci95 or (cosine.mean, cosine.mean)]
    ]
    y = alt.Y("name:N", sort=list(scored), title=None)
    colour = alt.Color("name:N", scale=_coloured(list(scored)), legend=None)
    x = alt.X("cosine:Q", title="cosine to the target", scale=alt.Scale(zero=False, nice=True))
    return _styled(
        alt.layer(
            alt.Chart(alt.Data(values=ticks)).mark_tick(thickness=1.5, opacity=0.6).encode(x, y, color=colour),
            alt.Chart(alt.Data(values=means)).mark_rule(strokeWidth=3).encode(
                alt.X("low:Q"), y, x2="high:Q", color=colour
            ),
            alt.Chart(alt.Data(values=means)).mark_point(size=90, filled=True, opacity=1).encode(
                alt.X("mean:Q"), y, color=colour
            ),
            alt.Chart(alt.Data(values=[{"ceiling": ceiling} for ceiling in ceilings]))
            .mark_rule(strokeDash=[2, 3], strokeWidth=2, color=TRUE)
            .encode(alt.X("ceiling:Q")),
        ),
        34 * len(scored),
    )  # fmt: skip


def learning_curves(curves: Mapping[str, Mapping[str, Sequence[float | None]]], name: str, title: str) -> dict:
    """One of the curves of each model, epoch by epoch, with logarithmic epochs.

    Args:
        curves: Model -> curves.
        name: Which of them, such as "loss".
        title: What the vertical axis is called.
    """
    values = [
        {"model": model, "epoch": epoch, "value": value}
        for model, each in curves.items()
        for epoch, value in thinned(each[name])
    ]
    return _styled(
        alt.Chart(alt.Data(values=values))
        .mark_line(strokeWidth=2)
        .encode(
            alt.X("epoch:Q", scale=alt.Scale(type="log", nice=False), title="epoch"),
            alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)),
            # Where one line covers the other, both are seen.
            alt.StrokeDash("model:N", scale=alt.Scale(domain=list(curves), range=[[1, 0], [6, 5], [2, 2]])),
            color=alt.Color("model:N", scale=_coloured(list(curves))),
        ),
        220,
    )


def thinned(curve: Sequence[float | None], most: int = 200) -> list[tuple[int, float]]:
    """At most so many points of a curve, the epochs evenly apart on a logarithmic scale, the last among them."""
    epochs = np.unique(np.geomspace(1, max(1, len(curve)), most).round().astype(int)).tolist() if curve else []
    return [(epoch, value) for epoch in epochs if (value := curve[epoch - 1]) is not None]


def embedding_map(dots: Sequence[Mapping], landmarks: Sequence[Mapping]) -> dict:
    """Predicted embeddings as dots, true ones as crosses with their labels, in two dimensions.

    Args:
        dots: `x`, `y`, `nearest is` ("right" or "wrong") and what pointing at the dot shows: `image` (a data URI),
            `title` and more.
        landmarks: `x`, `y` and `label`.
    """
    shown = [key for key in dict.fromkeys(itertools.chain(*dots)) if key not in ("x", "y")]
    plain: dict[str, Any] = {
        "axis": alt.Axis(labels=False, ticks=False, grid=False, domain=False),
        "scale": alt.Scale(zero=False),
    }
    x, y = alt.X("x:Q", title="first principal component", **plain), alt.Y("y:Q", title="second", **plain)
    crosses = alt.Chart(alt.Data(values=list(landmarks))).encode(x, y)
    return _styled(
        alt.layer(
            crosses.mark_point(shape="cross", size=70, filled=True, color=TRUE, opacity=1),
            crosses.mark_text(dy=-11, fontSize=11).encode(text="label:N"),
            alt.Chart(alt.Data(values=list(dots)))
            .mark_point(filled=True, size=70, opacity=0.85)
            .encode(
                x, y,
                color=_RIGHT_OR_WRONG,
                shape=alt.Shape("nearest is:N", scale=alt.Scale(domain=["right", "wrong"], range=["circle", "square"])),
                tooltip=[alt.Tooltip(key, type="nominal") for key in shown],
            ),
        ),
        420,
    )  # fmt: skip


def confusion(cells: Sequence[Mapping], labels: Sequence[str]) -> dict:
    """Which names are nearest to the predictions for each label: the right one blue, others orange, fuller for more.

    Args:
        cells: `label`, `nearest` and `images`.
        labels: In which order to show them.
    """
    order = [*labels, *sorted({cell["nearest"] for cell in cells} - set(labels))]
    of_label: Counter[str] = Counter()
    for cell in cells:
        of_label[cell["label"]] += cell["images"]
    values = [
        {**cell, "share": cell["images"] / of_label[cell["label"]],
         "nearest is": "right" if cell["label"] == cell["nearest"] else "wrong"}
        for cell in cells
    ]  # fmt: skip
    return _styled(
        alt.Chart(alt.Data(values=values))
        .mark_rect()
        .encode(
            alt.X("nearest:N", scale=alt.Scale(domain=order), title="nearest to the prediction"),
            alt.Y("label:N", scale=alt.Scale(domain=list(labels)), title="true"),
            _RIGHT_OR_WRONG,
            alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.2, 1]), legend=None),
        ),
        18 * len(labels),
    )
