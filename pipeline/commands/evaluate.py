"""`evaluate`: saved decoders, images and targets -> scores, conclusions and a report."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.commands.examples import Examples, load_examples, read_target_table
from pipeline.commands.own_models import card_of, load_any, output_activation_of, predict_from_pixels, takes_pixels
from pipeline.commands.saved_decoders import (
    decoders_of,
    extractors_of,
    images_and_targets,
    run_beside,
)
from pipeline.commands.scoring import (
    DecoderPredictions,
    EvaluationInputs,
    TrainingTargets,
    check_clusters,
    check_vocabulary,
    score_decoders,
)
from pipeline.core.atomic import check_output_file
from pipeline.core.errors import Parameter, RequestError
from pipeline.core.model_files import ModelCard
from pipeline.core.runs import EVALUATION_FILE, RUN_FILE, read_run
from pipeline.core.vectors import Vectors
from pipeline.core.wording import counted
from pipeline.data.images import DIGEST, ImageSet
from pipeline.data.matching import match_targets
from pipeline.data.near_duplicates import find_near_duplicates
from pipeline.data.splits import SplitRule, held_out_units
from pipeline.data.targets import TargetTable
from pipeline.decoders.baselines import Baselines
from pipeline.decoders.fitting import config_from_json, fit_shuffled
from pipeline.decoders.network import predict
from pipeline.decoders.training import TrainingData
from pipeline.evaluation.report import SUFFIXES
from pipeline.evaluation.results import EvaluationResult
from pipeline.features.extraction import ExtractionOptions
from pipeline.features.extractor import Extractor, ExtractorOptions, describe

log = logging.getLogger(__name__)

IMAGES, TARGETS = Parameter("images", "IMAGES"), Parameter("targets", "FILE")

LONGEST_NAME = 60  # characters of the images' source in a report's name
BASELINES = ("mean", "ridge", "conse", "shuffled")


@dataclass(frozen=True)
class EvaluateOptions:
    """What to evaluate, and on which images.

    Attributes:
        models: Folders of runs, and `.keras` files.
        images: The images; None for the held-out images of the first model's run.
        data_dir: The folder of TensorFlow data sets for a run's images; None for tensorflow-datasets' default.
        targets: A file of target embeddings; None for those in the images' list, or of the run.
        target_columns: The columns of that file that form the embedding; None for the default rule, or the run's.
        extractor: Settings that replace those of the model's extractor.
        on_missing: "error" or "skip" images without a target.
        vocabulary: A file of word vectors that are candidates in addition to the targets.
        shuffled: Whether to train a decoder on shuffled targets as another baseline.
        noise_ceiling: A file of repeated targets to estimate the noise ceiling from; None for those in the list.
        cluster: What intervals generalize over: "group", "label" or "image"; None to choose by the images.
        report: The file of the report; None for `evaluation.html` in the first model's run if that is writable, or
            `evaluation-IMAGES.html` for images other than the held-out ones.
    """

    models: Sequence[str]
    images: ImageSet | None = None
    data_dir: Path | None = None
    targets: str | None = None
    target_columns: str | None = None
    extractor: ExtractorOptions = field(default_factory=ExtractorOptions)
    on_missing: str = "error"
    vocabulary: Path | None = None
    shuffled: bool = False
    noise_ceiling: Path | None = None
    cluster: str | None = None
    report: Path | None = None


def evaluate(options: EvaluateOptions, extraction: ExtractionOptions) -> EvaluationResult:
    """Evaluate saved decoders.

    Args:
        options: What to evaluate, and on which images.
        extraction: How to run the feature stage.

    Returns:
        The scores and conclusions.

    Raises:
        RequestError: A model, the images or their targets cannot be used, or do not fit each other.
        PipelineError: The feature stage failed, or the report cannot be written.
    """
    if options.report:
        check_output_file(options.report, SUFFIXES, "report")
    files = _decoder_files(options.models)
    if any(map(takes_pixels, files.values())):
        return _evaluate_pixel_models(files, options, extraction)
    cards = {name: card_of(file, options.extractor) for name, file in files.items()}
    first, first_card = next(iter(files.values())), next(iter(cards.values()))
    extractors = extractors_of(first_card, options.extractor)
    for name, card in cards.items():
        card.check_features(files[name], describe(extractors))
    images, table, on_missing = _images_and_targets(options, first.parent)
    for name, card in cards.items():
        card.check_targets(files[name], table.vectors.shape[1])
    check_clusters(images, options.cluster)
    if options.vocabulary:
        check_vocabulary(options.vocabulary, table.vectors.shape[1])
    examples = load_examples(images, table, on_missing, extractors, extraction)
    if options.images is None:
        examples = _unchanged(examples, read_run(first.parent).split.validation, "held-out")

    x = _scaled(examples, first_card)
    fitted = Baselines.load(first.parent)
    if fitted is None:
        log.warning("There are no baselines beside %s; they are left out.", first)
    baselines = fitted.predict(x) if fitted else {}
    if options.shuffled:
        shuffled = _shuffled_decoder(first.parent, options.data_dir, extractors, first_card, extraction)
        baselines["shuffled"] = predict(shuffled, x)
    run = run_beside(first)
    folders = {file.parent for file in files.values()}
    inputs = EvaluationInputs(
        examples=examples,
        decoders={
            name: _predictions(file, cards[name], _scaled(examples, cards[name])) for name, file in files.items()
        },
        baselines=baselines,
        training=TrainingTargets.of(fitted, examples.features.images) if fitted else None,
        shares=run.trained.get("shares", {}) if run else {},
        cluster=options.cluster,
        weights=extractors[0].weights.name,
        trained_on=max(_count_training_images(examples, folder) for folder in folders),
        near_trained_on=max(_count_near_training_images(examples, folder, extraction.progress) for folder in folders)
        if options.images is not None  # the run's split already separated its own near-duplicates
        else 0,
        run=run,
        folder=first.parent,
    )
    return score_decoders(inputs, options.report or _report_beside(first, options.images), options.vocabulary)


def _report_beside(first: Path, images: ImageSet | None) -> Path | None:
    """The report in the first model's run, named after the images unless they are the held-out ones."""
    if not run_beside(first) or not os.access(first.parent, os.W_OK):
        return None
    if images is None:
        return first.parent / EVALUATION_FILE
    name = re.sub(r"[^\w.]+", "-", images.source).strip("-.")[-LONGEST_NAME:]
    return first.parent / f"{Path(EVALUATION_FILE).stem}-{name}.html"


