"""The evaluation stage: what decoders predict for images -> numbers, plain words and the report."""

import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline import conclusions, decoders, evaluation, report, runs
from pipeline.baselines import Baselines
from pipeline.decoders import API_STYLES, Recipe
from pipeline.errors import RequestError
from pipeline.evaluation import Judgement, Truth
from pipeline.features import Computing, Features, extract
from pipeline.images import ImageSet
from pipeline.retrieval import Candidates
from pipeline.runs import BASELINES_FILE, REPORT_FILE, RUN_FILE
from pipeline.sources import find_images
from pipeline.targets import Pairs, TargetTable, pair, read_targets
from pipeline.training import Data, fit, predict
from pipeline.vgg16 import Extractor, weights_from
from pipeline.wordvectors import read_vocabulary

log = logging.getLogger(__name__)

BASELINES = ("mean", "ridge", "shuffled")


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
        vocabulary: A file of word vectors to look predictions up among, beside the targets.
        shuffled: Whether to train a decoder on shuffled targets, as one more baseline.
        report: The report's file; None for the one in the first model's run, if that may be written to.
    """

    models: Sequence[str]
    images: ImageSet | None = None
    targets: str | None = None
    weights: str | None = None
    layer: str | None = None
    precision: str | None = None
    on_missing: str = "error"
    vocabulary: Path | None = None
    shuffled: bool = False
    report: Path | None = None


@dataclass(frozen=True)
class Decoder:
    """What is known of a decoder that is judged.

    Attributes:
        predictions: What it predicts, shape (N, D).
        output_activation: Its output's activation, which sets the ceiling.
        training_cosine: Its mean cosine on its training images, if it is known.
        curves: Its learning curves, if they are known; see `pipeline.training.Fitted`.
    """

    predictions: np.ndarray
    output_activation: str
    training_cosine: float | None = None
    curves: Mapping[str, Sequence[float | None]] | None = None


@dataclass(frozen=True)
class Trial:
    """Decoders that are judged on the same images.

    Attributes:
        pairs: The images, N of them, with their targets.
        images: All images of the source, of which those judged may be a part.
        table: All target embeddings of the source, among which predictions are looked up.
        decoders: Name -> decoder.
        baselines: Name -> what a baseline predicts, shape (N, D).
        fitted: What is known from the training images, if anything is.
        weights: The `--weights` of the features.
        learned: How many of the images the decoders were trained on.
        run: What the first decoder's `run.json` says, or nothing.
        folder: The folder of that run.
    """

    pairs: Pairs
    images: ImageSet
    table: TargetTable
    decoders: Mapping[str, Decoder]
    baselines: Mapping[str, np.ndarray]
    fitted: Baselines | None
    weights: str
    learned: int = 0
    run: Mapping | None = None
    folder: Path | None = None


def judge(trial: Trial, file: Path | None = None, vocabulary: Path | None = None) -> dict:
    """Judge decoders, say what the numbers mean, and write the report.

    Args:
        trial: The decoders and the images.
        file: The report, or None for none.
        vocabulary: A file of word vectors to look predictions up among, beside the targets.

    Returns:
        The `evaluate` document of the contract; its ceiling is the highest of the models'.

    Raises:
        RequestError: The vocabulary cannot be used.
        PipelineError: The report cannot be written.
    """
    truth = _truth(trial, vocabulary)
    ceilings = {
        name: decoders.ceiling(decoder.output_activation, truth.targets) for name, decoder in trial.decoders.items()
    }
    predictions = {name: decoder.predictions for name, decoder in trial.decoders.items()}
    shuffled = {"shuffled": next(iter(ceilings.values()))}  # it is built like the first decoder
    judged = evaluation.judge(predictions | dict(trial.baselines), truth, shuffled | ceilings)
    document = {
        "models": {name: _in_detail(judged[name], truth) for name in trial.decoders},
        "baselines": {name: judged[name].summary for name in trial.baselines},
        "differences": evaluation.differences(judged, list(trial.decoders)),
        "ceiling": max(ceilings.values()),
        "images": len(truth.paths),
        "candidates": len(truth.candidates),
        "zero_targets": int((~truth.targets.any(axis=1)).sum()),
    }
    document["conclusions"] = conclusions.conclude(document, _circumstances(trial, ceilings, document["zero_targets"]))
    document["report"] = str(file) if file else None
    if file:
        curves = {name: decoder.curves for name, decoder in trial.decoders.items() if decoder.curves}
        shown = trial.pairs.features.images
        report.write_report(file, report.Report(document, judged, truth, shown, curves, trial.run, trial.folder))
    return document


def _in_detail(judgement: Judgement, truth: Truth) -> dict:
    return {
        **judgement.summary,
        "ceiling": judgement.ceiling,
        "labels": evaluation.by_label(judgement, truth),
        **evaluation.extremes(judgement, truth),
    }


def _circumstances(trial: Trial, ceilings: Mapping[str, float], zero_targets: int) -> conclusions.Circumstances:
    known = {name: decoder.training_cosine for name, decoder in trial.decoders.items()}
    return conclusions.Circumstances(
        training_cosines={name: cosine for name, cosine in known.items() if cosine is not None},
        activations={name: decoder.output_activation for name, decoder in trial.decoders.items()},
        ceilings=ceilings,
        zero_targets=zero_targets,
        weights=trial.weights,
        learned=trial.learned,
    )


def _truth(trial: Trial, vocabulary: Path | None) -> Truth:
    """What is known of the images; an image without a label of its own goes by its key in the target table."""
    images, targets = trial.pairs.features.images, trial.pairs.targets
    label_of = {path: label for path, label in zip(trial.images.paths, trial.images.labels, strict=True) if label}
    rows = [(label_of.get(key, key), trial.table.vectors[row]) for key, row in trial.table.rows.items()]
    return Truth(
        paths=images.paths,
        labels=[label or key for label, key in zip(images.labels, trial.pairs.keys, strict=True)],
        targets=targets,
        candidates=Candidates(itertools.chain(rows, _words(vocabulary, targets.shape[1]))),
        centre=trial.fitted.mean if trial.fitted else targets.mean(axis=0),
        seen=trial.fitted.has_seen(targets) if trial.fitted else None,
    )


def _words(vocabulary: Path | None, dim: int) -> Iterator[tuple[str, np.ndarray]]:
    """The words of a vocabulary, of the targets' dimension."""
    for word, vector in read_vocabulary(vocabulary) if vocabulary else ():
        if len(vector) != dim:
            raise RequestError(
                f"--vocabulary {vocabulary} holds vectors of dimension {len(vector)}; the targets have {dim}."
            )
        yield word, vector


