"""`predict`: a saved decoder and images -> a file of embeddings, optionally with the nearest words."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.commands.examples import Source
from pipeline.commands.options import PredictOptions
from pipeline.commands.saved_decoder import PixelModel, SavedDecoder, decoder_file, open_model
from pipeline.commands.scoring import names_of, words_of
from pipeline.core.errors import Parameter
from pipeline.core.vector_files import NearestNames, write_vectors
from pipeline.data.feature_tables import find_or_name, read_features
from pipeline.evaluation.retrieval import Candidates, find_nearest
from pipeline.features.survey import Failure

SHOWN = 20  # images with nearest names in the result; the file has the names for all images


@dataclass(frozen=True)
class Neighbours:
    """The names nearest to an image's embedding, nearest first, and their cosines."""

    path: str
    names: Sequence[str]
    cosines: Sequence[float]


@dataclass(frozen=True)
class PredictResult:
    """The result of `predict`.

    Attributes:
        model: The decoder file.
        images: The number of images.
        computed: The number of features computed now.
        cached: The number of features already in the store.
        failed: The images that were skipped, with the cause.
        dim: The dimension of an embedding.
        extractor: The extractor's fingerprint and description; empty for a model that takes pixels.
        out: The file of the embeddings.
        candidates: The number of candidate names; None without `nearest`.
        nearest: The nearest names of the first SHOWN images.
    """

    model: str
    images: int
    computed: int
    cached: int
    failed: Sequence[Failure]
    dim: int
    extractor: Mapping[str, str]
    out: str
    candidates: int | None = None
    nearest: Sequence[Neighbours] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `predict`."""
        return asdict(self)


def predict(options: PredictOptions) -> PredictResult:
    """Predict the embeddings of images, and write them a block at a time.

    Args:
        options: Decoder, images and output.

    Returns:
        The counts, the images that failed, and the nearest names of the first images.

    Raises:
        RequestError: The decoder or the vocabulary cannot be used, or they do not fit each other or the features.
        PipelineError: No image could be read, the feature stage failed, or the file cannot be written.
    """
    table = read_features(options.extractor.features) if options.extractor.features else None
    decoder = open_model(decoder_file(options.model, options.api), options.extractor, table)
    decoder.warn_if_weak()
    candidates = _candidates(options, decoder) if options.nearest else None
    images = find_or_name(options.sources, options.images, table)
    features, predictions = decoder.predict_images(images, options.extraction)
    # Writing computes the predictions again, because they may not all fit into memory.
    nearest = find_nearest(predictions, candidates, options.nearest) if candidates and options.nearest else None
    write_vectors(options.out, "predictions", features.paths, predictions, nearest)
    card = decoder.card
    return PredictResult(
        model=str(decoder.file),
        images=len(features.paths) + len(features.failed),
        computed=features.computed,
        cached=features.cached,
        failed=features.failed,
        dim=decoder.dim,
        extractor={"fingerprint": card.fingerprint, **card.extractor} if card else {},
        out=str(options.out),
        candidates=len(candidates) if candidates else None,
        nearest=_shown(features.paths, nearest) if nearest else [],
    )


def _candidates(options: PredictOptions, decoder: SavedDecoder | PixelModel) -> Candidates:
    """The words of the vocabulary, or else the labels of the decoder's run."""
    if options.vocabulary:
        return Candidates(words_of(options.vocabulary, decoder.dim))
    run = decoder.run_with("labels from; name words with ", Parameter("vocabulary", "FILE"), ".")
    source = Source.of_run(run, options.sources.data_dir)
    return Candidates(names_of(source.table, source.images))


def _shown(paths: Sequence[str], nearest: NearestNames) -> list[Neighbours]:
    rows = slice(0, SHOWN)
    cosines = nearest.cosines[rows].tolist()
    return [Neighbours(*row) for row in zip(paths[rows], nearest.of(rows), cosines, strict=True)]
