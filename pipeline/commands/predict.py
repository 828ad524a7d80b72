"""`predict`: a saved decoder and images -> a file of embeddings, optionally with the nearest words."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.commands.examples import Source
from pipeline.commands.saved_decoder import DecoderName, PixelModel, SavedDecoder, decoder_file, open_model
from pipeline.commands.scoring import names_of, words_of
from pipeline.core.atomic import check_output_file
from pipeline.core.errors import Parameter, RequestError
from pipeline.core.vector_files import SUFFIXES, NearestNames, write_vectors
from pipeline.data.images import ImageSet
from pipeline.evaluation.retrieval import Candidates, find_nearest
from pipeline.features.extraction import ExtractionOptions
from pipeline.features.extractor import ExtractorOptions
from pipeline.features.survey import Failure

SHOWN = 20  # images in the result with nearest names; the file has those of all


@dataclass(frozen=True)
class PredictOptions:
    """What to predict, from which images, and with which decoder.

    Attributes:
        model: The folder of a run, or a `.keras` file.
        images: The images.
        out: A `.npz`, `.npy`, `.parquet` or `.csv` file for the embeddings.
        api: Which of the run's decoders: an API style, or "ridge", its baseline; None for the first one it has.
        nearest: The number of nearest names to find for each image; None for none.
        vocabulary: A file of word vectors to find them in; None for the labels that the run was trained on.
        extractor: Settings that replace those of the decoder's extractor.
        data_dir: The folder of TensorFlow data sets for a run's images; None for tensorflow-datasets' default.
    """

    model: Path
    images: ImageSet
    out: Path
    api: DecoderName | None = None
    nearest: int | None = None
    vocabulary: Path | None = None
    extractor: ExtractorOptions = field(default_factory=ExtractorOptions)
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        check_output_file(self.out, SUFFIXES, "out")
        if self.vocabulary and self.nearest is None:
            count = Parameter("nearest", "K")
            raise RequestError("vocabulary is where the nearest words are looked for; say how many with ", count, ".")
        if self.nearest is not None and self.nearest < 1:
            raise RequestError(f"nearest must be at least 1, not {self.nearest}.")
        if self.nearest and self.out.suffix.lower() == ".npy":
            raise RequestError(f"out {self.out}: .npy has no place for the nearest names; take .npz, .parquet or .csv.")


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
        """The `predict` document of the contract."""
        return asdict(self)


def predict(options: PredictOptions, extraction: ExtractionOptions) -> PredictResult:
    """Predict the embeddings of images, and write them a block at a time.

    Args:
        options: Decoder, images and output.
        extraction: How to run the feature stage.

    Returns:
        The counts, the images that failed, and the nearest names of the first images.

    Raises:
        RequestError: The decoder or the vocabulary cannot be used, or they do not fit each other or the features.
        PipelineError: No image could be read, the feature stage failed, or the file cannot be written.
    """
    decoder = open_model(decoder_file(options.model, options.api), options.extractor)
    decoder.warn_if_weak()
    candidates = _candidates(options, decoder) if options.nearest else None
    features, predictions = decoder.predict_images(options.images, extraction)
    # Writing predicts again: that costs less than keeping the predictions of any number of images in memory.
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
    source = Source.of_run(run, options.data_dir)
    return Candidates(names_of(source.table, source.images))


def _shown(paths: Sequence[str], nearest: NearestNames) -> list[Neighbours]:
    rows = slice(0, SHOWN)
    cosines = nearest.cosines[rows].tolist()
    return [Neighbours(*row) for row in zip(paths[rows], nearest.of(rows), cosines, strict=True)]