def _evaluate_pixel_models(
    files: Mapping[str, Path], options: EvaluateOptions, extraction: ExtractionOptions
) -> EvaluationResult:
    """Evaluate the user's own Keras models that take pixels; without features there are no baselines."""
    if options.images is None:
        raise RequestError("Models that take pixels have no run; name the images to evaluate on with ", IMAGES, ".")
    if not all(map(takes_pixels, files.values())):
        raise RequestError("Models that take pixels and models that take features are evaluated apart.")
    images, table, on_missing = _images_and_targets(options, next(iter(files.values())).parent)
    check_clusters(images, options.cluster)
    decoders = {}
    for name, file in files.items():
        features, predictions = predict_from_pixels(file, images, extraction)
        matched = match_targets(features.images, table, on_missing)
        dim = predictions.shape[1]
        if dim != table.vectors.shape[1]:
            raise RequestError(
                f"{file} predicts embeddings of dimension {dim}; the targets have {table.vectors.shape[1]}."
            )
        decoders[name] = DecoderPredictions(predictions[matched.rows], output_activation_of(file))
    examples = Examples(features.subset(matched.rows), matched.keys, matched.targets, table, images)
    inputs = EvaluationInputs(examples, decoders, baselines={}, training=None, weights="", cluster=options.cluster)
    return score_decoders(inputs, options.report, options.vocabulary)


def _scaled(examples: Examples, card: ModelCard) -> Vectors:
    """The features of examples, scaled as for the training of a decoder."""
    return replace(examples.features, scales=card.scales).stored()


def _decoder_files(models: Sequence[str]) -> dict[str, Path]:
    """The decoder files of runs and models, by their shortest unambiguous names."""
    files = [file for model in models for file in decoders_of(Path(model))]
    files = list(dict.fromkeys(files))
    return {_shortest_name(file, files): file for file in files}


def _shortest_name(file: Path, files: Sequence[Path]) -> str:
    for length in range(1, len(file.parts) + 1):
        names = ["/".join(other.with_suffix("").parts[-length:]) for other in (file, *files)]
        if names.count(names[0]) == 2 and names[0] not in BASELINES:  # itself, twice
            return names[0]
    return str(file)


def _predictions(file: Path, card: ModelCard, x: Vectors) -> DecoderPredictions:
    run = run_beside(file)
    trained: Mapping[str, Any] = run.trained.get("models", {}).get(file.stem, {}) if run else {}
    return DecoderPredictions(
        predictions=predict(load_any(file), x),
        output_activation=card.output_activation,
        training_cosine=trained.get("train_cosine"),
        curves=run.curves.get(file.stem) if run else None,
        validation_of=run.split.validation_of if run else "held-out",
    )


