"""`evaluate`: saved decoders, images and targets -> scores, conclusions and a report."""

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.commands.examples import Examples, Source, table_of_run
from pipeline.commands.options import EvaluateOptions
from pipeline.commands.saved_decoder import ModelFile, PixelModel, SavedDecoder, decoder_files, open_model, predict_each
from pipeline.commands.scoring import (
    EvaluationInputs,
    TrainingTargets,
    check_clusters,
    check_vocabulary,
    score_decoders,
)
from pipeline.core.atomic import check_output_file
from pipeline.core.errors import Parameter, RequestError
from pipeline.core.runs import EVALUATION_FILE, RUN_FILE, RunRecord, read_run
from pipeline.core.vectors import vector_digest
from pipeline.core.wording import counted
from pipeline.data.feature_tables import FeatureTable, find_or_name, read_features
from pipeline.data.images import DIGEST, ImageSet
from pipeline.data.near_duplicates import find_near_duplicates
from pipeline.data.options import TargetOptions
from pipeline.data.splits import SplitRule, held_out_units
from pipeline.decoders.baselines import Baselines
from pipeline.decoders.fitting import config_from_json, fit_shuffled
from pipeline.decoders.network import predict
from pipeline.decoders.training import TrainingData
from pipeline.evaluation.report import SUFFIXES
from pipeline.evaluation.results import EvaluationResult
from pipeline.features.features import TableFeatures
from pipeline.features.sources import TableSource

log = logging.getLogger(__name__)

IMAGES, TARGETS = Parameter("images", "IMAGES"), Parameter("targets", "FILE")

LONGEST_NAME = 60  # characters of the images' source in a report's name
BASELINES = ("mean", "ridge", "conse", "shuffled")


def evaluate(options: EvaluateOptions) -> EvaluationResult:
    """Evaluate saved decoders.

    Args:
        options: What to evaluate, and on which images.

    Returns:
        The scores and conclusions.

    Raises:
        RequestError: A model, the images or their targets cannot be used, or do not fit each other.
        PipelineError: The feature stage failed, or the report or the scores cannot be written.
    """
    if options.report:
        check_output_file(options.report, SUFFIXES, "report")
    files = _named_files(options.models)
    table = _table(options, files.values())
    decoders = {name: open_model(file, options.extractor, table) for name, file in files.items()}
    first = next(iter(decoders.values()))
    of_pixels = {name: decoder for name, decoder in decoders.items() if isinstance(decoder, PixelModel)}
    of_features = {name: decoder for name, decoder in decoders.items() if isinstance(decoder, SavedDecoder)}
    if of_pixels and not options.has_own_images:
        raise RequestError("Models that take pixels have no run; name the images to evaluate on with ", IMAGES, ".")
    if of_pixels and of_features:
        raise RequestError("Models that take pixels and models that take features are evaluated apart.")
    source = _source(options, first, table)
    for decoder in decoders.values():
        if decoder.dim != source.dim:
            raise RequestError(
                f"{decoder.file} predicts embeddings of dimension {decoder.dim}; the targets have {source.dim}."
            )
    check_clusters(source.images, options.cluster)
    if options.vocabulary:
        check_vocabulary(options.vocabulary, source.dim)
    if of_pixels:
        inputs, report = _pixel_inputs(of_pixels, source, options), options.report
    else:
        inputs = _feature_inputs(of_features, source, options)
        report = options.report or _report_beside(first, source.images if options.has_own_images else None)
    return score_decoders(inputs, report, options.vocabulary, options.scores)


