"""`search`: images that are near to an image, a word or a vector, by cosine; exact, in blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.commands.saved_decoders import (
    EXTRACTOR_OPTIONS,
    decoder_of,
    extractor_of,
    images_and_targets,
    run_beside,
)
from pipeline.commands.scoring import names_of
from pipeline.core.errors import RequestError, first_line
from pipeline.core.model_files import ModelCard, load_decoder, read_card
from pipeline.core.vectors import Vectors, in_blocks, unit
from pipeline.data.images import ImageSet
from pipeline.data.sources import SUFFIXES, find_images
from pipeline.data.spelling import near_spellings
from pipeline.data.word_vectors import read_word_vectors
from pipeline.decoders.prediction import Predictions
from pipeline.features.extraction import ExtractionOptions, Features, extract_features
from pipeline.features.extractor import Extractor
from pipeline.features.survey import Failure

# Equal vectors have cosines that differ in their last bits; rounded to so many digits they are a tie.
DIGITS = 12

Space = Literal["features", "embeddings"]
QueryKind = Literal["image", "word", "vector"]


@dataclass(frozen=True)
class SearchOptions:
    """What to search for, and where.

    Attributes:
        images: The images to search.
        query: An image file, a `.npy` file of one vector, or a word.
        count: How many images to find.
        space: "features", or "embeddings", which a model predicts; None for embeddings where a model is given.
        model: The folder of a run, or a `.keras` file; for embeddings.
        vocabulary: A file of word vectors that has the word; None for the targets of the model's run.
    """

    images: ImageSet
    query: str
    count: int = 10
    space: Space | None = None
    model: Path | None = None
    vocabulary: Path | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise RequestError(f"count must be at least 1, not {self.count}.")
        if self.space == "embeddings" and self.model is None:
            raise RequestError("space='embeddings' is what a decoder predicts; name one with model=RUN.")
        if self.kind == "word" and self.searched == "features":
            raise RequestError(
                f"{self.query!r} is no file, and a word is looked for among embeddings: name a decoder with model=RUN."
                if self.model is None
                else f"{self.query!r} is no file, and a word has no VGG16 feature; leave space='features' out."
            )
        if self.vocabulary and self.kind != "word":
            raise RequestError(f"vocabulary has the vectors of words, and the query {self.query} is a file.")

    @property
    def searched(self) -> Space:
        """The space that is searched."""
        return self.space or ("embeddings" if self.model else "features")

    @property
    def kind(self) -> QueryKind:
        """What the query is.

        Raises:
            RequestError: It looks like a file that does not exist.
        """
        suffix = Path(self.query).suffix.lower()
        if Path(self.query).is_file():
            return "vector" if suffix == ".npy" else "image"
        if suffix == ".npy" or suffix in SUFFIXES:
            raise RequestError(f"query {self.query}: no such file.")
        return "word"


@dataclass(frozen=True)
class Hit:
    """An image that was found, and its cosine to the query."""

    path: str
    cosine: float


@dataclass(frozen=True)
class SearchResult:
    """The result of `search`.

    Attributes:
        query: The query.
        kind: "image", "word" or "vector".
        space: "features" or "embeddings".
        model: The decoder file, or None.
        images: How many images were searched.
        computed: How many of their features were computed now.
        failed: The images that were skipped, with the cause.
        extractor: The extractor's fingerprint and description.
        hits: The nearest images, the nearest first.
    """

    query: str
    kind: QueryKind
    space: Space
    model: str | None
    images: int
    computed: int
    failed: Sequence[Failure]
    extractor: Mapping[str, str]
    hits: Sequence[Hit]

    def to_json(self) -> dict[str, Any]:
        """The `search` document of the contract."""
        return asdict(self)


@dataclass(frozen=True)
class _Space:
    """How images become the vectors that are compared."""

    extractor: Extractor
    options: ExtractionOptions
    card: ModelCard | None = None
    decoder: Any = None

    @property
    def dim(self) -> int:
        return self.card.target_dim if self.card else self.extractor.dim

    def vectors(self, features: Features) -> Vectors:
        if self.card is None:
            return features.stored()
        return Predictions(self.decoder, replace(features, scales=self.card.scales).stored())

    def features(self, images: ImageSet) -> Features:
        return extract_features(images, self.extractor, self.options)


def search(wanted: SearchOptions, extractor: Extractor | None, options: ExtractionOptions) -> SearchResult:
    """Find the images that are nearest to a query.

    Args:
        wanted: Query, images and space.
        extractor: What turns images into features; None for the model's own.
        options: How to run the feature stage.

    Returns:
        The nearest images and their cosines.

    Raises:
        RequestError: The query or the model cannot be used, or they do not fit each other.
        PipelineError: No image could be read, or the feature stage failed.
    """
    file = decoder_of(wanted.model, None) if wanted.model else None
    space = _space(wanted, file, extractor, options)
    query = _query_vector(wanted, file, space)
    if not query.any():
        raise RequestError(f"query {wanted.query}: its vector is zero, which is near to nothing.")
    features = space.features(wanted.images)
    rows, near = nearest_rows(space.vectors(features), query, wanted.count)
    return SearchResult(
        query=wanted.query,
        kind=wanted.kind,
        space=wanted.searched,
        model=str(file) if file else None,
        images=len(features.paths),
        computed=features.computed,
        failed=features.failed,
        extractor={"fingerprint": space.extractor.fingerprint, **space.extractor.description},
        hits=[Hit(features.paths[row], cosine) for row, cosine in zip(rows.tolist(), near.tolist(), strict=True)],
    )


def nearest_rows(vectors: Vectors, query: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows that are nearest to a query by cosine; exact, reading a block at a time.

    Args:
        vectors: Shape (N, D).
        query: Shape (D,).
        count: How many to find.

    Returns:
        The numbers of the min(count, N) nearest rows, the nearest first and the earlier of equals first, and their
        cosines, float64.
    """
    direction = unit(query)
    rows, near, start = np.zeros(0, np.int64), np.zeros(0), 0
    for block in in_blocks(vectors):
        rows = np.concatenate([rows, np.arange(start, start + len(block))])
        near = np.concatenate([near, unit(block) @ direction])
        start += len(block)
        kept = np.argsort(-near.round(DIGITS), kind="stable")[:count]
        rows, near = rows[kept], near[kept]
    return rows, near.clip(-1, 1)


