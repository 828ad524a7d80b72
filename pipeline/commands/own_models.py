"""The user's own Keras models, not saved by `train`: their inputs, and the predictions of those that take pixels.

The card of a model that takes features is made from its shapes and the extractor that the options name. A model that
takes pixels has inputs of RGB values from 0 to 255, shape (224, 224, 3), like those of `export --format keras`; it
needs no extractor.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import ImageError, Parameter, PipelineError, RequestError
from pipeline.core.model_files import ModelCard, is_decoder, load_decoder, load_model, read_card
from pipeline.core.progress import progress_bar
from pipeline.data.decoding import SIDE, decode
from pipeline.data.images import DIGEST, ImageRef, ImageSet, content_digest
from pipeline.decoders.network import predict
from pipeline.features.extraction import ExtractionOptions, Features
from pipeline.features.extractor import ExtractorOptions, describe, fingerprint, total_dim
from pipeline.features.survey import Failure

log = logging.getLogger(__name__)

BATCH = 32


def takes_pixels(file: Path) -> bool:
    """Whether a file is a Keras model from pixels to embeddings.

    Raises:
        RequestError: The file cannot be loaded, or takes neither pixels nor features.
    """
    if is_decoder(file):
        return False
    shape = _shapes(load_model(file), file)[0]
    if len(shape) == 4 and shape not in ((None, SIDE, SIDE, 3), (None, None, None, 3)):
        raise RequestError(f"{file} takes pixels of shape {shape[1:]}; only ({SIDE}, {SIDE}, 3) can be used.")
    return len(shape) == 4


def card_of(file: Path, options: ExtractorOptions) -> ModelCard:
    """The card of a decoder; for the user's own model, made from its shapes and the extractor that options name.

    Args:
        file: The decoder.
        options: The options that name the extractor of its features.

    Raises:
        RequestError: The file cannot be read, or the user's own model does not take features of this extractor.
    """
    if is_decoder(file):
        return read_card(file)
    model = load_model(file)
    inputs, outputs = _shapes(model, file)
    extractors = options.extractors()
    description, dim = describe(extractors), total_dim(extractors)
    if inputs[1] != dim:
        raise RequestError(
            f"{file} takes {inputs[1]} numbers; features by layer {description['layer']!r} have {dim}. Name the "
            "extractor of its features with ",
            Parameter("weights", "FILE"),
            ", ",
            Parameter("layer", "NAME"),
            " and ",
            Parameter("pool", "KIND"),
            ".",
        )
    return ModelCard(
        weights=extractors[0].weights.name,
        fingerprint=fingerprint(description),
        extractor=description,
        feature_dim=dim,
        target_dim=outputs[1],
        output_activation=_output_activation(model),
    )


def load_any(file: Path) -> Any:
    """Load a decoder that `train` saved, or the user's own Keras model.

    Raises:
        RequestError: The file cannot be loaded.
    """
    return load_decoder(file) if is_decoder(file) else load_model(file)


def output_activation_of(file: Path) -> str:
    """The activation of a model's output; "linear" if its last layer has none."""
    return _output_activation(load_model(file))


def _output_activation(model: Any) -> str:
    return getattr(getattr(model.layers[-1], "activation", None), "__name__", "linear")


def _shapes(model: Any, file: Path) -> tuple[tuple, tuple]:
    """The shapes of a model's one input and one output."""
    shapes = [getattr(model, "input_shape", None), getattr(model, "output_shape", None)]
    inputs, outputs = (shape if isinstance(shape, tuple) else () for shape in shapes)
    if len(inputs) not in (2, 4) or len(outputs) != 2 or not outputs[1]:
        raise RequestError(
            f"{file} does not map features (N, F) or pixels (N, {SIDE}, {SIDE}, 3) to embeddings (N, D): its input has "
            f"shape {shapes[0]}, its output {shapes[1]}."
        )
    return inputs, outputs


def predict_from_pixels(file: Path, images: ImageSet, options: ExtractionOptions) -> tuple[Features, np.ndarray]:
    """Predict with a model that takes pixels, a batch at a time.

    Args:
        file: The model.
        images: The images.
        options: The size limit of images, the number of workers, and whether to show progress.

    Returns:
        The images that could be read, as features without layers, and their predictions, shape (N, D), float32.

    Raises:
        PipelineError: No image could be read.
    """
    model = load_model(file)
    rows: list[int] = []
    digests, failed, predictions = [], [], []
    with (
        ThreadPoolExecutor(options.worker_count, "decode") as pool,
        progress_bar(len(images), "image", "predictions", options.progress) as bar,
    ):
        for start in range(0, len(images), BATCH):
            pixels = []
            decoded = pool.map(lambda ref: _decoded(ref, options.max_pixels), images.refs[start : start + BATCH])
            for row, (digest, image) in enumerate(decoded, start):
                if isinstance(image, ImageError):
                    failed.append(Failure(images.paths[row], str(image)))
                else:
                    rows.append(row)
                    digests.append(digest)
                    pixels.append(image)
            if pixels:
                predictions.append(predict(model, np.stack(pixels).astype(np.float32)))
            bar.update(len(images.refs[start : start + BATCH]))
    if not rows:
        raise PipelineError(f"None of the images could be read; the first: {failed[0].path!r} ({failed[0].error}).")
    for failure in failed:
        log.warning("skipped %r: %s", failure.path, failure.error)
    features = Features(
        layers=[],
        images=images.subset(rows),
        digests=np.frombuffer(b"".join(digests), DIGEST),
        failed=failed,
        computed=len(rows),
    )
    return features, np.concatenate(predictions)


def _decoded(ref: ImageRef, max_pixels: int) -> tuple[bytes, np.ndarray | ImageError]:
    """The content digest and the pixels of an image, or why it cannot be read."""
    try:
        content = ref.read()[0]
        return content_digest(content), decode(content, max_pixels)
    except ImageError as error:
        return b"", error
