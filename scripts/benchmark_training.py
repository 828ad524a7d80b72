"""How fast decoders train: against Keras `fit`, against PyTorch, and from disk against from memory.

Every measurement runs in a process of its own; those that are compared take turns, several rounds; medians and ratios
are printed as Markdown tables. Times are those of the whole call, compilation included, where nothing else is said.
PyTorch takes part where it is installed.

    python scripts/benchmark_training.py            # about 20 minutes on two cores
"""

import argparse
import dataclasses
import importlib.util
import itertools
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from measuring import table

from pipeline.core.keras_backend import import_keras
from pipeline.data.decoding import THUMBNAIL
from pipeline.decoders.config import PRESETS, TrainingConfig
from pipeline.decoders.spec import build_decoder
from pipeline.decoders.streaming import Stream, aligned_empty
from pipeline.decoders.training import fit
from pipeline.features.extraction import StoredFeatures
from pipeline.features.extractor import Extractor
from pipeline.features.store import FeatureStore
from pipeline.features.weights import weights_from

SEED_EPOCHS = 2000
FIT_EPOCHS = 100  # of Keras `fit` on the seed's experiment, scaled up to SEED_EPOCHS
ROWS, BATCH, EPOCHS = 20_000, 256, 5
WEIGHTS, DIM = "random:0", 4096
STREAM_MEMORY = 64 * 2**20
STREAM_ROWS = 8 * STREAM_MEMORY // (DIM * 4)
Measured = tuple[float, float]  # seconds, and bytes at the peak of the process


