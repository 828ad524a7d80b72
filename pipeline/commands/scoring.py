"""Scoring, shared by `train` and `evaluate`: predictions for the same images -> scores, conclusions and the report."""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.commands.examples import Examples
from pipeline.commands.saved_decoder import PixelModel, SavedDecoder
from pipeline.core.errors import Parameter, RequestError
from pipeline.core.runs import RunRecord
from pipeline.core.vectors import standard_deviations
from pipeline.core.wording import counted
from pipeline.data.images import ImageSet
from pipeline.data.splits import SplitRule, first_empty
from pipeline.data.targets import TargetTable
from pipeline.data.word_vectors import read_vocabulary
from pipeline.decoders.baselines import Baselines
from pipeline.decoders.network import output_ceiling
from pipeline.evaluation import permutation_tests
from pipeline.evaluation.conclusions import conclude
from pipeline.evaluation.metrics import EvaluationSet, NoiseCeiling, ScoredPredictions, score_predictions
from pipeline.evaluation.noise_ceiling import cosine_ceiling, split_half_reliability
from pipeline.evaluation.report import Report, write_report
from pipeline.evaluation.results import Clusters, EvaluationResult
from pipeline.evaluation.retrieval import Candidates
from pipeline.evaluation.score_table import write_scores
from pipeline.evaluation.scoreboard import scoreboard
from pipeline.evaluation.sections import Section
from pipeline.evaluation.standing import Context, headline

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingTargets:
    """What an evaluation needs to know about the training targets.

    Attributes:
        mean: Their mean, shape (D,); with folds, the mean of each fold, shape (K, D).
        deviation: The standard deviation of each dimension, of the same shape.
        seen: For each evaluated image, whether a training image has the same label, shape (N,), bool; None if unknown.
        seen_groups: The same for groups.
        folds: The fold in which each evaluated image was held out, shape (N,), int; None without folds.
    """

    mean: np.ndarray
    deviation: np.ndarray
    seen: np.ndarray | None = None
    seen_groups: np.ndarray | None = None
    folds: np.ndarray | None = None

    @classmethod
    def of(cls, baselines: Baselines, images: ImageSet) -> "TrainingTargets":
        """The training targets recorded with the baselines, for the images to evaluate on."""
        return cls(
            baselines.mean,
            baselines.deviation,
            seen=_known(baselines.labels, images.labels),
            seen_groups=_known(baselines.groups, images.groups),
        )


def _known(trained: frozenset[str] | None, names: Sequence[str | None] | None) -> np.ndarray | None:
    return None if trained is None or names is None else np.array([name in trained for name in names], bool)


@dataclass(frozen=True)
class EvaluationInputs:
    """Predictions to score on the same images.

    Attributes:
        examples: The N images, with their targets.
        decoders: Name -> the decoder.
        equal: Name of a decoder -> the first decoder with bit-identical weights, possibly itself.
        predictions: Name -> predictions of decoders and baselines, shape (N, D); for equal decoders, the first is
            enough.
        training: What is known about the training targets, or None.
        cluster: What intervals generalize over: "group", "label" or "image"; None for groups if there are any, else
            labels if images share labels, else images.
        trained_on: The number of images that the decoders were trained on.
        near_trained_on: The number of other images that were detected as near-duplicates of training images.
        sections: Further sections of the report.
        permutations: The number of permutations to test the scores with; 0 for no tests.
    """

    examples: Examples
    decoders: Mapping[str, SavedDecoder | PixelModel]
    equal: Mapping[str, str]
    predictions: Mapping[str, np.ndarray]
    training: TrainingTargets | None
    cluster: str | None = None
    trained_on: int = 0
    near_trained_on: int = 0
    sections: Sequence[Section] = ()
    permutations: int = 0

    @property
    def first(self) -> SavedDecoder | PixelModel:
        """The first decoder."""
        return next(iter(self.decoders.values()))

    @property
    def run(self) -> RunRecord | None:
        """The record of the first decoder's run, or None."""
        return self.first.run if isinstance(self.first, SavedDecoder) else None

    @property
    def shares(self) -> Mapping[str, float]:
        """Candidate -> its share in the first decoder; empty if it is not a blend from a run."""
        return self.run.trained.get("shares", {}) if self.run else {}

    @property
    def weights(self) -> str | None:
        """The `weights` option of the features; None for models that take pixels or a table's vectors."""
        return self.first.source.weights or None if isinstance(self.first, SavedDecoder) else None


