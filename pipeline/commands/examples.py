"""Examples: images with features and target embeddings, and their split."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.commands.training_options import ExampleOptions
from pipeline.core.errors import Parameter, RequestError
from pipeline.core.runs import RunRecord, SplitRecord
from pipeline.core.wording import counted
from pipeline.data.feature_tables import FeatureTable, find_or_name, read_features
from pipeline.data.hub import is_hub_url, local_copy
from pipeline.data.images import ImageSet
from pipeline.data.matching import match_targets
from pipeline.data.near_duplicates import duplicate_groups
from pipeline.data.options import SourceOptions, TargetOptions
from pipeline.data.splits import Split, SplitRule, check_split_column, held_out_units, split_images
from pipeline.data.targets import TargetTable, read_repeats, read_targets
from pipeline.data.tfds_reader import check_on_disk
from pipeline.decoders.options import MEMORY
from pipeline.decoders.training import TrainingData
from pipeline.features.features import Features
from pipeline.features.options import ExtractionOptions
from pipeline.features.sources import FeatureSource

log = logging.getLogger(__name__)

SELECTION = 0.2  # of the training images, if the best epoch is selected


@dataclass(frozen=True)
class Examples:
    """N images with features and targets, in path order.

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
    """Images and their targets, before features are extracted.

    Attributes:
        images: The images.
        table: The target embeddings.
        on_missing: What to do with images that have no target: "error" or "skip".
    """

    images: ImageSet
    table: TargetTable
    on_missing: str = "error"

    @classmethod
    def read(cls, images: ImageSet, options: TargetOptions) -> "Source":
        """Read the targets of images, from the options or else from the images' list.

        Raises:
            RequestError: A file cannot be read, or the dimensions differ.
        """
        table = read_targets(options.targets, images, options.on_missing, options.target_columns)
        if options.noise_ceiling is None:
            return cls(images, table, options.on_missing)
        repeats = read_repeats(options.noise_ceiling, options.target_columns)
        dim = next(iter(repeats.values())).shape[1]
        if dim != table.vectors.shape[1]:
            raise RequestError(
                f"{options.noise_ceiling} has targets of dimension {dim}; {table.file} has {table.vectors.shape[1]}."
            )
        _check_means(table, repeats, options.noise_ceiling)
        return cls(images, replace(table, repeats=repeats), options.on_missing)

    @classmethod
    def of_run(
        cls,
        run: RunRecord,
        data_dir: Path | None,
        options: TargetOptions | None = None,
        table: FeatureTable | None = None,
    ) -> "Source":
        """Find all images of a run, and read their targets.

        Args:
            run: The run's record, with the options that name its images.
            data_dir: The folder of TensorFlow data sets; None for tensorflow-datasets' default.
            options: Other targets; what they leave out is taken from the run.
            table: The vectors that the run was trained on; None to read them if needed.

        Raises:
            RequestError: The images or the targets cannot be read.
        """
        names, options = ("targets", "target_columns", "on_missing", "noise_ceiling"), options or TargetOptions()
        recorded = TargetOptions.from_values({name: run.options[name] for name in names if name in run.options})
        if options.targets is None:
            columns = options.target_columns or recorded.target_columns
            options = replace(options, targets=recorded.targets, target_columns=columns)
        repeats = options.noise_ceiling or recorded.noise_ceiling
        options = replace(options, noise_ceiling=repeats, on_missing=recorded.on_missing)
        return cls.read(images_of_run(run, data_dir, table), options)

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

    def load_examples(self, features: FeatureSource, extraction: ExtractionOptions) -> Examples:
        """Get the features of the images and match them with their targets.

        Args:
            features: The source of the features.
            extraction: How to run the feature stage.

        Returns:
            The images that could be read and have a target.

        Raises:
            RequestError: Images have no target or no vector and `on_missing` is "error", or no image has one.
            PipelineError: The feature stage failed.
        """
        return self.match(features.features(self.images, extraction, self.on_missing))[0]


def _check_means(table: TargetTable, repeats: Mapping[str, np.ndarray], file: Path) -> None:
    """Warn if targets are not the means of their repeats, as the noise ceiling assumes."""
    means = {key: repeats[key].mean(axis=0) for key in table.rows if key in repeats}
    other = [key for key, mean in means.items() if not np.allclose(table.vectors[table.rows[key]], mean, 1e-3, 1e-5)]
    if other:
        log.warning(
            "%d of %s are not the means of their repeats in %s, such as that of %r; the noise ceiling is for means.",
            len(other),
            counted(len(means), "target"),
            file,
            other[0],
        )


def table_of_run(run: RunRecord) -> FeatureTable | None:
    """The vectors that a run was trained on; None if a network computed its features.

    Raises:
        RequestError: The table cannot be read.
    """
    file = run.options.get("features")
    return read_features(Path(file)) if file else None


def images_of_run(run: RunRecord, data_dir: Path | None = None, table: FeatureTable | None = None) -> ImageSet:
    """All images of a run.

    A run may come from another machine, so its folder of data sets is not used, and no data set is downloaded for it.

    Args:
        run: The run's record, with the options that name its images.
        data_dir: The folder of TensorFlow data sets; None for tensorflow-datasets' default.
        table: The vectors that the run was trained on; None to read them if the run has no images.

    Raises:
        RequestError: The images cannot be found.
    """
    source, root = run.options.get("images"), Path(run.options["root"]) if "root" in run.options else None
    names = {name: run.options.get(name) for name in ("image_column", "names", "label_pattern")}
    sources = SourceOptions(data_dir=data_dir, root=root, **names)
    if source and source.startswith("tfds:"):
        check_on_disk(source, data_dir)
    if source and is_hub_url(source):
        return replace(sources.find(local_copy(source, may_download=False)), source=source)
    return find_or_name(sources, source, table or (None if source else table_of_run(run)))