def _images_and_targets(options: EvaluateOptions, folder: Path) -> tuple[ImageSet, TargetTable, str]:
    """The images to evaluate on, their targets, and what to do if a target is missing."""
    if options.images is None:
        return _of_run(folder, options.data_dir, options.targets, options.noise_ceiling, options.target_columns)
    if options.targets is None and options.images.targets is None:
        raise RequestError("To evaluate on your own images, name their target embeddings with ", TARGETS, ".")
    table = read_target_table(
        options.images, options.targets, options.on_missing, options.noise_ceiling, options.target_columns
    )
    return options.images, table, options.on_missing


def _of_run(
    folder: Path,
    data_dir: Path | None,
    targets: str | None = None,
    noise_ceiling: Path | None = None,
    target_columns: str | None = None,
) -> tuple[ImageSet, TargetTable, str]:
    """All images of a run, their targets (the run's own, or those in `targets`), and the run's `on_missing`."""
    recorded = read_run(folder).options
    if not read_run(folder).split.validation:
        raise RequestError(
            f"{folder} was cross-validated and then trained on all of its images; name others with ", IMAGES, "."
        )
    if "images" not in recorded:
        raise RequestError(f"{folder} does not say where its images are; name them with ", IMAGES, ".")
    images, table = images_and_targets(recorded, targets, noise_ceiling, target_columns, data_dir)
    return images, table, recorded.get("on_missing", "error")


def _unchanged(examples: Examples, recorded: Mapping[str, str], side: str) -> Examples:
    """The examples of one side of a run's split (path -> digest); refuses images that changed or are gone."""
    digests = dict(zip(examples.features.paths, examples.features.digests.tolist(), strict=True))
    changed = [path for path, digest in recorded.items() if digests.get(path) != bytes.fromhex(digest)]
    if changed:
        raise RequestError(
            f"{len(changed)} of the {len(recorded)} {side} images changed or are gone since the run, the first is "
            f"{changed[0]!r}. Restore them, or name images to evaluate on: ",
            IMAGES,
            " ",
            TARGETS,
            ".",
        )
    return examples.subset([row for row, path in enumerate(examples.features.paths) if path in recorded])


def _count_training_images(examples: Examples, folder: Path) -> int:
    """Count the images that the decoders in a folder were trained on; warns if there are any."""
    if not (folder / RUN_FILE).exists():
        return 0
    count = int(np.isin(examples.features.digests, _training_digests(folder)).sum())
    if count:
        log.warning(
            "The decoders of %s were trained on %d of %s: their cosine is not an estimate for new ones.",
            folder,
            count,
            counted(len(examples.features.digests), "image"),
        )
    return count


def _training_digests(folder: Path) -> np.ndarray:
    """The content digests of the training images of a run, shape (N,), DIGEST."""
    return np.frombuffer(bytes.fromhex("".join(read_run(folder).split.train.values())), DIGEST)


def _count_near_training_images(examples: Examples, folder: Path, progress: bool) -> int:
    """Count the other images that are detected near-duplicates of training images; warns if there are any.

    Training images are compared by their thumbnails in the feature store, which may lack some.
    """
    if not (folder / RUN_FILE).exists():
        return 0
    digests, store = examples.features.digests, examples.features.store
    trained = _training_digests(folder)
    compared = trained[store.contains(trained)]
    if len(compared) < len(trained):
        log.info(
            "The feature store has %d of the %d training images of %s; near-duplicates of others are not looked for.",
            len(compared),
            len(trained),
            folder,
        )
    numbers = find_near_duplicates(np.concatenate([digests, compared]), store.thumbnails, progress)
    near = np.isin(numbers[: len(digests)], numbers[len(digests) :]) & ~np.isin(digests, trained)
    if near.any():
        log.warning(
            "%d of %s are detected near-duplicates of training images of %s, such as %r: their cosine is not an "
            "estimate for new ones.",
            near.sum(),
            counted(len(digests), "image"),
            folder,
            examples.features.paths[int(near.argmax())],
        )
    return int(near.sum())


def _shuffled_decoder(
    folder: Path, data_dir: Path | None, extractors: Sequence[Extractor], card: ModelCard, extraction: ExtractionOptions
) -> Any:
    """Train a decoder like those of a run, on shuffled targets."""
    run = read_run(folder)
    examples = load_examples(*_of_run(folder, data_dir), extractors, extraction)
    train = _unchanged(examples, run.split.train, "training")
    held_out = _unchanged(examples, run.split.validation, "held-out")
    data = TrainingData(_scaled(train, card), train.targets, _scaled(held_out, card), held_out.targets)
    duplicates = find_near_duplicates(train.features.digests, train.features.store.thumbnails)
    units = held_out_units(train.features.images, SplitRule.parse(run.split.rule), duplicates)
    return fit_shuffled(data.loaded(), config_from_json(run.training), units, run.seed)