def _feature_inputs(decoders: Mapping[str, SavedDecoder], source: Source, options: EvaluateOptions) -> EvaluationInputs:
    """The predictions of decoders and baselines from features."""
    extraction = options.extraction
    first = next(iter(decoders.values()))
    for decoder in decoders.values():
        decoder.card.check_features(decoder.file, first.source.description, first.source.dim)
        decoder.load()
    examples = source.load_examples(first.source, extraction)
    if not options.has_own_images:
        examples = _unchanged(examples, first.run_with("images from.").split.validation, "held-out")
    predictions, equal = predict_each(decoders, examples.features)
    x = first.inputs(examples.features)
    baselines = Baselines.load(first.folder)
    if baselines is None:
        log.warning("There are no baselines next to %s; they are left out.", first.file)
    else:
        predictions |= baselines.predict(x)
    if options.shuffled:
        predictions["shuffled"] = predict(_shuffled_decoder(first, options), x)
    runs = {decoder.folder: decoder.run for decoder in decoders.values() if decoder.run}
    near = 0
    if options.has_own_images:  # the run's split already separated its own near-duplicates
        progress = extraction.progress
        near = max((_count_near_training_images(examples, *run, progress) for run in runs.items()), default=0)
    return EvaluationInputs(
        examples=examples,
        decoders=decoders,
        equal=equal,
        predictions=predictions,
        training=TrainingTargets.of(baselines, examples.features.images) if baselines else None,
        cluster=options.cluster,
        trained_on=max((count_training_images(examples, *run) for run in runs.items()), default=0),
        near_trained_on=near,
        permutations=options.permutations or 0,
    )


def _pixel_inputs(models: Mapping[str, PixelModel], source: Source, options: EvaluateOptions) -> EvaluationInputs:
    """The predictions of the user's own models from pixels; there are no baselines, because these need features."""
    predictions = {}
    for name, model in models.items():
        features, predicted = model.predict_images(source.images, options.extraction)
        examples, rows = source.match(features)
        predictions[name] = predicted[rows]
    equal = {name: name for name in models}
    return EvaluationInputs(
        examples,
        models,
        equal,
        predictions,
        training=None,
        cluster=options.cluster,
        permutations=options.permutations or 0,
    )


def _report_beside(first: ModelFile, images: ImageSet | None) -> Path | None:
    """The report in the first model's run, named after the images unless they are the held-out ones."""
    if not first.run or not os.access(first.folder, os.W_OK):
        return None
    if images is None:
        return first.folder / EVALUATION_FILE
    name = re.sub(r"[^\w.]+", "-", images.source).strip("-.")[-LONGEST_NAME:]
    return first.folder / f"{Path(EVALUATION_FILE).stem}-{name}.html"


def _named_files(models: Sequence[str]) -> dict[str, Path]:
    """The decoder files of runs and models, by their shortest unambiguous names."""
    files = list(dict.fromkeys(file for model in models for file in decoder_files(Path(model))))
    return {_shortest_name(file, files): file for file in files}


def _shortest_name(file: Path, files: Sequence[Path]) -> str:
    for length in range(1, len(file.parts) + 1):
        names = ["/".join(other.with_suffix("").parts[-length:]) for other in (file, *files)]
        if names.count(names[0]) == 2 and names[0] not in BASELINES:  # itself, twice
            return names[0]
    return str(file)


def _table(options: EvaluateOptions, files: Iterable[Path]) -> FeatureTable | None:
    """The vectors to evaluate on: those in the options, else those of the first model's run."""
    if options.extractor.features:
        return read_features(options.extractor.features)
    folder = next(iter(files)).parent
    return None if options.images or not (folder / RUN_FILE).exists() else table_of_run(read_run(folder))


def _source(options: EvaluateOptions, first: ModelFile, table: FeatureTable | None) -> Source:
    """The images to evaluate on, and their targets."""
    if not options.has_own_images:
        return _source_of_run(first.folder, options.sources.data_dir, options.targets, table)
    images = find_or_name(options.sources, options.images, table)
    if options.targets.targets is None and images.targets is None:
        raise RequestError("To evaluate on your own images, name their target embeddings with ", TARGETS, ".")
    return Source.read(images, options.targets)


