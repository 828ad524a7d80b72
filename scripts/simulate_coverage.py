"""Measure how often the 95 % intervals cover the truth, with decoders trained on simulated images.

Each run draws labels, images and targets, splits them by the pipeline's rules, trains a decoder and baselines, and
computes the intervals that `train` and `evaluate` print. The truth is the mean cosine on a large pool that is not used
for training:

| row | truth |
| --- | --- |
| new images of these labels (or groups) | this decoder on new images of the held-out labels (or groups) |
| other labels that are also trained on | the mean over runs; each draws labels, trains on them and scores new images |
| unseen labels, new groups | this decoder on labels or groups that no run trained on |
| ..., retrained | the mean of that truth over decoders trained on other images, labels or groups |

With folds, "this decoder" is the mean over the decoders of all folds. The column `with interval` is a share of
runs; the others are not counted. The columns after it are the shares of intervals that cover the truth, for the
decoder's cosine and for its paired differences from the baselines.

    python scripts/simulate_coverage.py [--runs 300] [--decoder ridge|default] [--only NAME ...]    # ~10 minutes
"""

import argparse
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from measuring import table

from pipeline.core.vectors import cosines
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.splits import Split, SplitRule, assign_folds, fold_images, held_out_units, split_images
from pipeline.decoders.baselines import Baselines
from pipeline.decoders.callbacks import Callbacks
from pipeline.decoders.fitting import PRESETS, fit_decoders
from pipeline.decoders.network import predict
from pipeline.decoders.ridge import RidgeFolds
from pipeline.decoders.training import TrainingData
from pipeline.evaluation.intervals import across, over_folds, within
from pipeline.evaluation.results import Bounds

FEATURES, LATENT, DIM = 64, 8, 20
FOLDS = 5  # for choosing the penalty of ridge regression
NOISE = 2.0  # of a feature, relative to the label's contribution
OWN = 0.7  # of a target, relative to the part that is linear in the features; learnable only from images of the label
OFFSET = 0.5  # that all targets share
GROUP = 0.7  # of an image's latent vector, relative to the label's
POOL = 8000  # images in the pool, equally many per label or group: far more than the split holds out
UNITS = 200  # labels or groups in the pool
Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Setting:
    """The settings of a simulation.

    Attributes:
        name: Its name.
        rule: The split rule.
        labels: The number of labels.
        images: The smallest and largest number of images per label.
        groups: The number of groups; 0 for none.
        folds: The number of folds; 0 for a single split.
        label_sets: The number of label sets that the runs share, so that decoders are retrained on the same labels;
            None to draw new labels for each run.
        conse: Whether to include the ConSE baseline, which takes most of the time.
    """

    name: str
    rule: SplitRule
    labels: int = 24
    images: tuple[int, int] = (4, 20)
    groups: int = 0
    folds: int = 0
    label_sets: int | None = None
    conse: bool = False


RANDOM, CLASSES, GROUPS = (SplitRule(kind) for kind in ("random", "classes", "group"))
SETTINGS = (
    Setting("random", RANDOM),
    Setting("random, 16 labels", RANDOM, labels=16),
    Setting("random, same labels", RANDOM, label_sets=10),
    Setting("classes", CLASSES, labels=60),
    Setting("group", GROUPS, groups=60, label_sets=1),
    Setting("folds", RANDOM, folds=5),
    Setting("folds, same labels", RANDOM, folds=5, label_sets=10),
    Setting("folds of classes", CLASSES, folds=5),
    Setting("folds of groups", GROUPS, groups=24, folds=5, label_sets=1),
    Setting("random, ConSE", RANDOM, conse=True),
)


