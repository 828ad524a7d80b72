"""The study's learning curves as an image, drawn by Altair and vl-convert."""

from pathlib import Path
from typing import Literal, cast

import altair as alt
import numpy as np

from pipeline.core.atomic import atomic_write
from pipeline.studies.shared_optimizer import Study

Format = Literal["png", "svg", "pdf"]
SUFFIXES = (".png", ".svg", ".pdf")
COLOURS = {"functional": "#0072b2", "sequential": "#d55e00"}  # from Okabe and Ito's palette for the colour-blind
POINTS = 200  # per curve; more would not be visible
SCALE = 2  # of a .png, for sharp text; other formats do not need it, and .pdf does not allow it


def plot_study(study: Study, ceiling: float, file: Path) -> None:
    """Plot the cosine after each epoch: a panel for each scenario, a line for each model and seed.

    Args:
        study: The study.
        ceiling: The output ceiling of its decoder.
        file: The `.png`, `.svg` or `.pdf` file to write.

    Raises:
        PipelineError: The file cannot be written.
    """
    with atomic_write(file) as unfinished:
        kind = file.suffix.lower()[1:]
        panels = study_chart(study, ceiling)
        panels.save(str(unfinished), format=cast(Format, kind), scale_factor=SCALE if kind == "png" else 1)


def study_chart(study: Study, ceiling: float) -> alt.FacetChart:
    """The plot of `plot_study` as an Altair chart.

    The layers have no data, because only the data of the whole chart is divided among the panels.
    """
    lines = alt.Chart().encode(
        alt.X("epoch:Q", scale=alt.Scale(type="log", nice=False)),
        alt.Y("cosine:Q", title="cosine to the target"),
        alt.Color("style:N", title=None, scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))),
        alt.StrokeDash("style:N", scale=alt.Scale(domain=list(COLOURS), range=[[1, 0], [6, 4]])),
        alt.Detail("seed:N"),
    )
    limit = alt.Chart().mark_rule(strokeDash=[2, 3], color="#767676").encode(y=alt.datum(ceiling))
    return (
        alt.layer(lines.mark_line(strokeWidth=1.5), limit)
        .properties(width=360, height=220)
        .facet(
            alt.Facet("scenario:N", title=None, sort=list(study.scenarios)),
            columns=2,
            data=alt.Data(values=_points(study)),
        )
    )


def _points(study: Study) -> list[dict]:
    """The points of all curves, at epochs evenly spaced on a logarithmic scale."""
    return [
        {"scenario": name, "style": style, "seed": pair.seed, "epoch": int(epoch), "cosine": curve[epoch - 1]}
        for name, pairs in study.scenarios.items()
        for pair in pairs
        for style, history in pair.histories.items()
        for curve in [history.curves["validation_cosine"]]
        for epoch in np.unique(np.geomspace(1, len(curve), POINTS).round().astype(int))
    ]
