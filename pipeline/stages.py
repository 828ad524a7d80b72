"""The stages: each reads what the one before it left on disk, and returns the document that `--json` prints."""

import importlib.metadata
import json
import logging
import math
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from pipeline import comparison, decoders, outputs, plots, runs
from pipeline import images as image_files
from pipeline.baselines import Baselines
from pipeline.copies import find_copies, groups
from pipeline.decoders import API_STYLES, ApiStyle, Recipe
from pipeline.errors import PipelineError, RequestError
from pipeline.evaluating import Decoder, Trial, judge, skipping
from pipeline.evaluation import cosines
from pipeline.features import Computing, extract
from pipeline.feed import in_blocks
from pipeline.images import ImageSet
from pipeline.runs import BASELINES_FILE, CHECKPOINT_FILE, REPORT_FILE, TENSORBOARD_FOLDER, Card
from pipeline.splits import Split, SplitRule, split
from pipeline.targets import Pairs, TargetTable, pair, read_targets
from pipeline.training import MEMORY, Data, Diverged, Fitted, Watch, fit, predict
from pipeline.vgg16 import Extractor

log = logging.getLogger(__name__)

SAMPLE = Path(__file__).resolve().parent.parent / "images"
SAMPLE_TARGETS = SAMPLE / "targets.csv"
SAMPLE_WEIGHTS = "random:0"


def extract_features(images: ImageSet, extractor: Extractor, computing: Computing, out: Path | None = None) -> dict:
    """`extract`: images -> feature store, and a file of vectors where one is asked for.

    Args:
        images: The images.
        extractor: What turns images into features.
        computing: How to run it.
        out: A `.npz`, `.npy` or `.parquet` file to write.

    Returns:
        The `extract` document of the contract.
    """
    if out:
        outputs.check_output(out)
    features = skipping(extract(images, extractor, computing))
    if out:
        outputs.write_vectors(out, "features", features.paths, in_blocks(features.stored()), extractor.dim)
    return {
        "images": len(features.paths) + len(features.failed),
        "computed": features.computed,
        "cached": features.cached,
        "failed": [asdict(failure) for failure in features.failed],
        "seconds": round(features.seconds, 3),
        "images_per_second": round(features.computed / features.seconds, 3) if features.seconds else 0.0,
        "dim": extractor.dim,
        "engine": features.engine,
        "extractor": {"fingerprint": extractor.fingerprint, **extractor.description},
        "store": str(features.store.path),
    }


@dataclass(frozen=True)
class Training:
    """A training as a person asks for it.

    Attributes:
        images: The images.
        targets: A file of target embeddings; None for those of the images' own list.
        recipe: The decoder and how it is trained.
        styles: The API styles to build it in.
        rule: Which images to hold out.
        seed: Seeds the split, the initial weights and the shuffling.
        on_missing: "error" or "skip" images without a target.
        models: The folder of all runs.
        memory: Bytes of features to hold at a time; more than that is streamed from the store.
        tensorboard: Whether to write curves for TensorBoard into the run's folder.
        options: The command's options, kept in `run.json` so that it can be repeated.
    """

    images: ImageSet
    targets: str | None
    recipe: Recipe
    styles: Sequence[ApiStyle] = API_STYLES
    rule: SplitRule = field(default_factory=SplitRule)
    seed: int = 0
    on_missing: str = "error"
    models: Path = Path("models")
    memory: int = MEMORY
    tensorboard: bool = False
    options: dict | None = None


