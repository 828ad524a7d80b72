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

from pipeline import comparison, decoders, evaluation, outputs, plots, runs
from pipeline import images as image_files
from pipeline.copies import find_copies, groups
from pipeline.decoders import API_STYLES, ApiStyle, Recipe
from pipeline.errors import PipelineError, RequestError
from pipeline.evaluation import Baselines, cosines
from pipeline.features import Computing, Features, extract
from pipeline.feed import in_blocks
from pipeline.images import ImageSet
from pipeline.runs import BASELINES_FILE, CHECKPOINT_FILE, RUN_FILE, TENSORBOARD_FOLDER, Card
from pipeline.sources import find_images
from pipeline.splits import Split, SplitRule, split
from pipeline.targets import Pairs, pair, read_targets
from pipeline.training import MEMORY, Data, Diverged, Watch, fit, predict
from pipeline.vgg16 import Extractor, weights_from

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
    features = _extract(images, extractor, computing)
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


def _extract(images: ImageSet, extractor: Extractor, computing: Computing) -> Features:
    """Run the feature stage and name the images it had to skip."""
    features = extract(images, extractor, computing)
    for failure in features.failed:
        log.warning("skipped %s: %s", failure.path, failure.error)
    return features


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
    pairs, sides, copies = _split(training, extractor, computing)
    data = _data(pairs, sides, training.memory)
    run = {
        "options": training.options or {},
        "extractor": {"weights": extractor.weights.name, **extractor.description},
        "recipe": asdict(training.recipe),
        "seed": training.seed,
        "split": {
            "rule": str(training.rule),
            "train": _named(pairs, sides.train),
            "validation": _named(pairs, sides.validation),
            "moved": _named(pairs, sides.moved),
            "copies": copies,
        },
        "targets": image_files.digest(pairs.targets.tobytes()),
        "versions": _versions(),
    }
    if resumed:
        _check_unchanged(resumed, run)
        outputs.remove_unfinished(resumed)
    folder = resumed or runs.new_run(training.models)
    try:
        runs.write_run(folder, run)
        return _document(folder, _train_in(folder, run, training, data, extractor, computing.progress))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Interrupted. Go on with: python -m pipeline train --resume {folder}") from None
    except BaseException:
        if not runs.is_worth_keeping(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _split(training: Training, extractor: Extractor, computing: Computing) -> tuple[Pairs, Split, list[list[str]]]:
    """The images with their targets; those to learn from and to hold out; and which are copies of each other."""
    table = read_targets(training.targets, training.images, training.on_missing)
    pairs = pair(_extract(training.images, extractor, computing), table, training.on_missing)
    numbers = find_copies(pairs.features, computing.progress)
    copies = [[pairs.features.paths[row] for row in group] for group in groups(numbers)]
    if copies:
        log.info("%d images have copies or near-copies, which stay on one side of the split, such as %s.",
                 sum(map(len, copies)), " and ".join(map(repr, copies[0][:2])))  # fmt: skip
    return pairs, split(pairs, training.rule, numbers, training.seed), copies


def _data(pairs: Pairs, sides: Split, memory: int) -> Data:
    x, y = pairs.features.stored(), pairs.targets
    rows, held_out = sides.train, sides.validation
    return Data(x.subset(rows), y[rows], x.subset(held_out), y[held_out], memory)


def _train_in(folder: Path, run: dict, training: Training, data: Data, extractor: Extractor, progress: bool) -> dict:
    """Train, save and judge the decoders of a run; its result, which `run.json` then holds too."""
    recipe = training.recipe
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
    entries = {}
    for style, model in models.items():
        runs.save_decoder(model, folder / f"{style}.keras", card)
        entries[style] = {
            "epochs": fitted[style].epochs,
            "seconds": round(fitted[style].seconds, 3),
            "train_cosine": _mean_cosine(predict(model, data.x), data.y),
            "validation_cosine": _mean_cosine(predict(model, data.x_validation), data.y_validation),
        }
        log.info("%s: %d epochs in %.1f s, held-out cosine %.4f", style, *list(entries[style].values())[:2],
                 entries[style]["validation_cosine"])  # fmt: skip
    result = {
        "images": len(data.y) + len(data.y_validation),
        "train": len(data.y),
        "validation": len(data.y_validation),
        "target_dim": data.y.shape[1],
        "models": entries,
        "baselines": {
            name: {"validation_cosine": _mean_cosine(predicted, data.y_validation)}
            for name, predicted in baselines.predict(data.x_validation).items()
        },
        "ceiling": ceiling,
    }
    kept = {style: each.kept_epoch for style, each in fitted.items()}
    curves = {
        style: {
            name: [value if math.isfinite(value) else None for value in curve] for name, curve in each.curves.items()
        }
        for style, each in fitted.items()
    }
    runs.write_run(folder, run | {"result": result, "kept_epoch": kept, "curves": curves})
    checkpoint.unlink(missing_ok=True)
    if diverged:
        epochs = " and ".join(f"{epoch} ({style})" for style, epoch in kept.items())
        raise PipelineError(f"{diverged} The best weights until then, of epoch {epochs}, are kept in {folder}.")
    return result


def _document(folder: Path, result: dict) -> dict:
    """The `train` document of a run's folder and result."""
    models = {style: {"path": str(folder / f"{style}.keras"), **model} for style, model in result["models"].items()}
    return {"run": str(folder), **result, "models": models}


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


def _named(pairs: Pairs, rows: np.ndarray) -> dict[str, str]:
    """Some of the images by path, with their content digests."""
    return {pairs.features.paths[row]: pairs.features.digests[row] for row in rows}


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
        pairs, sides, _ = _split(training, extractor, computing)
        own = _data(pairs, sides, training.memory).loaded()
        data = lambda seed: own  # noqa: E731
    try:
        study = comparison.compare(data, recipe, range(seeds), bool(computing and computing.progress))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Interrupted. The study keeps nothing; the same command begins it anew.") from None
    document = comparison.document(study)
    if plot:
        plots.plot_study(study, document["ceiling"], plot)
    return document


@dataclass(frozen=True)
class Evaluating:
    """An evaluation as a person asks for it.

    Attributes:
        models: Runs' folders and `.keras` files.
        images: The images; None for those that the first model's run held out.
        targets: A file of their target embeddings; None for those of the images' own list, or of the run.
        weights: `--weights`, `--layer` and `--precision`, each None to take the model's own.
        layer: See `weights`.
        precision: See `weights`.
        on_missing: "error" or "skip" images without a target.
    """

    models: Sequence[str]
    images: ImageSet | None = None
    targets: str | None = None
    weights: str | None = None
    layer: str | None = None
    precision: str | None = None
    on_missing: str = "error"


def evaluate(request: Evaluating, computing: Computing) -> dict:
    """`evaluate`: saved decoders, images and targets -> cosines, retrieval and the baselines beside them.

    Args:
        request: What to judge, and on what.
        computing: How to run the feature stage.

    Returns:
        The `evaluate` document of the contract; the ceiling is the highest of the models'.
    """
    files = _decoder_files(request.models)
    cards = {name: runs.read_card(file) for name, file in files.items()}
    card, run_folder = next(iter(cards.values())), next(iter(files.values())).parent
    extractor = Extractor(
        weights_from(request.weights or card.weights),
        request.layer or card.extractor["layer"],
        request.precision or card.extractor["precision"],
    )
    for name, other in cards.items():
        other.check(files[name], extractor)

    images, targets, on_missing, only = request.images, request.targets, request.on_missing, None
    if images is None:
        run = runs.read_run(run_folder)
        options, only = run["options"], run["split"]["validation"]
        if "images" not in options:
            raise RequestError(f"{run_folder} does not say where its images are; name them: evaluate MODEL IMAGES.")
        images = find_images(options["images"], Path(options["data_dir"]) if "data_dir" in options else None)
        targets, on_missing = targets or options.get("targets"), options.get("on_missing", on_missing)
    elif targets is None and images.targets is None:
        raise RequestError("To evaluate on images of your own, name their target embeddings with --targets FILE.")
    table = read_targets(targets, images, on_missing)
    for name, other in cards.items():
        other.check_targets(files[name], table.vectors.shape[1])
    features = _extract(images, extractor, computing)
    if only:
        features = _held_out(features, only)
    for folder in dict.fromkeys(file.parent for file in files.values()):
        if (folder / RUN_FILE).exists():
            _warn_of_training_images(features, folder)
    pairs = pair(features, table, on_missing)

    x, y = pairs.features.stored(), pairs.targets
    predictions = {name: predict(runs.load_decoder(file), x) for name, file in files.items()}
    baselines_file = run_folder / BASELINES_FILE
    if baselines_file.exists():
        baselines = Baselines.load(baselines_file).predict(x)
    else:
        log.warning("No %s beside %s: the baselines are left out.", BASELINES_FILE, next(iter(files.values())))
        baselines = {}
    return {
        "models": evaluation.judge(predictions, y),
        "baselines": evaluation.judge(baselines, y),
        "ceiling": max(decoders.ceiling(card.output_activation, y) for card in cards.values()),
        "images": len(y),
    }


def _decoder_files(models: Sequence[str]) -> dict[str, Path]:
    """The decoder files that runs and models name; a name says no more than it must to tell them apart."""
    files: list[Path] = []
    for model in map(Path, models):
        inside = [model / f"{style}.keras" for style in API_STYLES if (model / f"{style}.keras").is_file()]
        if model.is_dir() and not inside:
            if (model / RUN_FILE).is_file():
                raise RequestError(f"{model} is not finished; go on with: python -m pipeline train --resume {model}")
            raise RequestError(f"{model} is not a run: it has neither {RUN_FILE} nor a .keras file.")
        files += inside or [model]
    files = list(dict.fromkeys(files))
    stems = [file.stem for file in files]
    return {file.stem if stems.count(file.stem) == 1 else f"{file.parent.name}/{file.stem}": file for file in files}


def _held_out(features: Features, held_out: dict[str, str]) -> Features:
    """The images that a run held out, if they are all still there and unchanged."""
    digests = dict(zip(features.paths, features.digests, strict=True))
    changed = [path for path, digest in held_out.items() if digests.get(path) != digest]
    if changed:
        raise RequestError(
            f"{len(changed)} of the {len(held_out)} held-out images have changed or are gone since the run, the first "
            f"{changed[0]!r}. Bring them back, or name images to evaluate on: evaluate MODEL IMAGES --targets FILE."
        )
    return features.take([row for row, path in enumerate(features.paths) if path in held_out])


def _warn_of_training_images(features: Features, folder: Path) -> None:
    """Say so where the decoders of a run are to be judged on images that they learned from."""
    learned = set(runs.read_run(folder)["split"]["train"].values())
    known = sum(digest in learned for digest in features.digests)
    if known:
        log.warning(
            "The decoders of %s were trained on %d of these %d images: their cosine is no estimate for new ones.",
            folder, known, len(features.digests),
        )  # fmt: skip