def evaluate(request: Evaluating, computing: Computing) -> dict:
    """`evaluate`: saved decoders, images and targets -> numbers, words and a report.

    Args:
        request: What to judge, and on what.
        computing: How to run the feature stage.

    Returns:
        The `evaluate` document of the contract.
    """
    if request.report:
        report.check_report(request.report)
    files = _decoder_files(request.models)
    cards = {name: runs.read_card(file) for name, file in files.items()}
    card, folder = next(iter(cards.values())), next(iter(files.values())).parent
    extractor = Extractor(
        weights_from(request.weights or card.weights),
        request.layer or card.extractor["layer"],
        request.precision or card.extractor["precision"],
    )
    for name, other in cards.items():
        other.check(files[name], extractor)
    if request.images is None:
        images, table, on_missing = _of_run(folder, request.targets)
    elif request.targets is None and request.images.targets is None:
        raise RequestError("To evaluate on images of your own, name their target embeddings with --targets FILE.")
    else:
        images, on_missing = request.images, request.on_missing
        table = read_targets(request.targets, images, on_missing)
    for name, other in cards.items():
        other.check_targets(files[name], table.vectors.shape[1])
    features = skipping(extract(images, extractor, computing))
    if request.images is None:
        features = _unchanged(features, runs.read_run(folder)["split"]["validation"], "held-out")
    pairs = pair(features, table, on_missing)
    parents = dict.fromkeys(file.parent for file in files.values())
    learned = max(_learned(pairs.features, parent) for parent in parents)

    x = pairs.features.stored()
    fitted = Baselines.load(folder / BASELINES_FILE) if (folder / BASELINES_FILE).exists() else None
    if fitted is None:
        log.warning("No %s beside %s: the baselines are left out.", BASELINES_FILE, next(iter(files.values())))
    baselines = fitted.predict(x) if fitted else {}
    if request.shuffled:
        baselines["shuffled"] = predict(_trained_on_shuffled(folder, extractor, computing), x)
    trial = Trial(
        pairs=pairs,
        images=images,
        table=table,
        decoders={name: _decoder(file, cards[name], x) for name, file in files.items()},
        baselines=baselines,
        fitted=fitted,
        weights=card.weights,
        learned=learned,
        run=_run_beside(next(iter(files.values()))),
        folder=folder,
    )
    beside = folder / REPORT_FILE if trial.run and os.access(folder, os.W_OK) else None
    return judge(trial, request.report or beside, request.vocabulary)


