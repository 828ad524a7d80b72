"""Compare the default decoder with other methods, on many data sets and over several splits.

Each seed gives a different split, different initial weights and different folds; all methods see the same images. All
methods, including the default decoder, are tuned on five folds of the training images. The table has held-out mean
cosines, averaged over the seeds. `gap` is the default decoder minus the best other method (`network` excluded), with
its standard error over the splits. The last columns show what the default decoder loses without each of its candidates.

| name | method |
| --- | --- |
| mean | the mean target |
| network | one network with 256 units, 100 epochs of Adam: the default decoder of earlier versions |
| ridge | ridge regression: the baseline |
| ridge-each | scikit-learn's ridge regression with one penalty per target dimension |
| kernel | kernel ridge regression with a Gaussian kernel; tuned: width and penalty |
| pls | partial least squares; tuned: number of components |
| neighbours | nearest neighbours; tuned: number, metric and weighting |
| mlp | scikit-learn's MLPRegressor; tuned: penalty |
| conse | logistic regression, class probabilities times class targets (only if targets belong to labels) |

    python scripts/make_digits.py SETS/digits
    python scripts/make_check_sets.py SETS
    python scripts/check_decoder.py SETS [--seeds 5] [--only NAME ...] [--no-mlp]      # hours on two cores
    python scripts/check_decoder.py SETS --weights FILE --layer block5_pool            # with other features
    python scripts/check_decoder.py SETS --images 5 8 20 50 --seeds 8                  # with few training images
    python scripts/check_decoder.py SETS --banded --weights FILE --layer block3_pool,block4_pool,block5_pool

With --banded, the table compares other methods: banded ridge regression on several layers, ridge regression and the
default decoder on all of them, and the default decoder on each.
"""

import argparse
import dataclasses
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measuring import table

from pipeline.commands.examples import Source, load_numbered_examples
from pipeline.core.vectors import cosines
from pipeline.data.options import TargetOptions
from pipeline.data.sample import SAMPLE
from pipeline.data.sources import find_images
from pipeline.data.splits import SplitRule, assign_folds, split_images
from pipeline.decoders.banded import band_slices
from pipeline.decoders.baselines import Baselines
from pipeline.decoders.blend import BlendConfig, Candidates
from pipeline.decoders.callbacks import Callbacks
from pipeline.decoders.fitting import PRESETS, fit_decoders
from pipeline.decoders.hidden_layer import Coordinates
from pipeline.decoders.network import DecoderSpec, TrainingConfig, predict
from pipeline.decoders.ridge import PENALTIES as RIDGE_PENALTIES
from pipeline.decoders.stacking import Shares, stack
from pipeline.decoders.streaming import in_memory
from pipeline.decoders.training import TrainingData
from pipeline.features.options import ExtractionOptions, ExtractorOptions
from pipeline.features.sources import NetworkSource

ROOT = Path(__file__).resolve().parent.parent
FOLDS = 5
EARLIER = TrainingConfig(DecoderSpec(hidden=(256,)), epochs=100)
WIDTHS = (0.03, 0.1, 0.3, 1.0, 3.0)  # of the Gaussian kernel, relative to the mean variance
PENALTIES = 10.0 ** np.arange(-5, 2)  # of kernel ridge regression
COMPONENTS = (1, 2, 4, 8, 16, 32, 64)
NEIGHBOURS = (1, 2, 3, 5, 8, 12, 20, 35)
MLP_PENALTIES = (1.0, 10.0, 100.0)
DEFAULT = PRESETS["default"]
assert isinstance(DEFAULT, BlendConfig)
RIVALS = ("mean", "ridge", "ridge-each", "kernel", "pls", "neighbours", "mlp", "conse")
COLUMNS = ("mean", "network", *RIVALS[1:], "ours")


@dataclass(frozen=True)
class CheckSet:
    """A data set: a folder of images, a file of targets, and the number of training images to use (None for all)."""

    images: Path
    targets: Path
    training_images: int | None = None