def train(training: Training, extractor: Extractor, computing: Computing, resumed: Path | None = None) -> dict:
    """`train`: images and targets -> a run with a decoder in each API style.

    Args:
        training: What to train on, and how.
        extractor: What turns images into features.
        computing: How to run the feature stage.
        resumed: The folder of a run that was interrupted, to go on with; None for a new run.

    Returns:
        The `train` document of the contract.

    Raises:
        PipelineError: The loss is no longer finite (the run then holds the decoders with their best weights), or
            something could not be read or written.
    """
    if resumed and (finished := runs.read_run(resumed).get("result")):
        log.info("%s is finished already.", resumed)
        return _document(resumed, finished)
    material = _material(training, extractor, computing)
    run = {
        "options": training.options or {},
        "extractor": {"weights": extractor.weights.name, **extractor.description},
        "recipe": asdict(training.recipe),
        "seed": training.seed,
        "split": {"rule": str(training.rule), **material.document()},
        "targets": image_files.digest(material.pairs.targets.tobytes()),
        "versions": _versions(),
    }
    if resumed:
        _check_unchanged(resumed, run)
        outputs.remove_unfinished(resumed)
    folder = resumed or runs.new_run(training.models)
    try:
        runs.write_run(folder, run)
        return _document(folder, _train_in(folder, run, training, material, extractor, computing.progress))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Interrupted. Go on with: python -m pipeline train --resume {folder}") from None
    except BaseException:
        if not runs.is_worth_keeping(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise


@dataclass(frozen=True)
class _Material:
    """What a training works on.

    Attributes:
        table: The target embeddings.
        pairs: The images with their features and targets.
        sides: Which of them to learn from, and which to hold out.
        copies: The images that are copies of each other, by path.
    """

    table: TargetTable
    pairs: Pairs
    sides: Split
    copies: list[list[str]]

    def data(self, memory: int) -> Data:
        """What decoders are trained with."""
        x, y = self.pairs.features.stored(), self.pairs.targets
        rows, held_out = self.sides.train, self.sides.validation
        return Data(x.subset(rows), y[rows], x.subset(held_out), y[held_out], memory)

    def document(self) -> dict:
        """The split as `run.json` holds it: images by path, with their content digests."""
        paths, digests = self.pairs.features.paths, self.pairs.features.digests
        sides = {name: {paths[row]: digests[row] for row in rows} for name, rows in asdict(self.sides).items()}
        return sides | {"copies": self.copies}


def _material(training: Training, extractor: Extractor, computing: Computing) -> _Material:
    table = read_targets(training.targets, training.images, training.on_missing)
    pairs = pair(skipping(extract(training.images, extractor, computing)), table, training.on_missing)
    numbers = find_copies(pairs.features, computing.progress)
    copies = [[pairs.features.paths[row] for row in group] for group in groups(numbers)]
    if copies:
        log.info("%d images have copies or near-copies, which stay on one side of the split, such as %s.",
                 sum(map(len, copies)), " and ".join(map(repr, copies[0][:2])))  # fmt: skip
    return _Material(table, pairs, split(pairs, training.rule, numbers, training.seed), copies)


def _train_in(
    folder: Path, run: dict, training: Training, material: _Material, extractor: Extractor, progress: bool
) -> dict:
    """Train, save and judge the decoders of a run; its result, which `run.json` then holds too."""
    recipe, data = training.recipe, material.data(training.memory)
    ceiling = decoders.ceiling(recipe.decoder.output_activation, data.y_validation)
    if ceiling < 0.999:
        log.warning(
            "A %s output has no negative values, the targets do: no decoder with it can pass a mean cosine of %.3f, "
            "its ceiling. A linear or tanh output can reach 1.", recipe.decoder.output_activation, ceiling
        )  # fmt: skip
    data = data.loaded()
    models = {
        style: decoders.build_decoder(recipe.decoder, style, data.x, data.y, training.seed) for style in training.styles
    }
    checkpoint, logs = folder / CHECKPOINT_FILE, folder / TENSORBOARD_FOLDER
    watch = Watch(progress, checkpoint, logs if training.tensorboard else None)
    diverged = None
    try:
        fitted = fit(models, data, recipe, training.seed, watch)
    except Diverged as error:
        diverged, fitted = error, error.fitted
        if not all(each.kept_epoch for each in fitted.values()):
            checkpoint.unlink(missing_ok=True)
            raise

    card = Card(extractor.weights.name, extractor.fingerprint, extractor.description, data.x.shape[1],
                data.y.shape[1], recipe.decoder.output_activation)  # fmt: skip
    baselines = Baselines.fit(data.x, data.y, training.seed, training.memory)
    baselines.save(folder / BASELINES_FILE)
    entries, judged = {}, {}
    for style, model in models.items():
        runs.save_decoder(model, folder / f"{style}.keras", card)
        predicted = predict(model, data.x_validation)
        entries[style] = {
            "epochs": fitted[style].epochs,
            "seconds": round(fitted[style].seconds, 3),
            "train_cosine": _mean_cosine(predict(model, data.x), data.y),
            "validation_cosine": _mean_cosine(predicted, data.y_validation),
        }
        judged[style] = Decoder(
            predicted, recipe.decoder.output_activation, entries[style]["train_cosine"], _curves(fitted[style])
        )
        log.info("%s: %d epochs in %.1f s, held-out cosine %.4f", style, *list(entries[style].values())[:2],
                 entries[style]["validation_cosine"])  # fmt: skip
    of_baselines = baselines.predict(data.x_validation)
    result = {
        "images": len(data.y) + len(data.y_validation),
        "train": len(data.y),
        "validation": len(data.y_validation),
        "target_dim": data.y.shape[1],
        "models": entries,
        "baselines": {
            name: {"validation_cosine": _mean_cosine(predicted, data.y_validation)}
            for name, predicted in of_baselines.items()
        },
        "ceiling": ceiling,
    }
    kept = {style: each.kept_epoch for style, each in fitted.items()}
    curves = {style: decoder.curves for style, decoder in judged.items()}
    run = run | {"result": result, "kept_epoch": kept, "curves": curves}
    held_out = material.pairs.take(material.sides.validation)
    judge(
        Trial(
            pairs=held_out,
            images=training.images,
            table=material.table,
            decoders=judged,
            baselines=of_baselines,
            fitted=baselines,
            weights=card.weights,
            run=run,
            folder=folder,
        ),
        folder / REPORT_FILE,
    )
    runs.write_run(folder, run)
    checkpoint.unlink(missing_ok=True)
    if diverged:
        epochs = " and ".join(f"{epoch} ({style})" for style, epoch in kept.items())
        raise PipelineError(f"{diverged} The best weights until then, of epoch {epochs}, are kept in {folder}.")
    return result


def _curves(fitted: Fitted) -> dict[str, list[float | None]]:
    """Learning curves as JSON can hold them: what is not finite is None."""
    return {name: [value if math.isfinite(value) else None for value in curve] for name, curve in fitted.curves.items()}


def _document(folder: Path, result: dict) -> dict:
    """The `train` document of a run's folder and result."""
    models = {style: {"path": str(folder / f"{style}.keras"), **model} for style, model in result["models"].items()}
    return {"run": str(folder), **result, "models": models, "report": str(folder / REPORT_FILE)}


def _check_unchanged(folder: Path, run: dict) -> None:
    """Refuse to go on with a run on other images or targets than it began with."""
    begun = runs.read_run(folder)
    now = json.loads(json.dumps(run))
    parts = {"split": "images", "targets": "targets", "extractor": "weights", "recipe": "options", "seed": "seed"}
    for part, name in parts.items():
        if begun.get(part) != now[part]:
            raise RequestError(
                f"{folder} cannot go on: the {name} have changed since it began. Bring them back, or train anew."
            )


def _mean_cosine(predictions: np.ndarray, targets: np.ndarray) -> float:
    return float(cosines(predictions, targets).mean())


def _versions() -> dict[str, str]:
    packages = ("image-vectors", "keras", "tensorflow", "numpy", "pillow", "scikit-learn")
    found = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages if name in found
    }


def compare(
    seeds: int,
    recipe: Recipe,
    training: Training | None = None,
    extractor: Extractor | None = None,
    computing: Computing | None = None,
    plot: Path | None = None,
) -> dict:
    """`compare`: the study of why two identical models differ.

    Args:
        seeds: How many seeds to run, from 0 on.
        recipe: The decoder and its training.
        training: Images and targets of one's own, with `extractor` and `computing`; None for the question's sample.
        extractor: What turns images into features.
        computing: How to run the feature stage, and whether to show progress.
        plot: A file for a picture of the learning curves.

    Returns:
        The `compare` document of the contract.
    """
    if plot:
        plots.check_picture(plot)
    data = comparison.question
    if training:
        own = _material(training, extractor, computing).data(training.memory).loaded()
        data = lambda seed: own  # noqa: E731
    try:
        study = comparison.compare(data, recipe, range(seeds), bool(computing and computing.progress))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Interrupted. The study keeps nothing; the same command begins it anew.") from None
    document = comparison.document(study)
    if plot:
        plots.plot_study(study, document["ceiling"], plot)
    return document