def apart(tasks: dict[str, Callable[[], float]], rounds: int) -> dict[str, Measured]:
    """Run tasks in turn, each time in a new process; the medians of what they return and of their peak memory."""
    found: dict[str, list[Measured]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found[name].append(pool.submit(_with_peak, task).result())
    return {name: tuple(map(statistics.median, zip(*each, strict=True))) for name, each in found.items()}


def _with_peak(task: Callable[[], float]) -> Measured:
    return task(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _seconds(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


# The seed's experiment -----------------------------------------------------------------------------------------------


def seed_ours() -> float:
    """Our training, 2000 epochs, validation after each."""
    data, recipe = question(0), dataclasses.replace(PRESETS["original"], epochs=SEED_EPOCHS)
    model = build_decoder(recipe.decoder, "functional", data.x, data.y, 0)
    return _seconds(lambda: fit({"functional": model}, data, recipe))


def seed_compiled() -> float:
    """The same without compilation: the time of 2001 epochs less that of one, each compiled anew."""
    data = question(0)

    def train(epochs: int) -> float:
        recipe = dataclasses.replace(PRESETS["original"], epochs=epochs)
        model = build_decoder(recipe.decoder, "functional", data.x, data.y, 0)
        return _seconds(lambda: fit({"functional": model}, data, recipe))

    train(1)
    one = train(1)
    return train(SEED_EPOCHS + 1) - one


def seed_keras() -> float:
    """Keras `fit` with `validation_data`, FIT_EPOCHS epochs, scaled to 2000."""
    data, recipe = question(0), PRESETS["original"]
    model = build_decoder(recipe.decoder, "functional", data.x, data.y, 0)
    model.compile(import_keras().optimizers.Adam(recipe.learning_rate), recipe.loss)
    validation = (data.x_validation, data.y_validation)
    model.fit(data.x, data.y, validation_data=validation, epochs=2, verbose=0)  # compiled before it is scaled
    seconds = _seconds(lambda: model.fit(data.x, data.y, validation_data=validation, epochs=FIT_EPOCHS, verbose=0))
    return seconds * SEED_EPOCHS / FIT_EPOCHS


def seed_torch() -> float:
    """PyTorch with fused Adam, 2000 epochs, validation after each."""
    import torch

    data, recipe = question(0), PRESETS["original"]
    sizes = [data.x.shape[1], *recipe.decoder.hidden, data.y.shape[1]]
    layers = [torch.nn.Sequential(torch.nn.Linear(before, after), torch.nn.Sigmoid())
              for before, after in itertools.pairwise(sizes)]  # fmt: skip
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), recipe.learning_rate, fused=True)
    x, y = torch.tensor(data.x), torch.tensor(data.y)

    def train() -> None:
        for _ in range(SEED_EPOCHS):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
            with torch.no_grad():
                predicted = model(x)
                torch.nn.functional.mse_loss(predicted, y).item()
                torch.nn.functional.cosine_similarity(predicted, y).item()

    return _seconds(train)


def seed(rounds: int) -> None:
    """The seed's experiment: one sample, 2000 epochs, validation after each."""
    tasks = {
        "ours": seed_ours,
        "ours, compilation apart": seed_compiled,
        "Keras `fit`, 100 epochs scaled to 2000": seed_keras,
    }
    if importlib.util.find_spec("torch"):
        tasks["PyTorch, fused Adam"] = seed_torch
    _compare("the seed's experiment, 2000 epochs", apart(tasks, rounds))


def _compare(head: str, found: dict[str, Measured]) -> None:
    seconds, peak = next(iter(found.values()))
    table(
        (head, "seconds", "against the first", "peak memory", "against the first"),
        [
            (name, f"{own:.2f}", f"{own / seconds:.2f}", f"{memory / 1e9:.2f} GB", f"{memory / peak:.2f}")
            for name, (own, memory) in found.items()
        ],
    )


# Many features -------------------------------------------------------------------------------------------------------


def many() -> tuple[Data, TrainingConfig]:
    """20,000 made-up features of 4096 numbers, with targets of 50, and our default decoder."""
    random = np.random.default_rng(0)
    x = aligned_empty(ROWS, DIM)
    random.random(out=x, dtype=np.float32)
    y = (x[:, :50] - 0.5).astype(np.float32)
    held_out = aligned_empty(256, DIM)
    held_out[:] = x[:256]
    return Data(x, y, held_out, y[:256]), dataclasses.replace(PRESETS["default"], epochs=EPOCHS, batch_size=BATCH)


def many_ours() -> float:
    """Our training of the default decoder."""
    data, recipe = many()
    model = build_decoder(recipe.decoder, "functional", data.x, data.y, 0)
    return _seconds(lambda: fit({"functional": model}, data, recipe))


def many_keras() -> float:
    """Keras `fit` of the same decoder on the same data."""
    data, recipe = many()
    model = build_decoder(recipe.decoder, "functional", data.x, data.y, 0)
    model.compile(import_keras().optimizers.Adam(recipe.learning_rate), recipe.loss)
    return _seconds(lambda: model.fit(data.x, data.y, batch_size=BATCH, epochs=EPOCHS, verbose=0,
                                      validation_data=(data.x_validation, data.y_validation)))  # fmt: skip


# From disk -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class FromStore:
    """An epoch over the features of a store, or the mere reading of it.

    Attributes:
        cache: Where the store is.
        memory: The budget, in bytes.
        train: Whether to train, or only to read.
    """

    cache: Path
    memory: int
    train: bool = True

    def __call__(self) -> float:
        """Seconds of an epoch: of four, less those of one with all that comes before and after."""
        store = FeatureStore(self.cache, Extractor(weights_from(WEIGHTS)))
        x = StoredFeatures(store, store.rows(sorted(store.digests)), DIM)
        y = np.random.default_rng(1).random((len(x), 50), np.float32)
        if not self.train:
            stream = Stream(x, y, self.memory // 4 // (DIM * 4))
            return statistics.median(_seconds(lambda: list(map(len, stream.epoch(0, 0)))) for _ in range(3))
        data = Data(x, y, x.subset(np.arange(256)), y[:256], self.memory)
        recipe = dataclasses.replace(PRESETS["default"], batch_size=BATCH)
        model = build_decoder(recipe.decoder, "functional", data.x, y, 0)

        def train(epochs: int) -> float:
            return _seconds(lambda: fit({"functional": model}, data, dataclasses.replace(recipe, epochs=epochs)))

        train(1)
        one = train(1)
        return (train(4) - one) / 3


def stream(rounds: int, work: Path) -> None:
    """Training from a store of eight times the budget, against the same store held in memory."""
    store = FeatureStore(work, Extractor(weights_from(WEIGHTS)))
    random = np.random.default_rng(0)
    for start in range(0, STREAM_ROWS, 512):
        digests = [f"{number:032x}" for number in range(start, start + 512)]
        store.append(
            digests, random.random((512, DIM), np.float32), np.zeros((512, THUMBNAIL, THUMBNAIL), np.uint8), [1] * 512
        )
    _compare(
        f"{STREAM_ROWS} x {DIM} features, an epoch",
        apart(
            {
                "in memory": FromStore(work, 2 * STREAM_ROWS * DIM * 4),
                "streamed, an eighth in memory": FromStore(work, STREAM_MEMORY),
                "the store read, no training": FromStore(work, STREAM_MEMORY, train=False),
            },
            rounds,
        ),
    )


def main() -> None:
    """Run the parts that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", help="seed, many, stream  [all]")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    parts = asked.parts or ["seed", "many", "stream"]
    if "seed" in parts:
        seed(asked.rounds)
    if "many" in parts:
        found = apart({"ours": many_ours, "Keras `fit`": many_keras}, asked.rounds)
        _compare(f"{ROWS} x {DIM} features, batch {BATCH}, {EPOCHS} epochs", found)
    if "stream" in parts:
        with tempfile.TemporaryDirectory() as work:
            stream(asked.rounds, Path(work))


if __name__ == "__main__":
    main()