def check_sets(folder: Path) -> dict[str, CheckSet]:
    """The data sets by name."""
    assert SAMPLE
    tiles = folder / "tiles"
    return {
        "sample": CheckSet(SAMPLE, SAMPLE / "targets.csv"),
        "digits": CheckSet(folder / "digits", ROOT / "scripts" / "digits_targets.csv"),
        "tiny": CheckSet(folder / "tiny", folder / "tiny.npz"),
        "statistics": CheckSet(tiles, folder / "statistics.npz"),
        "statistics-200": CheckSet(tiles, folder / "statistics.npz", 200),
        "statistics-50": CheckSet(tiles, folder / "statistics.npz", 50),
        "voxels": CheckSet(tiles, folder / "voxels.npz"),
        "activations": CheckSet(tiles, folder / "activations.npz"),
        "emoji": CheckSet(folder / "emoji", folder / "emoji.npz"),
        "animals": CheckSet(folder / "animals", folder / "animals.npz"),
        "shapes": CheckSet(folder / "shapes", folder / "shapes.npz"),
    }


class Problem:
    """A split of a data set, in the coordinates of its training images."""

    def __init__(self, data: TrainingData, duplicates: np.ndarray, seed: int) -> None:
        self.data, self.duplicates, self.seed = data, duplicates, seed
        self.folds = assign_folds(data.y, duplicates, seed, FOLDS)
        coordinates = Coordinates.of(data.x, seed)
        self.z, self.z_held_out = (
            coordinates(coordinates.standardise(x)) / np.float32(coordinates.stretch)
            for x in (data.x, data.x_validation)
        )

    def tuned(self, fits: Iterable[Callable[[np.ndarray, np.ndarray], Callable]], folds: int = FOLDS) -> np.ndarray:
        """Predictions of the method with the highest out-of-fold cosine; a fit takes (z, y) and returns a predictor."""
        best, chosen = -2.0, None
        for fit in fits:
            scores = []
            for fold in range(folds):
                train, held_out = self.folds != fold, self.folds == fold
                if held_out.any():
                    predicted = fit(self.z[train], self.data.y[train])(self.z[held_out])
                    scores.append(cosines(predicted, self.data.y[held_out]))
            score = float(np.concatenate(scores).mean())
            if score > best:
                best, chosen = score, fit
        assert chosen
        return chosen(self.z, self.data.y)(self.z_held_out)


def kernel_ridge(width: float, penalty: float) -> Callable[[np.ndarray, np.ndarray], Callable]:
    """The fit function of kernel ridge regression on centred targets."""
    from sklearn.kernel_ridge import KernelRidge

    def fit(z: np.ndarray, y: np.ndarray) -> Callable:
        mean = y.mean(axis=0)
        gamma = width / np.square(z - z.mean(axis=0)).sum(axis=1).mean()
        model = KernelRidge(alpha=penalty, kernel="rbf", gamma=gamma).fit(z, y - mean)
        return lambda x: model.predict(x) + mean

    return fit


def ridge_each(problem: Problem) -> np.ndarray:
    """scikit-learn's ridge regression; the penalty of each dimension is chosen by its out-of-fold squared error."""
    from sklearn.linear_model import Ridge

    z, y = problem.z.astype(np.float64), problem.data.y
    penalties = RIDGE_PENALTIES * np.square(z - z.mean(axis=0)).sum() / len(z)
    errors = np.zeros((len(penalties), y.shape[1]))
    for number, penalty in enumerate(penalties):
        for fold in np.unique(problem.folds):
            others = problem.folds != fold
            predicted = Ridge(penalty).fit(z[others], y[others]).predict(z[~others])
            errors[number] += np.square(predicted.reshape(-1, y.shape[1]) - y[~others]).sum(axis=0)
    best = Ridge(penalties[errors.argmin(axis=0)]).fit(z, y)
    return best.predict(problem.z_held_out.astype(np.float64)).reshape(-1, y.shape[1])


def estimator(make: Callable) -> Callable[[np.ndarray, np.ndarray], Callable]:
    """The fit function of a scikit-learn estimator."""
    return lambda z, y: make().fit(z, y).predict