def _source_of_run(
    folder: Path, data_dir: Path | None, targets: TargetOptions | None = None, table: FeatureTable | None = None
) -> Source:
    """All images of a run, and their targets: the run's, or those in `targets`."""
    run = read_run(folder)
    if not run.split.validation:
        raise RequestError(
            f"{folder} was cross-validated and then trained on all of its images; name others with ", IMAGES, "."
        )
    return Source.of_run(run, data_dir, targets, table)


def _unchanged(examples: Examples, recorded: Mapping[str, str], side: str) -> Examples:
    """The examples on one side of a run's split (path -> digest); an error if images have changed or are missing."""
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


def count_training_images(examples: Examples, folder: Path, run: RunRecord) -> int:
    """Count the images that the decoders in a folder were trained on; warns if there are any."""
    features, trained = examples.features, _training_digests(run)
    digests = features.digests
    if isinstance(features, TableFeatures) and (features.thumbnails is None) == ("images" in run.options):
        digests = np.frombuffer(b"".join(map(vector_digest, features.vectors())), DIGEST)
        trained = _training_vectors(folder, run) if "images" in run.options else trained
    count = int(np.isin(digests, trained).sum())
    if count:
        log.warning(
            "The decoders of %s were trained on %d of %s: their scores are not estimates for new ones.",
            folder,
            count,
            counted(len(digests), "image"),
        )
    return count


def _training_vectors(folder: Path, run: RunRecord) -> np.ndarray:
    """The digests of the vectors of a run's training images, shape (N,), DIGEST, as far as its table has them."""
    try:
        table = table_of_run(run)
    except RequestError as error:
        log.warning("Training images of %s are not recognised: %s", folder, error)
        return np.empty(0, DIGEST)
    known = dict(zip(table.names, table.digests.tolist(), strict=True)) if table and table.names else {}
    digests = [known[path] for path in run.split.train if path in known]
    if len(digests) < len(run.split.train):
        log.warning(
            "%d of the %d training images of %s are not recognised: its table of vectors does not name them.",
            len(run.split.train) - len(digests),
            len(run.split.train),
            folder,
        )
    return np.frombuffer(b"".join(digests), DIGEST)


def _training_digests(run: RunRecord) -> np.ndarray:
    """The digests of the training images of a run, or of their vectors if it has no images, shape (N,), DIGEST."""
    return np.frombuffer(bytes.fromhex("".join(run.split.train.values())), DIGEST)


def _count_near_training_images(examples: Examples, folder: Path, run: RunRecord, progress: bool) -> int:
    """Count the other images that are detected as near-duplicates of training images; warns if there are any.

    Training images are compared by their thumbnails in the feature store, where some may be missing.
    """
    if isinstance(examples.features, TableFeatures):
        log.info(
            "Near-duplicates of training images of %s are not detected, because a table has no thumbnails.", folder
        )
        return 0
    digests, store = examples.features.digests, examples.features.store
    trained = _training_digests(run)
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


def _shuffled_decoder(decoder: SavedDecoder, options: EvaluateOptions) -> Any:
    """Train a decoder like the run's decoders, but on shuffled targets."""
    run = read_run(decoder.folder)
    table = table_of_run(run) if decoder.card.table is not None else None
    examples = _source_of_run(decoder.folder, options.sources.data_dir, table=table).load_examples(
        TableSource(table) if table else decoder.source, options.extraction
    )
    train = _unchanged(examples, run.split.train, "training")
    held_out = _unchanged(examples, run.split.validation, "held-out")
    data = TrainingData(
        decoder.inputs(train.features),
        train.targets,
        decoder.inputs(held_out.features),
        held_out.targets,
        bands=tuple(train.features.bands.values()),
    )
    duplicates = train.features.number_duplicates()
    units = held_out_units(train.features.images, SplitRule.parse(run.split.rule), duplicates)
    return fit_shuffled(data.loaded(), config_from_json(run.training), units, run.seed)