@dataclass(frozen=True)
class SplitExamples:
    """Examples and their split.

    Attributes:
        all: All examples.
        rule: The split rule.
        split: The rows of training and held-out examples.
        selection: The rows of training examples that select the best epoch and are not trained on; usually none.
        duplicates: A number for each example, shape (N,), int; near-duplicates share a number.
    """

    all: Examples
    rule: SplitRule
    split: Split
    selection: np.ndarray
    duplicates: np.ndarray

    @property
    def held_out(self) -> Examples:
        """The held-out examples."""
        return self.all.subset(self.split.validation)

    @property
    def train(self) -> np.ndarray:
        """The rows of the examples to train on."""
        return np.setdiff1d(self.split.train, self.selection)

    def scaled(self) -> "SplitExamples":
        """These examples, with the features of several layers scaled alike, by the training examples."""
        features = self.all.features.scaled_by(self.train)
        return replace(self, all=replace(self.all, features=features))

    @property
    def units(self) -> np.ndarray:
        """A number for each example; folds keep examples with the same number together, as the rule does."""
        return held_out_units(self.all.features.images, self.rule, self.duplicates)

    @property
    def strata(self) -> np.ndarray:
        """A number for each training example: its label where the split holds out part of each label, else the same."""
        if self.rule.kind not in ("random", "column"):
            return np.zeros(len(self.train), np.intp)
        return np.unique(self.all.features.images.subset(self.train).labels, return_inverse=True)[1]

    def training_data(self, memory: int = MEMORY, part: np.ndarray | None = None) -> TrainingData:
        """Features on disk and targets to train on, and others (selection, held out or the same) to score epochs on.

        Args:
            memory: See `TrainingData`.
            part: Which of the rows in `train` to train on; None for all.
        """
        x, y = self.all.features.stored(), self.all.targets
        rows = self.train if part is None else self.train[part]
        evaluated = next(filter(len, (self.selection, self.split.validation)), rows)
        bands = tuple(self.all.features.bands.values())
        return TrainingData(x.subset(rows), y[rows], x.subset(evaluated), y[evaluated], memory, bands=bands)

    def record(self) -> SplitRecord:
        """The split as stored in `run.json`."""
        paths, digests = self.all.features.paths, self.all.features.digests

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


def read_source(options: ExampleOptions, advice: str, table: FeatureTable | None = None) -> Source:
    """Find images and read their targets.

    Args:
        options: The images, their targets and their split.
        advice: The start of the message if images or targets are missing; the option of the targets follows.
        table: Their vectors; its names are used if the options name no images.

    Raises:
        RequestError: The images or the targets are missing or cannot be read, or the images lack the column of the
            split rule.
    """
    named = options.images is not None or table is not None
    images = find_or_name(options.sources, options.images, table) if named else None
    if images is None or (options.targets.targets is None and images.targets is None):
        raise RequestError(advice, Parameter("targets", "FILE"), ".")
    check_split_column(images, options.rule)
    return Source.read(images, options.targets)


def load_split_examples(
    source: Source,
    options: ExampleOptions,
    features: FeatureSource,
    extraction: ExtractionOptions,
    hold_out: bool = True,
    select: bool = False,
) -> SplitExamples:
    """Load examples and split them; detected near-duplicates stay on one side.

    Args:
        source: The images and their targets.
        options: The split.
        features: The source of the features.
        extraction: How to run the feature stage.
        hold_out: Whether to hold examples out; otherwise, all are for training.
        select: Whether to select the best epoch on some of the training images, so that held-out images are only for
            scoring.

    Returns:
        The examples and their split.

    Raises:
        RequestError: The targets or the split do not fit the images.
        PipelineError: The feature stage failed.
    """
    examples, duplicates = load_numbered_examples(source, features, extraction)
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
    """Set training images aside to select the best epoch, by the split rule: groups or labels stay together.

    Args:
        images: All images.
        split: Their split.
        rule: The split rule; "column" sets images aside as "random" does.
        duplicates: A number for each image, shape (N,), int; images with the same number are near-duplicates.
        seed: Random seed.

    Returns:
        The split, minus the training images that are left out of both parts because of a near-duplicate; and the rows
        of the images set aside, which the split still counts as training images.

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
    source: Source, features: FeatureSource, extraction: ExtractionOptions
) -> tuple[Examples, np.ndarray]:
    """Load examples, and a number for each, shape (N,), int; near-duplicates share a number.

    Raises:
        RequestError: The targets do not fit the images.
        PipelineError: The feature stage failed.
    """
    examples = source.load_examples(features, extraction)
    duplicates = examples.features.number_duplicates(extraction.progress)
    if groups := duplicate_groups(duplicates):
        log.info(
            "%d images have detected duplicates or near-duplicates, which stay on one side of the split, such as %s.",
            sum(map(len, groups)),
            " and ".join(repr(examples.features.paths[row]) for row in groups[0][:2]),
        )
    return examples, duplicates
