"""The results page of a search: a self-contained HTML file of thumbnails, in the style of the report."""

import os
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.atomic import atomic_write
from pipeline.data.images import ImageRef
from pipeline.evaluation.report import preview_uris, template


@dataclass(frozen=True)
class FoundImage:
    """An image that matches a query: its path, its cosine to the query, and its label ("" for none)."""

    path: str
    cosine: float
    label: str = ""


@dataclass(frozen=True)
class SearchPage:
    """The content of a page.

    Attributes:
        query: The query in words.
        source: The source of the images.
        space: "features" or "embeddings".
        model: The decoder file, or None.
        extractor: The extractor's description.
        searched: The number of images searched.
        found: The images, nearest first.
        refs: References to the same images, for previews and links.
        query_ref: The image of the query; None for a word or a vector.
    """

    query: str
    source: str
    space: str
    model: str | None
    extractor: Mapping[str, str]
    searched: int
    found: Sequence[FoundImage]
    refs: Sequence[ImageRef]
    query_ref: ImageRef | None = None


def write_search_page(file: Path, page: SearchPage) -> None:
    """Write a page atomically.

    Args:
        file: The file to write.
        page: The content.

    Raises:
        PipelineError: The file cannot be written.
    """
    hits = zip(page.found, preview_uris(page.refs), (_link(ref, file) for ref in page.refs), strict=True)
    html = template("search.html").render(
        page=page,
        hits=list(hits),
        query_preview=preview_uris([page.query_ref])[0] if page.query_ref else None,
    )
    with atomic_write(file) as unfinished:
        # A folder's name may contain bytes that are not UTF-8; they are escaped.
        unfinished.write_text(html, encoding="utf-8", errors="backslashreplace")


def _link(ref: ImageRef, page: Path) -> str | None:
    """The address of an image relative to a page; None if it is not a file on this machine."""
    if ref.is_remote or not ref.is_file:
        return None
    try:
        relative = os.path.relpath(ref.uri, page.parent)
    except ValueError:  # another drive, on Windows
        return Path(ref.uri).as_uri()
    return urllib.parse.quote(os.fsencode(relative.replace(os.sep, "/")))
