"""`export`: a saved decoder -> a verified model from pixels to embeddings, in a format for other programs."""

import importlib.metadata
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.commands.examples import images_of_run
from pipeline.commands.options import ExportOptions
from pipeline.commands.saved_decoder import SavedDecoder, decoder_file
from pipeline.core.atomic import atomic_folder, atomic_write, check_new_folder, check_output_file
from pipeline.core.errors import Parameter, PipelineError, RequestError
from pipeline.core.model_files import load_model, read_card
from pipeline.core.vectors import cosines
from pipeline.core.wording import counted
from pipeline.data.decoding import decode
from pipeline.data.images import ImageSet
from pipeline.decoders.network import predict
from pipeline.export import onnx_file
from pipeline.export.keras_file import write_keras
from pipeline.export.litert_file import LiteRTFile, write_litert
from pipeline.export.onnx_file import OnnxFile, write_onnx_file
from pipeline.export.whole_model import check_exportable, join_models
from pipeline.features.extraction import extract_features
from pipeline.features.options import ExtractionOptions

log = logging.getLogger(__name__)

CHECKED = 16  # images to verify an exported model on
TOLERANCE = 1e-3  # relative to a prediction's length
ROUNDING = 16  # tolerance in units in the last place of a float32
OF_SPREAD = 0.1  # relative to the predictions' spread; a model that ignores the image is off by 1
SUFFIXES = {"keras": ".keras", "onnx": ".onnx", "litert": ".tflite"}  # of the single-file formats


@dataclass(frozen=True)
class FromBytes:
    """How close a SavedModel's predictions from the bytes of files are to the stored predictions.

    Attributes:
        images: The number of checked images that the endpoint can decode.
        levels: The mean difference between its pixels and ours, in grey levels (of 255).
        most_levels: The largest difference of a pixel.
        cosine: The lowest cosine between a prediction and the stored one.
    """

    images: int
    levels: float
    most_levels: int
    cosine: float


@dataclass(frozen=True)
class ExportResult:
    """The result of `export`.

    Attributes:
        model: The decoder file.
        format: The format.
        out: The folder or file that was written.
        images: The number of images the model was verified on.
        difference: The largest difference from a stored prediction, relative to its length.
        difference_of_spread: The same, relative to the predictions' spread (root mean square distance from their
            mean); None if the decoder predicts the same for all images.
        bytes: The comparison for the bytes of files; None if the format does not take them.
    """

    model: str
    format: str
    out: str
    images: int
    difference: float
    difference_of_spread: float | None
    bytes: FromBytes | None

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `export`."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """The difference between answers and stored predictions; see `ExportResult`."""

    of_length: float
    of_spread: float | None


@dataclass(frozen=True)
class _Checks:
    """Images with the predictions that the exported model must reproduce."""

    files: list[bytes]
    pixels: np.ndarray
    predictions: np.ndarray


def export(options: ExportOptions) -> ExportResult:
    """Export a decoder together with the network that computes its features, and verify the exported model.

    Args:
        options: What to export, and where to.

    Returns:
        How much the exported model's answers differ from the stored predictions.

    Raises:
        RequestError: The decoder, its images or the output path cannot be used.
        PipelineError: The exported model answers differently, or cannot be written; no output is left behind.
    """
    if options.format == "onnx":
        onnx_file.check_installed()
    if options.format in SUFFIXES:
        check_output_file(options.out, (SUFFIXES[options.format],), "out")
    else:
        check_new_folder(options.out, "out")
    images = options.sources.find(options.images) if options.images else None
    file = decoder_file(Path(options.source), options.api)
    if (table := read_card(file).table) is not None:
        raise RequestError(
            f"{file} was trained on the vectors in {table}, not on a network's features, so there is no network to "
            "export with it. The file itself is a plain Keras model from vectors to embeddings; to export its table, "
            "use ",
            Parameter("format", "parquet"),
            ".",
        )
    decoder = SavedDecoder.open(file)
    check_exportable(decoder.extractors, decoder.model.count_params(), options.format)
    if options.format == "onnx":
        onnx_file.check_decoder(decoder.model)
    checks = _load_checks(decoder, images or _images_of(decoder, options.sources.data_dir), options.extraction)
    from_bytes = None
    log.info("Joining VGG16 and the decoder, and writing them as %s.", options.format)
    if options.format == "savedmodel":
        with atomic_folder(options.out) as unfinished:
            difference, from_bytes = _write_savedmodel(decoder, unfinished, checks)
    else:
        # Keras requires the suffix; an unfinished file has the same suffix as the final one.
        with atomic_write(options.out) as unfinished:
            answer = _write_file(options.format, decoder, unfinished)
            log.info("Checking the file on %s.", counted(len(checks.files), "image"))
            difference = check_answers(answer(checks.pixels), checks.predictions, options.format)
    return ExportResult(
        model=str(decoder.file),
        format=options.format,
        out=str(options.out),
        images=len(checks.files),
        difference=difference.of_length,
        difference_of_spread=difference.of_spread,
        bytes=from_bytes,
    )


def _images_of(decoder: SavedDecoder, data_dir: Path | None) -> ImageSet:
    run = decoder.run_with("images from; name some to check on: ", Parameter("images", "IMAGES"), ".")
    return images_of_run(run, data_dir)


def _load_checks(decoder: SavedDecoder, images: ImageSet, extraction: ExtractionOptions) -> _Checks:
    """The first CHECKED images, starting with held-out ones, with predictions from stored features."""
    held_out = decoder.run.split.validation if decoder.run else {}
    order = sorted(range(len(images)), key=lambda row: images.paths[row] not in held_out)
    features = extract_features(images.subset(sorted(order[:CHECKED])), decoder.extractors, extraction)
    files = [ref.read()[0] for ref in features.images.refs]
    return _Checks(
        files=files,
        pixels=np.stack([decode(data, extraction.max_pixels, decoder.extractors[0].resize) for data in files]),
        predictions=decoder.predict(features),
    )


def _describe(decoder: SavedDecoder) -> Mapping[str, Any]:
    """The decoder's card, with the targets it was trained on."""
    run = decoder.run
    return {
        **decoder.card.to_json(),
        "decoder": decoder.file.name,
        "targets": {"file": run.options.get("targets"), "digest": run.targets} if run else None,
        "version": importlib.metadata.version("image-vectors"),
    }


