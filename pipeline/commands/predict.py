"""`predict`: a saved decoder and images -> a file of embeddings, optionally with the nearest words."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.commands.own_models import card_of, load_any, predict_from_pixels, takes_pixels
from pipeline.commands.saved_decoders import (
    DecoderName,
    decoder_of,
    extractors_of,
    images_and_targets,
    run_beside,
    warn_of_weak_decoder,
)
from pipeline.commands.scoring import names_of, words_of
from pipeline.core.atomic import check_output_file
from pipeline.core.errors import Parameter, RequestError
from pipeline.core.vector_files import SUFFIXES, NearestNames, write_vectors
from pipeline.data.images import ImageSet
from pipeline.decoders.network import Predictions
from pipeline.evaluation.retrieval import Candidates, find_nearest
from pipeline.features.extraction import ExtractionOptions, extract_features
from pipeline.features.extractor import ExtractorOptions, describe, fingerprint
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
    file = decoder_of(options.model, options.api)
    if takes_pixels(file):
        return _predict_from_pixels(file, options, extraction)
    card = card_of(file, options.extractor)
    extractors = extractors_of(card, options.extractor)
    description = describe(extractors)
    card.check_features(file, description)
    warn_of_weak_decoder(file)
    model = load_any(file)
    candidates = _candidates(options, file, card.target_dim) if options.nearest else None
    features = extract_features(options.images, extractors, extraction)
    predictions = Predictions(model, replace(features, scales=card.scales).stored())
    # Writing predicts again: that costs less than keeping the predictions of any number of images in memory.
    nearest = find_nearest(predictions, candidates, options.nearest) if candidates and options.nearest else None
    write_vectors(options.out, "predictions", features.paths, predictions, nearest)
    return PredictResult(
        model=str(file),
        images=len(features.paths) + len(features.failed),
        computed=features.computed,
        cached=features.cached,
        failed=features.failed,
        dim=card.target_dim,
        extractor={"fingerprint": fingerprint(description), **description},
        out=str(options.out),
        candidates=len(candidates) if candidates else None,
        nearest=_shown(features.paths, nearest) if nearest else [],
    )


def _predict_from_pixels(file: Path, options: PredictOptions, extraction: ExtractionOptions) -> PredictResult:
    """Predict with the user's own model that takes pixels; no features are extracted."""
    features, predictions = predict_from_pixels(file, options.images, extraction)
    dim = predictions.shape[1]
    candidates = _candidates(options, file, dim) if options.nearest else None
    nearest = find_nearest(predictions, candidates, options.nearest) if candidates and options.nearest else None
    write_vectors(options.out, "predictions", features.paths, predictions, nearest)
    return PredictResult(
        model=str(file),
        images=len(options.images),
        computed=len(features.paths),
        cached=0,
        failed=features.failed,
        dim=dim,
        extractor={},
        out=str(options.out),
        candidates=len(candidates) if candidates else None,
        nearest=_shown(features.paths, nearest) if nearest else [],
    )


def _candidates(options: PredictOptions, file: Path, dim: int) -> Candidates:
    """The words of the vocabulary, or else the labels of the decoder's run."""
    if options.vocabulary:
        return Candidates(words_of(options.vocabulary, dim))
    run = run_beside(file)
    if run is None or "images" not in run.options:
        raise RequestError(
            f"There is no run beside {file} to take labels from; name words with ",
            Parameter("vocabulary", "FILE"),
            ".",
        )
    images, table = images_and_targets(run.options, data_dir=options.data_dir)
    return Candidates(names_of(table, images))


def _shown(paths: Sequence[str], nearest: NearestNames) -> list[Neighbours]:
    rows = slice(0, SHOWN)
    cosines = nearest.cosines[rows].tolist()
    return [Neighbours(*row) for row in zip(paths[rows], nearest.of(rows), cosines, strict=True)]
