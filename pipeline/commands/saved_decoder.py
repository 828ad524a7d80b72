"""Saved decoders (a file with its card, extractor, run and model, each read once), and the user's own models."""

import functools
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from pipeline.commands.options import DecoderName
from pipeline.core.errors import ImageError, Parameter, PipelineError, RequestError
from pipeline.core.model_files import ModelCard, find_equal, is_decoder, load_decoder, load_model, read_card
from pipeline.core.progress import progress_bar
from pipeline.core.runs import RUN_FILE, RunRecord, read_run
from pipeline.core.vectors import Vectors
from pipeline.data.decoding import SIDE, decode
from pipeline.data.feature_tables import FeatureTable
from pipeline.data.images import DIGEST, ImageRef, ImageSet, content_digest
from pipeline.decoders.network import API_STYLES, Predictions, predict
from pipeline.features.extractor import Extractor, fingerprint
from pipeline.features.features import Features
from pipeline.features.options import ExtractionOptions, ExtractorOptions
from pipeline.features.sources import FeatureSource, NetworkSource, TableSource
from pipeline.features.survey import Failure

log = logging.getLogger(__name__)

BATCH = 32  # images at once for a model that takes pixels


@dataclass
class ModelFile:
    """A Keras model in a file, and the run in the file's folder.

    Attributes:
        file: A `.keras` file.
    """

    file: Path

    @property
    def folder(self) -> Path:
        """The folder of the file."""
        return self.file.parent

    @functools.cached_property
    def run(self) -> RunRecord | None:
        """The record of the run in the folder, or None."""
        return read_run(self.folder) if (self.folder / RUN_FILE).exists() else None

    @property
    def trained(self) -> Mapping[str, Any]:
        """How its training went, from its run: "epochs", "seconds", "train_cosine"; empty if unknown."""
        return self.run.trained.get("models", {}).get(self.file.stem, {}) if self.run else {}

    @property
    def curves(self) -> Mapping[str, Sequence[float | None]]:
        """Its learning curves, if known; see `pipeline.decoders.training.History`."""
        return self.run.curves.get(self.file.stem, {}) if self.run else {}

    @property
    def validation_of(self) -> str:
        """The images of its validation curves: "held-out", "selection" or "training"."""
        return self.run.split.validation_of if self.run else "held-out"

    def run_with(self, *purpose: object) -> RunRecord:
        """The record of the run.

        Args:
            purpose: What the run is needed for: the end of the message if there is no run, such as "images from".

        Raises:
            RequestError: There is no run in the folder.
        """
        if self.run is None:
            raise RequestError(f"There is no run next to {self.file} to take ", *purpose)
        return self.run

    def warn_if_weak(self) -> None:
        """Warn if the run shows that the model is not better than the mean target."""
        run = self.run
        if run is None or self.file.stem not in API_STYLES:
            return
        shares = run.trained.get("shares", {})
        if shares and not any(shares.values()):
            log.warning(
                "The decoder %s ignores the image: training found nothing better than the mean target, its answer to "
                "every image.",
                self.file,
            )
        elif run.trained.get("above_mean") is False:
            log.warning(
                "The decoder %s was not shown to be better than always answering the mean target (held-out cosine "
                "%.3f, the mean target's %.3f), so its predictions may say nothing of an image.",
                self.file,
                run.trained["models"][self.file.stem]["validation_cosine"],
                run.trained["baselines"]["mean"],
            )