def _write_file(kind: str, decoder: SavedDecoder, file: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Write a single-file format; returns a function from pixels to embeddings that runs the written model."""
    description = _describe(decoder)
    if kind == "onnx":
        write_onnx_file(decoder.extractors, decoder.card, decoder.model, description, file)
        return OnnxFile(file)
    model = join_models(decoder.extractors, decoder.card, decoder.model)
    if kind == "litert":
        write_litert(model, description, file)
        return LiteRTFile(file)
    write_keras(model, description, file)
    return _keras_answers(file)


def _keras_answers(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    model = load_model(file)
    return lambda pixels: predict(model, pixels)


def _write_savedmodel(decoder: SavedDecoder, folder: Path, checks: _Checks) -> tuple[Difference, FromBytes | None]:
    from pipeline.export.image_bytes import decode_batch, is_decoded
    from pipeline.export.savedmodel import SavedModel, write_savedmodel

    takes_bytes = decoder.extractors[0].resize == "squash"
    model = join_models(decoder.extractors, decoder.card, decoder.model)
    write_savedmodel(model, _describe(decoder), folder, takes_bytes)
    log.info("Loading it, and checking it on the pixels of %s.", counted(len(checks.files), "image"))
    written = SavedModel(folder)
    difference = check_answers(written.from_pixels(checks.pixels), checks.predictions, "savedmodel")
    rows = [row for row, data in enumerate(checks.files) if takes_bytes and is_decoded(data)]
    if not rows:
        return difference, None
    log.info("Checking it on the bytes of %s.", counted(len(rows), "file"))
    files = [checks.files[row] for row in rows]
    distances = np.abs(decode_batch(files).numpy().astype(int) - checks.pixels[rows])
    similarity = cosines(written.from_bytes(files), checks.predictions[rows])
    return difference, FromBytes(len(rows), float(distances.mean()), int(distances.max()), float(similarity.min()))


def check_answers(answers: np.ndarray, predictions: np.ndarray, kind: str) -> Difference:
    """Compare the answers of an exported model with the stored predictions.

    Predictions with a large common offset hardly differ relative to their length, so the difference is also measured
    relative to their spread, within float32 precision.

    Args:
        answers: The exported model's predictions, shape (N, D).
        predictions: The stored predictions, shape (N, D).
        kind: The format, named in the error message.

    Raises:
        PipelineError: The largest difference is above TOLERANCE of a length, or OF_SPREAD of the spread.
    """
    float32 = np.finfo(np.float32)
    distances = np.linalg.norm(answers - predictions, axis=1)
    lengths = np.linalg.norm(predictions, axis=1)
    rounding = ROUNDING * float32.eps * lengths
    deviations = np.linalg.norm(predictions - predictions.mean(axis=0, dtype=np.float64), axis=1)
    spread = float(np.sqrt(np.square(deviations).mean()))
    difference = Difference(
        of_length=float((distances / np.maximum(lengths, float32.tiny)).max()),
        of_spread=float(distances.max()) / spread if spread > rounding.max() else None,
    )
    too_far = difference.of_spread is not None and (distances > np.maximum(OF_SPREAD * spread, rounding)).any()
    if too_far or not difference.of_length <= TOLERANCE:
        of_spread = "" if difference.of_spread is None else f", {difference.of_spread:.1e} of their spread"
        raise PipelineError(
            f"The exported {kind} differs from the stored predictions by {difference.of_length:.1e} of their length"
            f"{of_spread} (allowed are {TOLERANCE:g} and {OF_SPREAD:g}); nothing was written. Extract the "
            "features again with another cache folder to see which is wrong."
        )
    return difference