@dataclass(frozen=True)
class World:
    """The generative model of labels and images: linear maps from a latent space, plus noise."""

    to_features: np.ndarray
    to_targets: np.ndarray
    offset: np.ndarray

    @classmethod
    def draw(cls, seed: int) -> "World":
        """Draw the maps."""
        random = np.random.default_rng(seed)
        return cls(
            random.normal(size=(LATENT, FEATURES)) / LATENT**0.5,
            random.normal(size=(LATENT, DIM)) / LATENT**0.5,
            OFFSET * random.normal(size=DIM),
        )

    def features(self, latent: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """One image per latent vector, shape (N, LATENT); returns features, shape (N, FEATURES)."""
        noise = random.standard_normal((len(latent), FEATURES), np.float32)
        return (latent @ self.to_features).astype(np.float32) + np.float32(NOISE) * noise

    def labels(self, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Latent vectors and targets of some labels: shapes (count, LATENT) and (count, DIM)."""
        latent = random.normal(size=(count, LATENT))
        own = OWN * random.normal(size=(count, DIM))
        return latent, (self.offset + latent @ self.to_targets + own).astype(np.float32)


@dataclass(frozen=True)
class Sample:
    """The images of a run: features (N, F), targets (N, D), the number of each image's label and group, and the groups.

    `latent` has the labels' latent vectors, `of_label` their targets, `of_group` the groups' latent vectors.
    """

    x: np.ndarray
    y: np.ndarray
    label: np.ndarray
    group: np.ndarray
    latent: np.ndarray
    of_label: np.ndarray
    of_group: np.ndarray

    @classmethod
    def draw(cls, world: World, setting: Setting, run: int) -> "Sample":
        """Draw the labels of a run (or of its label set) and their numbers of images, then its images."""
        of_labels = np.random.default_rng([2, run % setting.label_sets if setting.label_sets else run])
        latent, of_label = world.labels(setting.labels, of_labels)
        sizes = of_labels.integers(*setting.images, setting.labels, endpoint=True)
        random = np.random.default_rng([1, run])
        label = np.repeat(np.arange(setting.labels), sizes)
        group = random.integers(max(setting.groups, 1), size=len(label))
        of_group = GROUP * random.normal(size=(max(setting.groups, 1), LATENT)) * bool(setting.groups)
        x = world.features(latent[label] + of_group[group], random)
        return cls(x, of_label[label], label, group, latent, of_label, of_group)

    @property
    def images(self) -> ImageSet:
        """The images as the pipeline's ImageSet."""
        paths = [f"{number:05}" for number in range(len(self.x))]
        groups = [f"{group:03}" for group in self.group]
        return ImageSet("simulated", paths, [ImageRef(path) for path in paths], [f"{n:03}" for n in self.label], groups)


@dataclass(frozen=True)
class Outcome:
    """An interval, and the truth that it should cover.

    Attributes:
        question: The population that the interval is for.
        of: The decoder's cosine, or its difference from a baseline.
        bounds: The interval, or None.
        truth: The mean cosine of these decoders on the pool.
        label_set: The label set of the run.
    """

    question: str
    of: str
    bounds: Bounds | None
    truth: float
    label_set: int


def fit_ridge_alone(x: np.ndarray, y: np.ndarray, units: np.ndarray, seed: int) -> Predict:
    """The pipeline's ridge regression, with a single penalty."""
    ridge = RidgeFolds(x, y, assign_folds(y, units, seed, FOLDS)).best()
    return lambda pool: pool @ ridge.coefficients + ridge.intercept


def fit_default(x: np.ndarray, y: np.ndarray, units: np.ndarray, seed: int) -> Predict:
    """The default decoder."""
    fitted = fit_decoders(TrainingData(x, y, x, y), PRESETS["default"], ["functional"], units, seed, Callbacks())
    return lambda pool: predict(fitted.models["functional"], pool)


DECODERS = {"ridge": fit_ridge_alone, "default": fit_default}


def fit_all(
    sample: Sample, rows: np.ndarray, units: np.ndarray, seed: int, decoder: str, conse: bool
) -> dict[str, Predict]:
    """Train the decoder and the baselines on some images; returns name -> predictor."""
    x, y = sample.x[rows], sample.y[rows]
    fitted: dict[str, Predict] = {"decoder": DECODERS[decoder](x, y, units[rows], seed)}
    mean = y.mean(axis=0)
    fitted["mean"] = lambda pool: np.broadcast_to(mean, (len(pool), DIM))
    if conse and "conse" in (models := Baselines.fit(x, y, units[rows], seed).models):
        fitted["conse"] = lambda pool: predict(models["conse"], pool)
    return fitted


def compare(fitted: Mapping[str, Predict], x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """The decoder's cosine for each image, and its differences from the baselines."""
    of = {name: cosines(predicts(x), y) for name, predicts in fitted.items()}
    ours = of.pop("decoder")
    return {"decoder": ours} | {name: ours - theirs for name, theirs in of.items()}


class Pool:
    """A pool of unseen images: the mean cosine and differences of each unit (label or group)."""

    def __init__(self, world: World, sample: Sample, run: int) -> None:
        self._world, self._sample, self._random = world, sample, np.random.default_rng([3, run])

    def of_labels(self, fitted: Mapping[str, Predict], label: np.ndarray) -> dict[str, np.ndarray]:
        """New images of the run's labels, as many per label as in `label`; one value per image."""
        several, weight = np.unique(label, return_inverse=True)
        return self._means(fitted, self._sample.latent[several], self._sample.of_label[several], weight)

    def of_new_labels(self, fitted: Mapping[str, Predict]) -> dict[str, np.ndarray]:
        """Images of labels that do not occur in any run."""
        latent, targets = self._world.labels(UNITS, self._random)
        return self._means(fitted, latent, targets, np.arange(UNITS))

    def of_groups(self, fitted: Mapping[str, Predict], group: np.ndarray) -> dict[str, np.ndarray]:
        """New images of the run's groups, with random labels."""
        several, weight = np.unique(group, return_inverse=True)
        return self._of_groups(fitted, self._sample.of_group[several], weight)

    def of_new_groups(self, fitted: Mapping[str, Predict]) -> dict[str, np.ndarray]:
        """Images of groups that do not occur in any run."""
        groups = GROUP * self._random.normal(size=(UNITS, LATENT))
        return self._of_groups(fitted, groups, np.arange(UNITS))

    def _of_groups(self, fitted: Mapping[str, Predict], groups: np.ndarray, weight: np.ndarray) -> dict:
        sizes, count = np.bincount(self._sample.label), POOL // len(groups)
        label = self._random.choice(len(sizes), (len(groups), count), p=sizes / sizes.sum())
        latent = (self._sample.latent[label] + groups[:, None]).reshape(-1, LATENT)
        x, y = self._world.features(latent, self._random), self._sample.of_label[label.ravel()]
        return {name: by(values, count)[weight] for name, values in compare(fitted, x, y).items()}

    def _means(
        self, fitted: Mapping[str, Predict], latent: np.ndarray, targets: np.ndarray, weight: np.ndarray
    ) -> dict:
        count = POOL // len(latent)
        x = self._world.features(np.repeat(latent, count, axis=0), self._random)
        scores = compare(fitted, x, np.repeat(targets, count, axis=0))
        return {name: by(values, count)[weight] for name, values in scores.items()}


def by(values: np.ndarray, size: int) -> np.ndarray:
    """The means of adjacent values."""
    return values.reshape(-1, size).mean(axis=1)


def outcomes(world: World, setting: Setting, run: int, decoder: str) -> Iterator[Outcome]:
    """Draw a run, train on it, and compute its intervals with their truths."""
    sample = Sample.draw(world, setting, run)
    images, duplicates = sample.images, np.arange(len(sample.x))
    units = held_out_units(images, setting.rule, duplicates)
    if setting.folds:
        splits: Sequence[Split] = list(fold_images(images, setting.rule, duplicates, setting.folds, run))
    else:
        splits = [split_images(images, setting.rule, duplicates, run)]
    pool = Pool(world, sample, run)
    kind = setting.rule.kind
    clusters = sample.group if kind == "group" else sample.label
    values: dict[str, list[np.ndarray]] = defaultdict(list)
    same: dict[str, list[np.ndarray]] = defaultdict(list)
    new: dict[str, list[np.ndarray]] = defaultdict(list)
    for split in splits:
        rows = split.validation
        fitted = fit_all(sample, split.train, units, run, decoder, setting.conse)
        for name, scores in compare(fitted, sample.x[rows], sample.y[rows]).items():
            values[name].append(scores)
        in_pool = pool.of_groups if kind == "group" else pool.of_labels
        for name, scores in in_pool(fitted, clusters[rows]).items():
            same[name].append(scores)
        if kind != "random":
            for name, scores in (pool.of_new_groups if kind == "group" else pool.of_new_labels)(fitted).items():
                new[name].append(scores)
    label_set = run % setting.label_sets if setting.label_sets else 0
    held_out = clusters[np.concatenate([split.validation for split in splits])]
    what = {"random": "other labels that are also trained on", "classes": "unseen labels", "group": "new groups"}[kind]
    these = "these groups" if kind == "group" else "these labels"
    for name in values:
        largest = 1 if name == "decoder" else 2
        pooled = np.concatenate(values[name])
        truth_same = float(np.concatenate(same[name]).mean())
        truth_new = truth_same if kind == "random" else float(np.mean([scores.mean() for scores in new[name]]))
        if setting.folds:
            interval = over_folds(np.array([scores.mean() for scores in values[name]]), setting.folds, len(pooled))
            question = f"another training and {f'new images of {these}' if kind == 'random' else what}"
            yield Outcome(question, name, interval.bounds(largest) if interval else None, truth_new, label_set)
            continue
        for question, interval, truth in (
            (f"new images of {these}", within(pooled, held_out), truth_same),
            (what, across(pooled, held_out), truth_new),
        ):
            yield Outcome(question, name, interval.bounds(largest) if interval else None, truth, label_set)


def simulated(setting: Setting, runs: int, decoder: str) -> list[list[str]]:
    """The rows of the table for a setting."""
    world = World.draw(0)
    results = [outcome for run in range(runs) for outcome in outcomes(world, setting, run, decoder)]
    rows = []
    for question in dict.fromkeys(outcome.question for outcome in results):
        some = [outcome for outcome in results if outcome.question == question]
        with_interval = [outcome for outcome in some if outcome.bounds]
        share = f"{np.mean([outcome.bounds is not None for outcome in some if outcome.of == 'decoder']):.0%}"
        shape = [setting.name, str(setting.groups or setting.labels)]
        alike = question.startswith("other labels")
        if not alike:
            rows.append([*shape, question, share, *coverages(with_interval)])
        if retrained_is_known(question, setting):
            rows.append([*shape, question + ", retrained" * (not alike), share, *coverages(retrained(some))])
    return rows


def retrained_is_known(question: str, setting: Setting) -> bool:
    """Whether the runs redraw exactly what the question leaves open."""
    if "these labels" in question:
        return bool(setting.label_sets) and setting.rule.kind == "random"
    return "these groups" not in question and (setting.label_sets is None or setting.rule.kind == "group")


def retrained(results: Sequence[Outcome]) -> list[Outcome]:
    """The intervals with the mean truth of all runs with the same label set."""
    truths = defaultdict(list)
    for outcome in results:
        truths[outcome.of, outcome.label_set].append(outcome.truth)
    return [
        dataclasses.replace(outcome, truth=float(np.mean(truths[outcome.of, outcome.label_set])))
        for outcome in results
        if outcome.bounds
    ]


def coverages(with_interval: Sequence[Outcome]) -> list[str]:
    """The share of intervals that cover the truth, for the decoder and for its differences."""
    columns = []
    for of in ("decoder", "mean", "conse"):
        some = [outcome for outcome in with_interval if outcome.of == of]
        covered = [outcome.bounds[0] <= outcome.truth <= outcome.bounds[1] for outcome in some if outcome.bounds]
        columns.append(f"{np.mean(covered):.1%}" if covered else "")
    return columns


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--decoder", choices=DECODERS, default="ridge")
    parser.add_argument("--only", nargs="+", choices=[setting.name for setting in SETTINGS])
    options = parser.parse_args()
    chosen = [setting for setting in SETTINGS if not options.only or setting.name in options.only]
    head = ["simulation", "labels or groups", "interval for", "with interval", "decoder", "minus mean", "minus ConSE"]
    table(head, (row for setting in chosen for row in simulated(setting, options.runs, options.decoder)))


if __name__ == "__main__":
    main()