def methods(problem: Problem, mlp: bool) -> dict[str, np.ndarray]:
    """Name -> predictions for the held-out images."""
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.neural_network import MLPRegressor

    data, seed = problem.data, problem.seed
    smallest = len(data.y) - np.bincount(problem.folds).max()
    baselines = Baselines.fit(data.x, data.y, problem.duplicates, seed).predict(data.x_validation)
    predictions = {
        "mean": baselines["mean"],
        "ridge": baselines["ridge"],
        "ridge-each": ridge_each(problem),
        "kernel": problem.tuned(
            kernel_ridge(width, penalty) for width in WIDTHS for penalty in 10.0 ** np.arange(-5, 2)
        ),
        "pls": problem.tuned(
            estimator(lambda count=count: PLSRegression(count, scale=False))
            for count in COMPONENTS
            if count < min(smallest, problem.z.shape[1])
        ),
        "neighbours": problem.tuned(
            estimator(lambda count=count, metric=metric: KNeighborsRegressor(count, metric=metric, weights="distance"))
            for count in NEIGHBOURS
            for metric in ("euclidean", "cosine")
            if count <= smallest
        ),
    }
    if mlp:
        predictions["mlp"] = problem.tuned(
            (
                estimator(lambda alpha=alpha: MLPRegressor((100,), alpha=alpha, max_iter=200, random_state=seed))
                for alpha in MLP_PENALTIES
            ),
            folds=1,
        )
    if "conse" in baselines:
        predictions["conse"] = baselines["conse"]
    fitted = fit_decoders(data, EARLIER, ["functional"], problem.duplicates, seed, Callbacks())
    predictions["network"] = predict(fitted.models["functional"], data.x_validation)
    return predictions | blends(problem)


def blends(problem: Problem) -> dict[str, np.ndarray]:
    """Predictions of the default decoder ("ours"), and without each of its candidates ("without NAME")."""
    data, folds = problem.data, problem.folds
    candidates = Candidates.fit(data.x, data.y, folds, DEFAULT, problem.seed, Callbacks())
    names, out_of_fold = np.array(candidates.names), candidates.out_of_fold
    predictions = {}
    for left_out in ("", *dict.fromkeys(candidates.names)):
        kept = np.flatnonzero(names != left_out)
        some = stack([out_of_fold[number] for number in kept], data.y, candidates.rows, folds, problem.duplicates)
        shares = np.zeros(len(names))
        shares[kept] = some.candidates
        blend = candidates.blend(Shares(shares, some.mean))
        predicted = blend.network((data.x_validation[:] - blend.mean) / blend.scale)
        predictions[f"without {left_out}" if left_out else "ours"] = predicted
    return predictions


def held_out(
    check: CheckSet, seeds: int, mlp: bool, extractor: ExtractorOptions, options: ExtractionOptions
) -> dict[str, list[float]]:
    """Name -> held-out mean cosine of each seed."""
    source = Source.read(find_images(check.images), TargetOptions(check.targets))
    examples, duplicates = load_numbered_examples(source, NetworkSource(extractor.extractors()), options)
    x, y = in_memory(examples.features.stored()), examples.targets
    scores: dict[str, list[float]] = {}
    for seed in range(seeds):
        split = split_images(examples.features.images, SplitRule(), duplicates, seed)
        rows = split.train
        if check.training_images:
            rows = np.sort(np.random.default_rng(seed).choice(rows, check.training_images, replace=False))
        data = TrainingData(in_memory(x[rows]), y[rows], in_memory(x[split.validation]), y[split.validation])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from methods that did not converge
            predictions = methods(Problem(data, duplicates[rows], seed), mlp)
        for name, predicted in predictions.items():
            scores.setdefault(name, []).append(float(cosines(predicted, data.y_validation).mean()))
    return scores


def held_out_by_layers(
    check: CheckSet, seeds: int, extractor: ExtractorOptions, options: ExtractionOptions
) -> dict[str, list[float]]:
    """Name -> held-out mean cosine of each seed, with each layer and with all of them."""
    source = Source.read(find_images(check.images), TargetOptions(check.targets))
    examples, duplicates = load_numbered_examples(source, NetworkSource(extractor.extractors()), options)
    y, bands = examples.targets, examples.features.bands
    scores: dict[str, list[float]] = {}
    for seed in range(seeds):
        split = split_images(examples.features.images, SplitRule(), duplicates, seed)
        rows, held_out = split.train, split.validation
        if check.training_images:
            rows = np.sort(np.random.default_rng(seed).choice(rows, check.training_images, replace=False))
        x = in_memory(examples.features.scaled_by(rows).stored())
        data = TrainingData(x[rows], y[rows], x[held_out], y[held_out], bands=tuple(bands.values()))
        predictions = {
            "ridge": Baselines.fit(data.x, data.y, duplicates[rows], seed).predict(data.x_validation)["ridge"]
        }
        for name, band in zip(bands, band_slices(data.bands), strict=True):
            layer = dataclasses.replace(data, x=data.x[:, band], x_validation=data.x_validation[:, band], bands=())
            predictions[name] = fitted(layer, "default", duplicates[rows], seed)
        predictions |= {name: fitted(data, name, duplicates[rows], seed) for name in ("default", "banded")}
        for name, predicted in predictions.items():
            scores.setdefault(name, []).append(float(cosines(predicted, data.y_validation).mean()))
    return scores


