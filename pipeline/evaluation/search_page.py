"""The page of a search: one HTML file of thumbnails with the looks of the report, and like it without any request."""

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
    """An image that a search found: its path, its cosine to the query, and its label, "" where it has none."""

    path: str
    cosine: float
    label: str = ""


@dataclass(frozen=True)
class SearchPage:
    """The content of a page.

    Attributes:
        query: What was looked for.
        source: Where the images are from.
        space: "features" or "embeddings".
        model: The decoder file, or None.
        extractor: The extractor's description.
        searched: How many images were searched.
        found: The images, the nearest first.
        refs: The same images, to show them.
        query_ref: The image that was looked for; None for a word or a vector.
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
    """Write a page, whole or not at all.

    Args:
        file: Where to write it.
        page: Its content.

    Raises:
        PipelineError: It cannot be written.
    """
    hits = zip(page.found, preview_uris(page.refs), (_link(ref, file) for ref in page.refs), strict=True)
    html = template("search.html").render(
        page=page,
        hits=list(hits),
        query_preview=preview_uris([page.query_ref])[0] if page.query_ref else None,
    )
    with atomic_write(file) as unfinished:
        # A folder's name may hold bytes that are not UTF-8; they appear escaped.
        unfinished.write_text(html, encoding="utf-8", errors="backslashreplace")


def _link(ref: ImageRef, page: Path) -> str | None:
    """The address of an image relative to a page; None for one that is no file on this machine."""
    if ref.is_remote or not ref.is_file:
        return None
    try:
        relative = os.path.relpath(ref.uri, page.parent)
    except ValueError:  # another drive, on Windows
        return Path(ref.uri).as_uri()
    return urllib.parse.quote(os.fsencode(relative.replace(os.sep, "/")))
