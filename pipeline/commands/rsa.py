"""`rsa`: the representational similarity of features, predictions and targets."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.commands.evaluate import count_training_images
from pipeline.commands.examples import Examples, Source
from pipeline.commands.options import RsaOptions
from pipeline.commands.saved_decoder import SavedDecoder, decoder_file, open_model
from pipeline.core.atomic import check_output_file
from pipeline.core.errors import Parameter, RequestError
from pipeline.core.vectors import Vectors, in_blocks
from pipeline.core.wording import counted
from pipeline.data.feature_tables import find_or_name
from pipeline.evaluation.report import SUFFIXES, write_page
from pipeline.evaluation.rsa import PREDICTIONS, RsaResult, representational_similarity, require_rsatoolbox
from pipeline.features.sources import TableSource, feature_source

log = logging.getLogger(__name__)

FEWEST, MOST = 4, 500  # conditions; a bootstrap of larger matrices takes minutes


@dataclass(frozen=True)
class _Conditions:
    """What is compared: images, or targets that several images share.

    Attributes:
        names: The name of each condition, in order.
        of_image: The condition of each image, shape (N,), int.
    """

    names: list[str]
    of_image: np.ndarray

    @classmethod
    def of(cls, examples: Examples) -> "_Conditions":
        """The targets of examples by name, ordered by label."""
        label_of = dict(zip(examples.keys, examples.features.images.labels, strict=True))
        keys = sorted(label_of, key=lambda key: (label_of[key], key))
        position = {key: number for number, key in enumerate(keys)}
        return cls(keys, np.array([position[key] for key in examples.keys], np.intp))

    def mean(self, vectors: Vectors) -> np.ndarray:
        """The mean vector of each condition, shape (C, F), float64; reads a block at a time."""
        sums, start = np.zeros((len(self.names), vectors.shape[1])), 0
        for block in in_blocks(vectors):
            np.add.at(sums, self.of_image[start : start + len(block)], block)
            start += len(block)
        return sums / np.bincount(self.of_image)[:, None]


def rsa(options: RsaOptions) -> RsaResult:
    """Compare the dissimilarities of images by their features with those by their targets.

    Args:
        options: Images, targets, layers, and how to compare.

    Returns:
        The similarities of the layers, and of a decoder's predictions, to the targets.

    Raises:
        RequestError: rsatoolbox is missing, images and targets do not fit each other, or there are too few or too many
            conditions.
        PipelineError: The feature stage failed, or the report cannot be written.
    """
    require_rsatoolbox()
    if options.report:
        check_output_file(options.report, SUFFIXES, "report")
    features = feature_source(options.extractor)
    table = features.table if isinstance(features, TableSource) else None
    images = find_or_name(options.sources, options.images, table)
    if options.targets.targets is None and images.targets is None:
        raise RequestError("To compare with targets, name them with ", Parameter("targets", "FILE"), ".")
    examples = Source.read(images, options.targets).load_examples(features, options.extraction)
    conditions = _checked(examples)
    vectors = _means(examples, conditions)
    trained_on = 0
    if options.model:
        vectors[PREDICTIONS], trained_on = _predictions(options, examples, conditions)
    result = representational_similarity(
        vectors,
        conditions.mean(examples.targets),
        _repeats(examples, conditions, options.dissimilarity),
        options.dissimilarity,
        options.method,
        len(examples.targets),
        options.bootstraps,
        options.seed,
    )
    result = replace(result, trained_on=trained_on)
    if not options.report:
        return result
    log.info("Writing the report %s.", options.report)
    best = max(result.features, key=lambda score: score.similarity)
    heading = f"The features most similar to the targets: {best.name} ({best.similarity:.3f})"
    write_page(options.report, heading, f"Images: {images.source}", [result.section(conditions.names)])
    return replace(result, report=str(options.report))


def _checked(examples: Examples) -> _Conditions:
    conditions = _Conditions.of(examples)
    count = len(conditions.names)
    if not FEWEST <= count <= MOST:
        more = "Name more images" if count < FEWEST else "Name fewer images, or targets by label"
        raise RequestError(
            f"The images have {counted(count, 'different target')}, which are the conditions; from {FEWEST} to {MOST} "
            f"can be compared. {more}."
        )
    if count < len(examples.keys):
        log.info("%d images share %d targets; their vectors are averaged by target.", len(examples.keys), count)
    return conditions


def _means(examples: Examples, conditions: _Conditions) -> dict[str, np.ndarray]:
    """The mean vectors of each condition by each layer; one layer is read at a time."""
    features = examples.features
    if not features.layers:
        return {"vectors": conditions.mean(features.stored())}
    return {
        layer.extractor.layer: conditions.mean(features.of_layer(number).stored())
        for number, layer in enumerate(features.layers)
    }


def _predictions(options: RsaOptions, examples: Examples, conditions: _Conditions) -> tuple[np.ndarray, int]:
    """The mean predictions of a decoder for each condition, and the number of images that it was trained on."""
    assert options.model
    file = decoder_file(Path(options.model))
    decoder = open_model(file, replace(options.extractor, layer=None), None)
    if decoder.dim != examples.targets.shape[1]:
        raise RequestError(
            f"{decoder.file} predicts embeddings of dimension {decoder.dim}; the targets have "
            f"{examples.targets.shape[1]}."
        )
    trained_on = 0
    if isinstance(decoder, SavedDecoder) and decoder.run:
        trained_on = count_training_images(examples, decoder.folder, decoder.run)
    _, predicted = decoder.predict_images(examples.features.images, options.extraction)
    return conditions.mean(predicted), trained_on


def _repeats(examples: Examples, conditions: _Conditions, dissimilarity: str) -> np.ndarray | None:
    """The repeated targets of all conditions, shape (R, C, D), as many as all have; None if some have none."""
    known: Mapping[str, np.ndarray] = examples.table.repeats
    counts = [len(known.get(name, ())) for name in conditions.names]
    if min(counts) < 2:
        if dissimilarity == "crossnobis":
            raise RequestError(
                Parameter("dissimilarity", "crossnobis"),
                " needs two repeated targets or more for every condition; name them with ",
                Parameter("noise_ceiling", "FILE"),
                ".",
            )
        return None
    return np.stack([known[name][: min(counts)] for name in conditions.names], axis=1)