def skipping(features: Features) -> Features:
    """The same features; the images that had to be skipped are named."""
    for failure in features.failed:
        log.warning("skipped %s: %s", failure.path, failure.error)
    return features


def _decoder_files(models: Sequence[str]) -> dict[str, Path]:
    """The decoder files that runs and models name; a name says no more than it must to tell what is judged apart."""
    files: list[Path] = []
    for model in map(Path, models):
        inside = [model / f"{style}.keras" for style in API_STYLES if (model / f"{style}.keras").is_file()]
        if model.is_dir() and not inside:
            if (model / RUN_FILE).is_file():
                raise RequestError(f"{model} is not finished; go on with: python -m pipeline train --resume {model}")
            raise RequestError(f"{model} is not a run: it has neither {RUN_FILE} nor a .keras file.")
        files += inside or [model]
    files = list(dict.fromkeys(files))
    return {_shortest_name(file, files): file for file in files}


def _shortest_name(file: Path, files: Sequence[Path]) -> str:
    for length in range(1, len(file.parts) + 1):
        names = ["/".join(other.with_suffix("").parts[-length:]) for other in (file, *files)]
        if names.count(names[0]) == 2 and names[0] not in BASELINES:  # itself, twice
            return names[0]
    return str(file)


def _run_beside(file: Path) -> dict | None:
    return runs.read_run(file.parent) if (file.parent / RUN_FILE).exists() else None


def _decoder(file: Path, card: runs.Card, x) -> Decoder:
    run = _run_beside(file) or {}
    result = run.get("result", {}).get("models", {}).get(file.stem, {})
    return Decoder(
        predictions=predict(runs.load_decoder(file), x),
        output_activation=card.output_activation,
        training_cosine=result.get("train_cosine"),
        curves=run.get("curves", {}).get(file.stem),
    )


def _of_run(folder: Path, targets: str | None = None) -> tuple[ImageSet, TargetTable, str]:
    """The images of a run, held out or not, their targets (the run's, or others), and its `--on-missing`."""
    options = runs.read_run(folder)["options"]
    if "images" not in options:
        raise RequestError(f"{folder} does not say where its images are; name them: evaluate MODEL IMAGES.")
    images = find_images(options["images"], Path(options["data_dir"]) if "data_dir" in options else None)
    on_missing = options.get("on_missing", "error")
    return images, read_targets(targets or options.get("targets"), images, on_missing), on_missing


def _unchanged(features: Features, wanted: Mapping[str, str], which: str) -> Features:
    """Some of the images of a run, by path and digest, if they are all still there and unchanged."""
    digests = dict(zip(features.paths, features.digests, strict=True))
    changed = [path for path, digest in wanted.items() if digests.get(path) != digest]
    if changed:
        raise RequestError(
            f"{len(changed)} of the {len(wanted)} {which} images have changed or are gone since the run, the first "
            f"{changed[0]!r}. Bring them back, or name images to evaluate on: evaluate MODEL IMAGES --targets FILE."
        )
    return features.take([row for row, path in enumerate(features.paths) if path in wanted])


def _learned(features: Features, folder: Path) -> int:
    """How many of the images the decoders of a folder learned from; said where there are any."""
    if not (folder / RUN_FILE).exists():
        return 0
    known = set(runs.read_run(folder)["split"]["train"].values())
    learned = sum(digest in known for digest in features.digests)
    if learned:
        log.warning(
            "The decoders of %s were trained on %d of these %d images: their cosine is no estimate for new ones.",
            folder, learned, len(features.digests),
        )  # fmt: skip
    return learned


def _trained_on_shuffled(folder: Path, extractor: Extractor, computing: Computing):
    """A decoder trained like the first of a run, but on targets in another order: what it reaches needs no pairing."""
    run = runs.read_run(folder)
    images, table, on_missing = _of_run(folder)
    features = extract(images, extractor, computing)
    train, held_out = (
        pair(_unchanged(features, run["split"][side], side), table, on_missing) for side in ("train", "validation")
    )
    y = np.random.default_rng(run["seed"]).permutation(train.targets)
    data = Data(train.features.stored(), y, held_out.features.stored(), held_out.targets).loaded()
    recipe = replace(Recipe.from_document(run["recipe"]), keep="last", patience=None)
    model = decoders.build_decoder(recipe.decoder, "functional", data.x, data.y, run["seed"])
    fit({"shuffled": model}, data, recipe, run["seed"])
    return model
