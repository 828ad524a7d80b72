"""The page of a search: one HTML file of thumbnails with the looks of the report, and like it without any request."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.atomic import atomic_write
from pipeline.data.images import ImageRef
from pipeline.evaluation.report import preview_uris, template


@dataclass(frozen=True)
class FoundImage:
    """An image that a search found, and its cosine to the query."""

    path: str
    cosine: float


@dataclass(frozen=True)
class SearchPage:
    """The content of a page.

    Attributes:
        query: What was looked for.
        source: Where the images are from.
        space: "features" or "embeddings".
        searched: How many images were searched.
        found: The images, the nearest first.
        refs: The same images, to show them.
    """

    query: str
    source: str
    space: str
    searched: int
    found: Sequence[FoundImage]
    refs: Sequence[ImageRef]


def write_search_page(file: Path, page: SearchPage) -> None:
    """Write a page, whole or not at all.

    Args:
        file: Where to write it.
        page: Its content.

    Raises:
        PipelineError: It cannot be written.
    """
    html = template("search.html").render(
        query=page.query,
        source=page.source,
        space=page.space,
        searched=page.searched,
        found=page.found,
        previews=preview_uris(page.refs),
    )
    with atomic_write(file) as unfinished:
        # A folder's name may hold bytes that are not UTF-8; they appear escaped.
        unfinished.write_text(html, encoding="utf-8", errors="backslashreplace")