def score_decoders(
    inputs: EvaluationInputs, report: Path | None = None, vocabulary: Path | None = None, scores: Path | None = None
) -> EvaluationResult:
    """Score decoders and baselines, interpret the scores, and write the report and the table of scores.

    Args:
        inputs: The predictions and the images.
        report: The file of the report; None for no report.
        vocabulary: A file of word vectors that are candidates in addition to the targets.
        scores: The file of the scores of every image and every dimension; None for no file.

    Returns:
        The scores and conclusions.

    Raises:
        RequestError: The vocabulary cannot be used.
        PipelineError: The report or the scores cannot be written.
    """
    kind = inputs.cluster or natural_cluster(inputs.examples)
    evaluated = _evaluation_set(inputs, vocabulary, kind)
    log.info("Scoring %s on %s.", ", ".join(inputs.decoders), counted(len(inputs.examples.targets), "image"))
    ceilings = {
        name: output_ceiling(decoder.output_activation, evaluated.targets) for name, decoder in inputs.decoders.items()
    }
    shuffled = {"shuffled": next(iter(ceilings.values()))}  # built like the first decoder
    different = {name: values for name, values in inputs.predictions.items() if inputs.equal.get(name, name) == name}
    scored = score_predictions(different, evaluated, shuffled | ceilings)
    clusters = Clusters(
        kind, len(set(evaluated.clusters)), _trained_on(inputs, kind), over_folds=evaluated.folds is not None
    )
    permutations = None
    if inputs.permutations:
        scored, permutations = permutation_tests.test(scored, evaluated, kind, inputs.permutations)
    board, context = scoreboard(scored, inputs.equal, evaluated, clusters), _context(inputs)
    result = EvaluationResult(
        **vars(board),
        headline=headline(board, context),
        conclusions=[
            *conclude(board, context),
            *([permutation_tests.sentence(board, permutations)] if permutations else []),
        ],
        report=str(report) if report else None,
        permutations=permutations,
        scores=str(scores) if scores else None,
    )
    if scores:
        log.info("Writing the scores of every image and every dimension to %s.", scores)
        by_name = {name: scored[inputs.equal.get(name, name)] for name in (*board.models, *board.baselines)}
        write_scores(scores, by_name, evaluated, inputs.examples.table.dimensions)
    if report:
        log.info("Writing the report %s.", report)
        write_report(report, _report(result, inputs, scored, evaluated))
    return result


def _report(
    result: EvaluationResult,
    inputs: EvaluationInputs,
    scored: Mapping[str, ScoredPredictions],
    evaluated: EvaluationSet,
) -> Report:
    trained = {title: inputs.decoders[name] for name, title in result.titles.items()}
    curves = {title: decoder.curves for title, decoder in trained.items() if decoder.curves}
    return Report(
        result,
        scored,
        evaluated,
        images=inputs.examples.features.images,
        curves=curves,
        validation_of={title: trained[title].validation_of for title in curves},
        run=inputs.run,
        folder=inputs.first.folder,
        shares=inputs.shares,
        sections=[
            *inputs.sections,
            *([permutation_tests.section(result, result.permutations)] if result.permutations else []),
        ],
    )


def _trained_on(inputs: EvaluationInputs, kind: str) -> bool | None:
    """Whether the evaluated clusters were in training: all (True), none (False), or some or unknown (None)."""
    training = inputs.training
    if training is None or kind == "image":
        return None
    seen = training.seen if kind == "label" else training.seen_groups
    return None if seen is None or (seen.any() and not seen.all()) else bool(seen.all())


def _context(inputs: EvaluationInputs) -> Context:
    cosines = {name: decoder.trained.get("train_cosine") for name, decoder in inputs.decoders.items()}
    return Context(
        training_cosines={name: cosine for name, cosine in cosines.items() if cosine is not None},
        activations={name: decoder.output_activation for name, decoder in inputs.decoders.items()},
        weights=inputs.weights,
        trained_on=inputs.trained_on,
        near_trained_on=inputs.near_trained_on,
        tuned=inputs.run is not None and "decoder" not in inputs.run.training,
        held_out_by=_held_out_by(inputs),
    )


def _held_out_by(inputs: EvaluationInputs) -> str | None:
    """How the images were held out: "folds", the kind of the split rule, or None for images from another source."""
    if inputs.training and inputs.training.folds is not None:
        return "folds"
    if inputs.run is None or set(inputs.examples.features.paths) - set(inputs.run.split.validation):
        return None
    return SplitRule.parse(inputs.run.split.rule).kind


def natural_cluster(examples: Examples) -> str:
    """What the images are clustered by: groups, or else labels or targets that several images share, or else images.

    Even if images with the same label have individual targets (responses to single pictures), they resemble each other;
    intervals that treat them as independent would be too narrow.
    """
    images = examples.features.images
    if images.groups is not None:
        return "group"
    labels = labels_of(examples)
    return "label" if 1 < len(set(labels)) < len(labels) or _share_targets(examples) else "image"


def _share_targets(examples: Examples) -> bool:
    return len(set(examples.keys)) < len(examples.keys)