def _space(wanted: SearchOptions, file: Path | None, extractor: Extractor | None, options: ExtractionOptions) -> _Space:
    card = read_card(file) if file else None
    if extractor is None:
        if card is None:
            raise RequestError("To search features, say what computes them: an extractor, or model=RUN.")
        extractor = extractor_of(card, None, **dict.fromkeys(EXTRACTOR_OPTIONS))
    if wanted.searched == "features" or file is None or card is None:
        return _Space(extractor, options)
    card.check_features(file, extractor.description)
    return _Space(extractor, options, card, load_decoder(file))


def _query_vector(wanted: SearchOptions, file: Path | None, space: _Space) -> np.ndarray:
    """The query in the space that is searched, shape (D,)."""
    if wanted.kind == "image":
        return space.vectors(space.features(find_images(wanted.query)))[np.array([0])][0]
    if wanted.kind == "word":
        assert file  # a word is looked for among embeddings
        vector, where = _word_vector(wanted, file), f"the word {wanted.query!r}"
    else:
        vector, where = _read_vector(Path(wanted.query)), f"the vector in {wanted.query}"
    if len(vector) != space.dim:
        raise RequestError(f"{wanted.searched} have dimension {space.dim}; {where} has {len(vector)}.")
    return vector


def _read_vector(file: Path) -> np.ndarray:
    try:
        vector = np.load(file, allow_pickle=False)
        vector = np.asarray(vector, np.float32)
    except (OSError, ValueError, EOFError) as error:
        raise RequestError(f"query {file} cannot be read as an array of numbers ({first_line(error)}).") from error
    if vector.ndim == 2 and len(vector) == 1:
        vector = vector[0]
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise RequestError(f"query {file} must hold one vector of finite numbers; its shape is {vector.shape}.")
    return vector


def _word_vector(wanted: SearchOptions, file: Path) -> np.ndarray:
    """The vector of the word: the vocabulary's, or that of a label of the run."""
    word = wanted.query
    if wanted.vocabulary:
        found, near = read_word_vectors(wanted.vocabulary, [word])
        if word in found:
            return found[word]
        raise _unknown_word(word, wanted.vocabulary, near.get(word, []))
    run = run_beside(file)
    if run is None or "images" not in run.options:
        raise RequestError(f"There is no run beside {file} to take words from; name some with vocabulary=FILE.")
    images, table = images_and_targets(run.options)
    labels = dict(reversed(names_of(table, images)))
    if word in labels:
        return labels[word]
    raise _unknown_word(word, file.parent, near_spellings({word: [word, word.lower()]}, labels)[word], "targets of ")


def _unknown_word(word: str, where: Path, near: Sequence[str], what: str = "") -> RequestError:
    hint = f" Near in spelling: {', '.join(near)}." if near else ""
    other = "" if not what else " Other words need vocabulary=FILE."
    return RequestError(
        f"query {word!r} is neither a file nor a word of the {what or 'vocabulary '}{where}.{hint}{other}"
    )
