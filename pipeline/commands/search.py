"""`search`: a query and images -> the images nearest to the query by cosine of features or embeddings."""

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.commands.examples import Source
from pipeline.commands.indexed_search import IndexedSearch
from pipeline.commands.options import SearchOptions
from pipeline.commands.saved_decoder import SavedDecoder, decoder_file
from pipeline.commands.scoring import names_of
from pipeline.core.atomic import check_output_file
from pipeline.core.errors import ImageError, Parameter, RequestError
from pipeline.core.locations import is_bucket_url
from pipeline.core.nearest import find_rows
from pipeline.core.vectors import Vectors
from pipeline.core.wording import counted, near_spellings
from pipeline.data import decoding
from pipeline.data.binary_tables import read_npy
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.sources import find_images
from pipeline.data.word_vectors import is_word_vectors, read_word_vectors
from pipeline.evaluation.report import PREVIEW, SUFFIXES
from pipeline.evaluation.search_page import FoundImage, SearchPage, write_search_page
from pipeline.features.extraction import extract_features
from pipeline.features.extractor import Extractor, describe, fingerprint, total_dim
from pipeline.features.features import Features
from pipeline.features.options import ExtractionOptions
from pipeline.features.survey import Failure
from pipeline.features.vector_index import KIND, require_folder

log = logging.getLogger(__name__)

Space = Literal["features", "embeddings"]


@dataclass(frozen=True)
class SearchResult:
    """The result of `search`.

    Attributes:
        query: The query.
        space: "features" or "embeddings".
        model: The decoder file, or None.
        images: The number of images.
        computed: The number of features computed now.
        cached: The number of features already in the store.
        failed: The images that were skipped, with the cause.
        extractor: The extractor's fingerprint and description.
        found: The nearest images, nearest first; if the query is one of the images, it is left out.
        report: The page, or None.
        index: The kind of index; None if the search was exact.
        recall: The share of true neighbours that the index found when it was built; None without an index.
    """

    query: str
    space: Space
    model: str | None
    images: int
    computed: int
    cached: int
    failed: Sequence[Failure]
    extractor: Mapping[str, str]
    found: Sequence[FoundImage]
    report: str | None = None
    index: str | None = None
    recall: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `search`."""
        return asdict(self)


def search(options: SearchOptions) -> SearchResult:
    """Find the images nearest to a query by cosine, in blocks from the feature store or with its index.

    Args:
        options: Query, images and space.

    Returns:
        The nearest images; ties are in path order.

    Raises:
        RequestError: The query, the model or the vocabulary cannot be used, or they do not fit each other.
        PipelineError: No image could be read, the feature stage failed, or the page cannot be written.
    """
    _check_files(options)
    extraction = options.extraction
    searched, space = options.sources.find(options.images), _Space.of(options, extraction)
    query = _query_vector(options, space, extraction)
    query_ref = find_images(options.query).refs[0] if options.is_image else None
    features = extract_features(searched, space.extractors, extraction)
    indexed = _indexed(options, features)
    rows, cosines = _nearest(query, query_ref, options.k, indexed or space.vectors(features), features.images)
    images, description = features.images.subset(rows), describe(space.extractors)
    found = [FoundImage(*image) for image in zip(images.paths, cosines, images.labels, strict=True)]
    if options.report:
        page = SearchPage(
            query=options.query,
            source=images.source,
            space=options.in_space,
            model=space.model,
            extractor=description,
            searched=len(features.paths),
            found=found,
            refs=images.refs,
            query_ref=query_ref,
        )
        write_search_page(options.report, page)
    return SearchResult(
        query=options.query,
        space=options.in_space,
        model=space.model,
        images=len(features.paths) + len(features.failed),
        computed=features.computed,
        cached=features.cached,
        failed=features.failed,
        extractor={"fingerprint": fingerprint(description), **description},
        found=found,
        report=str(options.report) if options.report else None,
        index=KIND if indexed else None,
        recall=indexed.recall if indexed else None,
    )


def _check_files(options: SearchOptions) -> None:
    if options.report:
        check_output_file(options.report, SUFFIXES, "report")
    files = (options.query, options.query.rpartition("#")[0])  # the second if the query is an image inside a file
    if options.is_image and not is_bucket_url(options.query) and not any(map(os.path.isfile, files)):
        raise RequestError(f"The query {options.query} does not exist.")


def _nearest(
    query: np.ndarray, query_ref: ImageRef | None, k: int, searched: IndexedSearch | Vectors, images: ImageSet
) -> tuple[list[int], list[float]]:
    """The rows and cosines of the images nearest to a query; if the query is one of the images, it is left out."""
    count = k + (query_ref is not None)
    if isinstance(searched, IndexedSearch):
        rows, cosines = searched.find(query, count)
    else:
        [rows], [cosines] = find_rows(query[None], searched, count)
    if query_ref:
        others = [not _is_same_file(images.refs[row], query_ref) for row in rows]
        rows, cosines = rows[others], cosines[others]
    return rows[:k].tolist(), cosines[:k].tolist()


def _is_same_file(image: ImageRef, query: ImageRef) -> bool:
    """Whether an image is the query itself, not a copy of it."""
    if image.uri == query.uri:
        return True
    with contextlib.suppress(OSError):
        return os.path.samefile(image.uri, query.uri)
    return False


def _indexed(options: SearchOptions, features: Features) -> IndexedSearch | None:
    """The search with the index, if it is requested and there are many images."""
    if not options.index:
        return None
    if len(features.paths) <= options.index_above:
        log.info(
            "%s: the search is exact; the index is used above %s.",
            counted(len(features.paths), "image"),
            f"{options.index_above:,}",
        )
        return None
    return IndexedSearch(features)


@dataclass(frozen=True)
class _Space:
    """The space to search: the features of extractors, or the embeddings that a decoder predicts from them."""

    extractors: Sequence[Extractor]
    decoder: SavedDecoder | None
    is_embeddings: bool

    @classmethod
    def of(cls, options: SearchOptions, extraction: ExtractionOptions) -> "_Space":
        """The space that the options select; an error for an index of several layers, or of a store in a bucket."""
        decoder = SavedDecoder.open(decoder_file(options.model), options.extractor) if options.model else None
        extractors = decoder.extractors if decoder else options.extractor.extractors()
        if options.index and len(extractors) > 1:
            raise RequestError(
                Parameter("index", True),
                " is for the features of one layer; name one with ",
                Parameter("layer", "NAME"),
                ", or leave it out.",
            )
        if options.index:
            require_folder(extraction.cache)
        if decoder and options.in_space == "embeddings":
            decoder.load().warn_if_weak()
            return cls(extractors, decoder, True)
        return cls(extractors, decoder, False)

    @property
    def model(self) -> str | None:
        """The decoder file, or None."""
        return str(self.decoder.file) if self.decoder else None

    @property
    def dim(self) -> int:
        return self.decoder.dim if self.decoder and self.is_embeddings else total_dim(self.extractors)

    def vectors(self, features: Features) -> Vectors:
        """The vectors of images in this space, computed when they are read."""
        if self.decoder is None:
            return features.stored()
        return self.decoder.predictions(features) if self.is_embeddings else self.decoder.inputs(features)


def _query_vector(options: SearchOptions, space: _Space, extraction: ExtractionOptions) -> np.ndarray:
    """The vector of an image, a word or a file; an error if its dimension is not the space's."""
    if options.is_image:
        return space.vectors(_query_feature(options.query, space.extractors, extraction))[:][0]
    vector = _word_vector(options, space) if options.is_word else _vector_of_file(Path(options.query))
    if len(vector) != space.dim:
        raise RequestError(
            f"The query {options.query} has dimension {len(vector)}; the {options.in_space} have {space.dim}."
        )
    return vector