def check_clusters(images: ImageSet, cluster: str | None) -> None:
    """Check that images have the groups that intervals need, before any work is done.

    Args:
        images: The images.
        cluster: See `EvaluationInputs`.

    Raises:
        RequestError: Intervals for new groups are requested, but not all images have a group.
    """
    if cluster == "group" or (cluster is None and images.groups is not None):
        _groups(images)


def _groups(images: ImageSet) -> Sequence[str]:
    """The groups of the images; an error if an image has no group."""
    empty = first_empty(images.groups) if images.groups is not None else 0
    if images.groups is None or empty is not None:
        example = f"; {images.paths[empty or 0]!r} has none" if images.groups is not None else ""
        raise RequestError(
            "Intervals for new groups need the column 'group' for all images, in a .csv or .parquet list or a table of "
            f"vectors{example}. Choose ",
            Parameter("cluster", "label"),
            " or ",
            Parameter("cluster", "image"),
            ", or fill the column.",
        )
    return [str(group) for group in images.groups]


def clusters_of(examples: Examples, kind: str | None) -> Sequence[str]:
    """The cluster of each image, of a kind; None for `natural_cluster`."""
    images, kind = examples.features.images, kind or natural_cluster(examples)
    if kind == "group":
        return _groups(images)
    return labels_of(examples) if kind == "label" else images.paths


def _evaluation_set(inputs: EvaluationInputs, vocabulary: Path | None, cluster: str) -> EvaluationSet:
    examples, training = inputs.examples, inputs.training
    images, targets = examples.features.images, examples.targets
    rows = names_of(examples.table, examples.source)
    return EvaluationSet(
        paths=images.paths,
        labels=labels_of(examples),
        targets=targets,
        candidates=Candidates(itertools.chain(rows, words_of(vocabulary, targets.shape[1]) if vocabulary else ())),
        centre=training.mean if training else targets.mean(axis=0),
        deviation=training.deviation if training else standard_deviations(targets),
        clusters=clusters_of(examples, cluster),
        seen=_seen(examples, training),
        noise=_noise_ceiling(examples),
        imagenet_weights=inputs.weights == "imagenet",
        folds=training.folds if training else None,
    )


def _seen(examples: Examples, training: TrainingTargets | None) -> np.ndarray | None:
    """For each image, whether its label was in training; None if all labels are unique, where this means nothing."""
    if training is None or training.seen is None:
        return None
    labels = labels_of(examples)
    return training.seen if training.seen.any() or len(set(labels)) < len(labels) else None


def _noise_ceiling(examples: Examples) -> NoiseCeiling | None:
    """The noise ceiling of the evaluated images, where equal targets count once; None without repeated targets."""
    repeats = examples.table.repeats
    measured = [repeats[key] for key in dict.fromkeys(examples.keys) if len(repeats.get(key, ())) > 1]
    if len(measured) < len(set(examples.keys)):
        if repeats:
            log.warning("Not all evaluated images have repeated targets, so there is no noise ceiling.")
        return None
    cosine = cosine_ceiling(measured)
    if cosine is None:
        log.warning(
            "No noise ceiling of the cosine: repeats of too few different targets (%d), or with too little signal.",
            len(measured),
        )
    return NoiseCeiling(cosine, split_half_reliability(measured))


def words_of(vocabulary: Path, dim: int) -> Iterator[tuple[str, np.ndarray]]:
    """Iterate over the words of a vocabulary and their vectors.

    Args:
        vocabulary: A file of word vectors.
        dim: The dimension of the targets, which the vectors must match.

    Raises:
        RequestError: The file cannot be used.
    """
    for word, vector in read_vocabulary(vocabulary):
        if len(vector) != dim:
            raise RequestError(
                f"The vocabulary {vocabulary} has vectors of dimension {len(vector)}; the targets have {dim}."
            )
        yield word, vector


def check_vocabulary(vocabulary: Path, dim: int) -> None:
    """Check that the first word of a vocabulary can be used, before any predictions are computed.

    Raises:
        RequestError: It cannot be read, or its vectors differ in dimension from the targets.
    """
    next(words_of(vocabulary, dim), None)


def names_of(table: TargetTable, images: ImageSet) -> list[tuple[str, np.ndarray]]:
    """The target embeddings of a table by name; a key that is a path is replaced by the label of its image."""
    labels = {path: label for path, label in zip(images.paths, images.labels, strict=True) if label}
    return [(labels.get(key, key), table.vectors[row]) for key, row in table.rows.items()]


def labels_of(examples: Examples) -> list[str]:
    """The label of each image, or for an image without a label, its key in the target table."""
    return [label or key for label, key in zip(examples.features.images.labels, examples.keys, strict=True)]
