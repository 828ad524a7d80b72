"""Sections of a report that only some commands have: text, charts and tables, as data."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        id: Its name in the page, unique in the report.
        title: Its caption.
        document: The Vega-Lite document; see `pipeline.evaluation.charts`.
        said: Where its numbers are, for people who cannot see it.
    """

    id: str
    title: str
    document: dict
    said: str = "The numbers are in the table below."


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        caption: Its caption.
        header: The title of each column.
        rows: The cells of each row; the first is its heading.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes:
        id: Its name in the page, unique in the report.
        title: Its heading.
        paragraphs: Its text.
        charts: Its charts.
        tables: Its tables, which have the numbers of the charts.
        small_charts: Further charts, side by side.
    """

    id: str
    title: str
    paragraphs: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    small_charts: Sequence[Chart] = ()

    @property
    def documents(self) -> dict[str, dict]:
        """The Vega-Lite documents of all charts by their names."""
        return {chart.id: chart.document for chart in (*self.charts, *self.small_charts)}