def _query_feature(file: str, extractors: Sequence[Extractor], extraction: ExtractionOptions) -> Features:
    """The feature of the query image, which must be readable."""
    image = find_images(file)
    try:
        decoding.preview(image.refs[0].read()[0], PREVIEW)
    except ImageError as error:
        raise RequestError(f"The query {file} cannot be read: {error}.") from error
    return extract_features(image, extractors, extraction)


def _vector_of_file(file: Path) -> np.ndarray:
    vector = read_npy(file)
    if vector.size != max(vector.shape, default=0) or vector.dtype.kind not in "fiu" or not np.isfinite(vector).all():
        raise RequestError(f"The query {file} must hold one vector of finite numbers, not {vector.shape}.")
    return vector.reshape(-1)


def _word_vector(options: SearchOptions, space: _Space) -> np.ndarray:
    """The vector of a word: from the vocabulary, or else a label of the run or a word in its file of targets."""
    word = options.query
    advice: tuple[object, ...] = ()
    if options.vocabulary:
        vectors, near = read_word_vectors(options.vocabulary, [word])
        source = f"the vocabulary {options.vocabulary}"
    else:
        assert space.decoder  # SearchOptions rejects a word without a model
        run = space.decoder.run_with("words from; name ", Parameter("vocabulary", "FILE"), ".")
        labelled = Source.of_run(run, options.sources.data_dir)
        vectors = dict(names_of(labelled.table, labelled.images))
        near = {} if word in vectors else near_spellings({word: [word]}, vectors)
        source = "the labels of the run"
        advice = " Name a file of word vectors that has it with ", Parameter("vocabulary", "FILE"), "."
        targets = run.options.get("targets")
        if word not in vectors and targets and is_word_vectors(Path(targets)):
            vectors, near = read_word_vectors(Path(targets), [word])
            source = f"the words of {targets}, which the run was trained on"
    if word in vectors:
        return vectors[word]
    similar = f" Near spellings: {', '.join(near[word])}." if near.get(word) else ""
    raise RequestError(f"The word {word!r} is not among {source}.{similar}", *advice)