@dataclass
class SavedDecoder(ModelFile):
    """A model from features to embeddings: a decoder that `train` saved, or the user's own Keras model.

    Attributes:
        card: Its card; for the user's own model, made from the model's shapes and the source of its features.
        source: The source of its features.
    """

    card: ModelCard
    source: FeatureSource
    _loaded: Any = field(default=None, repr=False)

    @classmethod
    def open(
        cls, file: Path, overrides: ExtractorOptions | None = None, table: FeatureTable | None = None
    ) -> "SavedDecoder":
        """Open a decoder that `train` saved.

        Args:
            file: Its `.keras` file.
            overrides: Settings that replace its extractor's; they must not change its features.
            table: The vectors to predict from, if it was trained on vectors of another model.

        Raises:
            RequestError: The file or the weights of its features cannot be used, the overrides change its features, or
                the vectors in the table do not fit it.
        """
        card, overrides = read_card(file), overrides or ExtractorOptions()
        if table is None and card.table is not None:
            card.check_features(file, {}, 0)
        source = TableSource(table) if table else NetworkSource(overrides.applied_to(card.weights, card.extractor))
        card.check_features(file, source.description, source.dim)
        return cls(file, card, source)

    @property
    def extractors(self) -> Sequence[Extractor]:
        """The extractor of each layer of its features; empty for a table of vectors."""
        return self.source.extractors if isinstance(self.source, NetworkSource) else ()

    @property
    def model(self) -> Any:
        """The `keras.Model` from (N, F) to (N, D), loaded on first use."""
        if self._loaded is None:
            self._loaded = load_decoder(self.file)
        return self._loaded

    def load(self) -> Self:
        """Load the model now, so that a damaged file is an error before any features are computed."""
        _ = self.model
        return self

    @property
    def dim(self) -> int:
        """D, the dimension of its embeddings."""
        return self.card.target_dim

    @property
    def output_activation(self) -> str:
        """The activation of its output."""
        return self.card.output_activation

    def inputs(self, features: Features) -> Vectors:
        """The features as the model takes them, read from disk on access; several layers are scaled as in training."""
        return replace(features, scales=self.card.scales).stored()

    def predict(self, features: Features) -> np.ndarray:
        """The predictions for images, shape (N, D), float32."""
        return predict(self.model, self.inputs(features))

    def predictions(self, features: Features) -> Predictions:
        """The predictions for any number of images, computed on access."""
        return Predictions(self.model, self.inputs(features))

    def predict_images(self, images: ImageSet, options: ExtractionOptions) -> tuple[Features, Vectors]:
        """Get the features of images; returns them with the predictions, which are computed on access."""
        self.load()
        features = self.source.features(images, options)
        return features, self.predictions(features)


@dataclass
class PixelModel(ModelFile):
    """The user's own Keras model from pixels, RGB values from 0 to 255, (N, 224, 224, 3), to embeddings, (N, D).

    Attributes:
        model: The `keras.Model`.
        card: None, because it takes no features.
    """

    model: Any
    card: None = None

    @property
    def dim(self) -> int:
        """D, the dimension of its embeddings."""
        return self.model.output_shape[1]

    @property
    def output_activation(self) -> str:
        """The activation of its output; "linear" if its last layer has none."""
        return _output_activation(self.model)

    def predict_images(self, images: ImageSet, options: ExtractionOptions) -> tuple[Features, Vectors]:
        """Predict a batch at a time.

        Args:
            images: The images.
            options: The size limit of images, the number of workers, and whether to show progress.

        Returns:
            The images that could be read, as features without layers, and their predictions, shape (N, D), float32.

        Raises:
            PipelineError: No image could be read.
        """
        rows: list[int] = []
        digests, failed, predictions = [], [], []
        with (
            ThreadPoolExecutor(options.worker_count, "decode") as pool,
            progress_bar(len(images), "image", "predictions", options.progress) as bar,
        ):
            for start in range(0, len(images), BATCH):
                refs, pixels = images.refs[start : start + BATCH], []
                decoded = pool.map(lambda ref: _decode(ref, options.max_pixels), refs)
                for row, (digest, image) in enumerate(decoded, start):
                    if isinstance(image, ImageError):
                        failed.append(Failure(images.paths[row], str(image)))
                    else:
                        rows.append(row)
                        digests.append(digest)
                        pixels.append(image)
                if pixels:
                    predictions.append(predict(self.model, np.stack(pixels).astype(np.float32)))
                bar.update(len(refs))
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