def fitted(data: TrainingData, preset: str, units: np.ndarray, seed: int) -> np.ndarray:
    """A preset's predictions for the held-out images."""
    decoders = fit_decoders(data, PRESETS[preset], ["functional"], units, seed, Callbacks())
    return predict(decoders.models["functional"], data.x_validation)


def layers_row(name: str, scores: dict[str, list[float]], layers: list[str], seconds: float) -> list[str]:
    """A row of the table of --banded, from the held-out cosines of each method."""

    def gap(other: str) -> str:
        gaps = np.subtract(scores["banded"], scores[other])
        return f"{gaps.mean():+.4f} ({gaps.std(ddof=1) / len(gaps) ** 0.5:.4f})" if len(gaps) > 1 else f"{gaps[0]:+.4f}"

    best = max(layers, key=lambda layer: float(np.mean(scores[layer])))
    cells = [f"{np.mean(scores[column]):.4f}" for column in (*layers, "ridge", "default", "banded")]
    return [name, *cells, gap("default"), f"{gap(best)} {best}", f"{seconds:.0f}"]


def row(name: str, scores: dict[str, list[float]], splits: int, seconds: float) -> list[str]:
    """A row of the table, from the held-out cosines of each method."""
    means = {method: float(np.mean(values)) for method, values in scores.items()}
    best = max((method for method in RIVALS if method in means), key=lambda method: means[method])
    gaps = np.subtract(scores["ours"], scores[best])
    error = f" ({gaps.std(ddof=1) / splits**0.5:.4f})" if splits > 1 else ""
    losses = [f"{means['ours'] - means[method]:+.4f}" for method in means if method.startswith("without ")]
    cells = [f"{means[column]:.4f}" if column in means else "" for column in COLUMNS]
    return [name, *cells, best, f"{gaps.mean():+.4f}{error}", *losses, f"{seconds:.0f}"]


def main() -> None:
    """Check all sets and print each row of the table as soon as it is available."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "sets", type=Path, metavar="SETS", help="output folder of make_digits.py and make_check_sets.py"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="the data sets to check")
    parser.add_argument("--images", nargs="*", type=int, metavar="N", help="train on N images; one row per N")
    parser.add_argument("--no-mlp", action="store_true", help="leave out scikit-learn's MLPRegressor, the slowest")
    parser.add_argument("--weights", default="random:0")
    parser.add_argument("--layer", default="fc2")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--banded", action="store_true", help="compare banded ridge regression on several layers")
    options = parser.parse_args()
    extraction = ExtractionOptions(**({"cache": options.cache} if options.cache else {}))
    extractor = ExtractorOptions(weights=options.weights, layer=options.layer)
    if options.banded:
        layers = options.layer.split(",")
        head = (*layers, "ridge, all", "blend, all", "banded", "minus blend, all", "minus best layer", "seconds")
        table((f"{options.seeds} splits", *head), [])
        for name, check in check_sets(options.sets).items():
            if not options.only or name in options.only:
                start = time.monotonic()
                scores = held_out_by_layers(check, options.seeds, extractor, extraction)
                print(f"| {' | '.join(layers_row(name, scores, layers, time.monotonic() - start))} |", flush=True)
        return
    decays = [f"without network {decay:g}" for decay in DEFAULT.weight_decays]
    losses = ["without ridge", "without ramps", *decays]
    table((f"{options.seeds} splits", *COLUMNS, "best other", "gap", *losses, "seconds"), [])
    for name, check in check_sets(options.sets).items():
        if options.only and name not in options.only:
            continue
        for images in options.images or [check.training_images]:
            start = time.monotonic()
            some = dataclasses.replace(check, training_images=images)
            scores = held_out(some, options.seeds, not options.no_mlp, extractor, extraction)
            label = f"{name}, {images}" if options.images else name
            print(f"| {' | '.join(row(label, scores, options.seeds, time.monotonic() - start))} |", flush=True)


if __name__ == "__main__":
    main()
