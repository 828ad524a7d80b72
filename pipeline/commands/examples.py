"""Examples: images with features and target embeddings, and their split."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipeline.core.errors import Parameter, RequestError
from pipeline.core.runs import RunRecord, SplitRecord
from pipeline.data.images import ImageSet
from pipeline.data.matching import match_targets
from pipeline.data.near_duplicates import duplicate_groups, find_near_duplicates
from pipeline.data.sources import find_images
from pipeline.data.splits import Split, SplitRule, check_split_column, held_out_units, split_images
from pipeline.data.targets import TargetTable, read_repeats, read_targets
from pipeline.data.tfds_reader import check_on_disk
from pipeline.decoders.training import MEMORY, TrainingData
from pipeline.features.extraction import ExtractionOptions, extract_features
from pipeline.features.extractor import Extractor
from pipeline.features.features import Features

log = logging.getLogger(__name__)

SELECTION = 0.2  # of the training images, if an epoch is chosen


@dataclass(frozen=True)
class Examples:
    """Images with features and targets, N of them, in path order.

    Attributes:
        features: Their features.
        keys: The key of each image in the target table: its path or its label.
        targets: Their target embeddings, shape (N, D), float32.
        table: All target embeddings of the source.
        source: All images of the source.
    """

    features: Features
    keys: Sequence[str]
    targets: np.ndarray
    table: TargetTable
    source: ImageSet

    def subset(self, rows: Sequence[int] | np.ndarray) -> "Examples":
        """The examples in some rows."""
        return Examples(
            features=self.features.subset(rows),
            keys=[self.keys[row] for row in rows],
            targets=self.targets[np.asarray(rows, np.intp)],
            table=self.table,
            source=self.source,
        )


@dataclass(frozen=True)
class Source:
    """Images and their targets, before any features.

    Attributes:
        images: The images.
        table: The target embeddings.
        on_missing: What to do with images that have no target: "error" or "skip".
    """

    images: ImageSet
    table: TargetTable
    on_missing: str = "error"

    @classmethod
    def read(
        cls,
        images: ImageSet,
        targets: str | None,
        on_missing: str = "error",
        noise_ceiling: Path | None = None,
        target_columns: str | None = None,
    ) -> "Source":
        """Read the targets of images.

        Args:
            images: The images.
            targets: A file of target embeddings; None for those in the images' list.
            on_missing: What to do with images that have no target: "error" or "skip".
            noise_ceiling: A file of repeated targets; None for those in the list.
            target_columns: The columns of the table that form the embedding; None for the default rule.

        Raises:
            RequestError: A file cannot be read, or the dimensions differ.
        """
        table = read_targets(targets, images, on_missing, target_columns)
        if noise_ceiling is None:
            return cls(images, table, on_missing)
        repeats = read_repeats(noise_ceiling, target_columns)
        dim = next(iter(repeats.values())).shape[1]
        if dim != table.vectors.shape[1]:
            raise RequestError(
                f"{noise_ceiling} has targets of dimension {dim}; {table.file} has {table.vectors.shape[1]}."
            )
        return cls(images, replace(table, repeats=repeats), on_missing)

    @classmethod
    def of_run(
        cls,
        run: RunRecord,
        data_dir: Path | None,
        targets: str | None = None,
        noise_ceiling: Path | None = None,
        target_columns: str | None = None,
    ) -> "Source":
        """Find all images of a run, and read their targets.

        Args:
            run: The run's record, with the options that name its images.
            data_dir: The folder of TensorFlow data sets; None for tensorflow-datasets' default.
            targets: A file of targets; None for the run's own.
            noise_ceiling: A file of repeated targets; None for the run's own.
            target_columns: The columns of `targets` that form the embedding; None for the default rule.

        Raises:
            RequestError: The images or the targets cannot be read.
        """
        options, images = run.options, images_of_run(run, data_dir)
        repeats = noise_ceiling or (Path(options["noise_ceiling"]) if "noise_ceiling" in options else None)
        if targets is None:
            targets, target_columns = options.get("targets"), target_columns or options.get("target_columns")
        return cls.read(images, targets, options.get("on_missing", "error"), repeats, target_columns)

    @property
    def dim(self) -> int:
        """D, the dimension of the targets."""
        return self.table.vectors.shape[1]

    def match(self, features: Features) -> tuple[Examples, np.ndarray]:
        """Match features with targets.

        Args:
            features: The features of images of this source.

        Returns:
            The images that have a target, and their rows in the features.

        Raises:
            RequestError: Images have no target and `on_missing` is "error", or no image has one.
        """
        matched = match_targets(features.images, self.table, self.on_missing)
        examples = Examples(features.subset(matched.rows), matched.keys, matched.targets, self.table, self.images)
        return examples, matched.rows

    def load_examples(self, extractors: Sequence[Extractor], extraction: ExtractionOptions) -> Examples:
        """Extract the features of the images and match them with their targets.

        Args:
            extractors: The extractor of each layer.
            extraction: How to run the feature stage.

        Returns:
            The images that could be read and have a target.

        Raises:
            RequestError: Images have no target and `on_missing` is "error", or no image has one.
            PipelineError: The feature stage failed.
        """
        return self.match(extract_features(self.images, extractors, extraction))[0]


def images_of_run(run: RunRecord, data_dir: Path | None = None) -> ImageSet:
    """All images of a run.

    A run may come from another machine: it does not determine the folder of data sets, and none is downloaded for it.

    Args:
        run: The run's record, with the options that name its images.
        data_dir: The folder of TensorFlow data sets; None for tensorflow-datasets' default.

    Raises:
        RequestError: The images cannot be found.
    """
    source, root = run.options["images"], Path(run.options["root"]) if "root" in run.options else None
    if source.startswith("tfds:"):
        check_on_disk(source, data_dir)
    return find_images(source, data_dir, run.options.get("label_pattern"), root)


@dataclass(frozen=True)
class SplitExamples:
    """Examples and their split.

    Attributes:
        examples: All examples.
        rule: The split rule.
        split: The rows of training and held-out examples.
        selection: The rows of training examples that select an epoch and are not trained on; usually none.
        duplicates: A number for each example, shape (N,), int; near-duplicates share one.
    """

    examples: Examples
    rule: SplitRule
    split: Split
    selection: np.ndarray
    duplicates: np.ndarray

    @property
    def held_out(self) -> Examples:
        """The held-out examples."""
        return self.examples.subset(self.split.validation)

    @property
    def train(self) -> np.ndarray:
        """The rows of the examples to train on."""
        return np.setdiff1d(self.split.train, self.selection)

    def scaled(self) -> "SplitExamples":
        """These examples; features of several layers are on one scale, that of the training examples."""
        features = self.examples.features.scaled_by(self.train)
        return replace(self, examples=replace(self.examples, features=features))

    @property
    def units(self) -> np.ndarray:
        """A number for each example; folds keep examples with the same number together, as the rule does."""
        return held_out_units(self.examples.features.images, self.rule, self.duplicates)

    def training_data(self, memory: int = MEMORY) -> TrainingData:
        """Features on disk and targets: to train on, and (selection, held out or the same) to score epochs on."""
        x, y = self.examples.features.stored(), self.examples.targets
        rows = self.train
        evaluated = next(filter(len, (self.selection, self.split.validation)), rows)
        return TrainingData(x.subset(rows), y[rows], x.subset(evaluated), y[evaluated], memory)

    def record(self) -> SplitRecord:
        """The split as stored in `run.json`."""
        paths, digests = self.examples.features.paths, self.examples.features.digests

        def side(rows: np.ndarray) -> dict[str, str]:
            return {paths[row]: digests[row].tobytes().hex() for row in rows}

        return SplitRecord(
            rule=str(self.rule),
            train=side(self.train),
            selection=side(self.selection),
            validation=side(self.split.validation),
            moved=side(self.split.moved),
            near_duplicates=[[paths[row] for row in group] for group in duplicate_groups(self.duplicates)],
        )


@dataclass(frozen=True)
class ExampleOptions:
    """The images and targets to use, and how to split them.

    Attributes:
        images: The images.
        targets: A file of target embeddings; None for those in the images' list.
        on_missing: "error" or "skip" images without a target.
        rule: The split rule.
        seed: Random seed of the split.
        noise_ceiling: A file of repeated targets to estimate the noise ceiling from; None for those in the list.
        target_columns: The columns of the targets' table that form the embedding; None for the default rule.
    """

    images: ImageSet
    targets: str | None
    on_missing: str = "error"
    rule: SplitRule = field(default_factory=SplitRule)
    seed: int = 0
    noise_ceiling: Path | None = None
    target_columns: str | None = None


def load_split_examples(
    options: ExampleOptions,
    extractors: Sequence[Extractor],
    extraction: ExtractionOptions,
    hold_out: bool = True,
    select: bool = False,
) -> SplitExamples:
    """Load examples and split them; detected near-duplicates stay on one side.

    Args:
        options: Images, targets and split.
        extractors: The extractor of each layer.
        extraction: How to run the feature stage.
        hold_out: Whether to hold examples out; otherwise, all are to train on.
        select: Whether some of the training images select the best epoch, so that held-out images only score.

    Returns:
        The examples and their split.

    Raises:
        RequestError: The targets or the split do not fit the images.
        PipelineError: The feature stage failed.
    """
    examples, duplicates = load_numbered_examples(options, extractors, extraction)
    none = np.array([], np.intp)
    split, selection = Split(np.arange(len(examples.targets)), none, none), none
    if hold_out:
        split = split_images(examples.features.images, options.rule, duplicates, options.seed)
    if select:
        split, selection = set_apart(examples.features.images, split, options.rule, duplicates, options.seed)
    return SplitExamples(examples, options.rule, split, selection, duplicates).scaled()


def set_apart(
    images: ImageSet, split: Split, rule: SplitRule, duplicates: np.ndarray, seed: int
) -> tuple[Split, np.ndarray]:
    """Set training images apart to select an epoch, by the split rule: whole groups or labels stay together.

    Args:
        images: All images.
        split: Their split.
        rule: The split rule; "column" sets images apart like "random".
        duplicates: A number for each image, shape (N,), int; images with the same number are near-duplicates.
        seed: Random seed.

    Returns:
        The split without the training images that a near-duplicate excludes from both parts; and the rows of the
        images set apart, which stay on the training side of the split.

    Raises:
        RequestError: The training images cannot be split this way.
    """
    kind = "random" if rule.kind == "column" else rule.kind
    train = split.train
    try:
        inner = split_images(images.subset(train), SplitRule(kind, SELECTION), duplicates[train], seed)
    except RequestError as error:
        raise RequestError(
            Parameter("keep", "best"),
            f" sets training images apart to choose an epoch, as the split {rule} holds images out. ",
            error,
            " Use ",
            Parameter("keep", "last"),
            ".",
        ) from error
    moved = train[inner.moved]
    remaining = Split(np.setdiff1d(train, moved), split.validation, np.union1d(split.moved, moved))
    return remaining, train[inner.validation]


def load_numbered_examples(
    options: ExampleOptions, extractors: Sequence[Extractor], extraction: ExtractionOptions
) -> tuple[Examples, np.ndarray]:
    """Load examples, and a number for each, shape (N,), int; near-duplicates share one.

    Raises:
        RequestError: The targets do not fit the images, or the images lack the column of the split rule.
        PipelineError: The feature stage failed.
    """
    check_split_column(options.images, options.rule)
    source = Source.read(
        options.images, options.targets, options.on_missing, options.noise_ceiling, options.target_columns
    )
    examples = source.load_examples(extractors, extraction)
    features = examples.features
    duplicates = find_near_duplicates(features.digests, features.store.thumbnails, extraction.progress)
    if groups := duplicate_groups(duplicates):
        log.info(
            "%d images have detected duplicates or near-duplicates, which stay on one side of the split, such as %s.",
            sum(map(len, groups)),
            " and ".join(repr(features.paths[row]) for row in groups[0][:2]),
        )
    return examples, duplicates