def predict_each(
    decoders: Mapping[str, SavedDecoder], features: Features
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Predict with several decoders, but only once with equal ones.

    Args:
        decoders: Name -> decoder.
        features: The features of N images.

    Returns:
        Name -> predictions, shape (N, D), only for the first of equal decoders; and each name -> the first decoder with
        bit-identical weights, possibly itself.
    """
    equal = find_equal({name: decoder.file for name, decoder in decoders.items()})
    return {name: decoders[name].predict(features) for name in dict.fromkeys(equal.values())}, equal


def _decode(ref: ImageRef, max_pixels: int) -> tuple[bytes, np.ndarray | ImageError]:
    """The content digest and the pixels of an image, or why it cannot be read."""
    try:
        content = ref.read()[0]
        return content_digest(content), decode(content, max_pixels)
    except ImageError as error:
        return b"", error


def open_model(file: Path, overrides: ExtractorOptions, table: FeatureTable | None = None) -> SavedDecoder | PixelModel:
    """Open a decoder that `train` saved, or the user's own Keras model.

    Args:
        file: Its `.keras` file.
        overrides: Settings that replace its extractor's, or define the extractor of the user's own model.
        table: The vectors to predict from, in place of a network's features.

    Raises:
        RequestError: The file cannot be used, or takes neither pixels nor these features.
    """
    if is_decoder(file):
        return SavedDecoder.open(file, overrides, table)
    model = load_model(file)
    inputs = _shapes(model, file)[0]
    if len(inputs) == 2:
        source = TableSource(table) if table else NetworkSource(overrides.extractors())
        return SavedDecoder(file, _card_for(model, file, source), source, model)
    if table:
        raise RequestError(f"{file} takes pixels; name IMAGES, without ", Parameter("features", str(table.file)), ".")
    if inputs not in ((None, SIDE, SIDE, 3), (None, None, None, 3)):
        raise RequestError(f"{file} takes pixels of shape {inputs[1:]}; only ({SIDE}, {SIDE}, 3) can be used.")
    return PixelModel(file, model)


def _card_for(model: Any, file: Path, source: FeatureSource) -> ModelCard:
    """The card of the user's own model, which takes these features."""
    description = source.description
    inputs, outputs = _shapes(model, file)
    if inputs[1] != source.dim:
        raise RequestError(f"{file} takes {inputs[1]} numbers; ", *_other_dim(source))
    return ModelCard(
        weights=source.weights,
        fingerprint=fingerprint(description),
        extractor=description,
        feature_dim=source.dim,
        target_dim=outputs[1],
        output_activation=_output_activation(model),
    )


def _other_dim(source: FeatureSource) -> Sequence[object]:
    """The end of an error message about a model that takes features of another dimension."""
    if isinstance(source, TableSource):
        return (f"the vectors in {source.table.file} have {source.dim}.",)
    parameters = Parameter("weights", "FILE"), ", ", Parameter("layer", "NAME"), " and ", Parameter("pool", "KIND")
    return (
        f"features by layer {source.description['layer']!r} have {source.dim}. Name the extractor of its features "
        "with ",
        *parameters,
        ", or a table of its vectors with ",
        Parameter("features", "FILE"),
        ".",
    )


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


def decoder_files(model: Path) -> list[Path]:
    """The decoder files of a run or a model.

    Args:
        model: The folder of a run, or a `.keras` file.

    Returns:
        The run's decoders, one for each of its API styles; or the file itself, even if it does not exist.

    Raises:
        RequestError: The folder is not a finished run.
    """
    inside = [model / f"{style}.keras" for style in API_STYLES if (model / f"{style}.keras").is_file()]
    if model.is_dir() and not inside:
        if (model / RUN_FILE).is_file():
            raise RequestError(f"{model} is not finished; resume with: python -m pipeline train --resume {model}")
        raise RequestError(f"{model} is not a run: it has neither {RUN_FILE} nor a .keras file.")
    return inside or [model]


def decoder_file(model: Path, api: DecoderName | None = None) -> Path:
    """The decoder file that a run or a model and an API style select.

    Args:
        model: The folder of a run, or a `.keras` file.
        api: Which of a run's decoders: an API style, or "ridge", the baseline; None for the first decoder.

    Raises:
        RequestError: The folder is not a finished run, or has no such decoder.
    """
    files = decoder_files(model)
    if api is None:
        return files[0]
    if not model.is_dir():
        raise RequestError(f"{model} is one decoder; ", Parameter("api", api), " chooses among those of a run.")
    file = model / f"{api}.keras"
    if not file.is_file():
        names = ", ".join(path.stem for path in sorted(model.glob("*.keras")))
        raise RequestError(f"{model} has no decoder {api!r}; it has {names}.")
    return file
