"""Benchmark training: against Keras `fit`, against PyTorch, and streamed from disk against in memory.

Each measurement runs in a separate process. Measurements that are compared alternate for several rounds; medians and
ratios are printed as Markdown tables. Unless a row says otherwise, times cover the whole call, including compilation.
PyTorch takes part if it is installed.

    python scripts/benchmark_training.py            # about 20 minutes on two cores
"""

import argparse
import dataclasses
import importlib.util
import itertools
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from measuring import peak_memory, table, timed

from pipeline.core.keras_backend import import_keras
from pipeline.data.decoding import THUMBNAIL
from pipeline.data.images import DIGEST
from pipeline.decoders.network import NETWORK, ORIGINAL, TrainingConfig, build_decoder
from pipeline.decoders.streaming import Stream, aligned_empty
from pipeline.decoders.training import TrainingData, fit
from pipeline.features.extractor import Extractor
from pipeline.features.features import StoredFeatures
from pipeline.features.store import FeatureStore
from pipeline.features.weights import weights_from
from pipeline.studies.shared_optimizer import original_data

ORIGINAL_EPOCHS = 2000
FIT_EPOCHS = 100  # epochs of Keras `fit` on the original question, scaled to ORIGINAL_EPOCHS
ROWS, BATCH, EPOCHS = 20_000, 256, 5
WEIGHTS, DIM = "random:0", 4096
STREAM_MEMORY = 64 * 2**20
Measured = tuple[float, float]  # seconds, and the peak memory of the process in bytes


def apart(tasks: dict[str, Callable[[], float]], rounds: int) -> dict[str, Measured]:
    """Run tasks in turn, each in a new process; the medians of their results and of their peak memory."""
    measured: dict[str, list[Measured]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                measured[name].append(pool.submit(_with_peak, task).result())
    return {name: tuple(map(statistics.median, zip(*values, strict=True))) for name, values in measured.items()}


def _with_peak(task: Callable[[], float]) -> Measured:
    return task(), peak_memory()


# The original question -----------------------------------------------------------------------------------------------


def original_ours() -> float:
    """Our training, 2000 epochs, validation after each."""
    data, config = original_data(0), dataclasses.replace(ORIGINAL, epochs=ORIGINAL_EPOCHS)
    model = build_decoder(config.decoder, "functional", data.x, data.y, 0)
    return timed(lambda: fit({"functional": model}, data, config))


def original_compiled() -> float:
    """The same without compilation: the time of 2001 epochs minus the time of one, each compiled separately."""
    data = original_data(0)

    def train(epochs: int) -> float:
        config = dataclasses.replace(ORIGINAL, epochs=epochs)
        model = build_decoder(config.decoder, "functional", data.x, data.y, 0)
        return timed(lambda: fit({"functional": model}, data, config))

    train(1)
    one = train(1)
    return train(ORIGINAL_EPOCHS + 1) - one


def original_keras() -> float:
    """Keras `fit` with `validation_data`: FIT_EPOCHS epochs, scaled to 2000."""
    data, config = original_data(0), ORIGINAL
    model = build_decoder(config.decoder, "functional", data.x, data.y, 0)
    model.compile(import_keras().optimizers.Adam(config.learning_rate), config.loss)
    validation = (data.x_validation, data.y_validation)
    model.fit(data.x, data.y, validation_data=validation, epochs=2, verbose=0)  # compiles
    seconds = timed(lambda: model.fit(data.x, data.y, validation_data=validation, epochs=FIT_EPOCHS, verbose=0))
    return seconds * ORIGINAL_EPOCHS / FIT_EPOCHS


def original_torch() -> float:
    """PyTorch with fused Adam, 2000 epochs, validation after each."""
    import torch

    data, config = original_data(0), ORIGINAL
    sizes = [data.x.shape[1], *config.decoder.hidden, data.y.shape[1]]
    layers = [
        torch.nn.Sequential(torch.nn.Linear(before, after), torch.nn.Sigmoid())
        for before, after in itertools.pairwise(sizes)
    ]
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), config.learning_rate, fused=True)
    x, y = torch.tensor(data.x), torch.tensor(data.y)

    def train() -> None:
        for _ in range(ORIGINAL_EPOCHS):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
            with torch.no_grad():
                predicted = model(x)
                torch.nn.functional.mse_loss(predicted, y).item()
                torch.nn.functional.cosine_similarity(predicted, y).item()

    return timed(train)


def original(rounds: int) -> None:
    """The original question: one sample, 2000 epochs, validation after each."""
    tasks = {
        "ours": original_ours,
        "ours, without compilation": original_compiled,
        "Keras `fit`, 100 epochs scaled to 2000": original_keras,
    }
    if importlib.util.find_spec("torch"):
        tasks["PyTorch, fused Adam"] = original_torch
    _compare("the original question, 2000 epochs", apart(tasks, rounds))


def _compare(head: str, measured: dict[str, Measured]) -> None:
    seconds, peak = next(iter(measured.values()))
    table(
        (head, "seconds", "against the first", "peak memory", "against the first"),
        [
            (name, f"{own:.2f}", f"{own / seconds:.2f}", f"{memory / 1e9:.2f} GB", f"{memory / peak:.2f}")
            for name, (own, memory) in measured.items()
        ],
    )


# Many features -------------------------------------------------------------------------------------------------------


def many() -> tuple[TrainingData, TrainingConfig]:
    """20,000 random features of dimension 4096, targets of dimension 50, and the network of `--preset network`."""
    random = np.random.default_rng(0)
    x = aligned_empty(ROWS, DIM)
    random.random(out=x, dtype=np.float32)
    y = (x[:, :50] - 0.5).astype(np.float32)
    held_out = aligned_empty(256, DIM)
    held_out[:] = x[:256]
    return TrainingData(x, y, held_out, y[:256]), dataclasses.replace(NETWORK, epochs=EPOCHS, batch_size=BATCH)


def many_ours() -> float:
    """Train a network with our trainer."""
    data, config = many()
    model = build_decoder(config.decoder, "functional", data.x, data.y, 0)
    return timed(lambda: fit({"functional": model}, data, config))


def many_keras() -> float:
    """Train the same network with Keras `fit` on the same data."""
    data, config = many()
    model = build_decoder(config.decoder, "functional", data.x, data.y, 0)
    optimizer = import_keras().optimizers.AdamW(config.learning_rate, weight_decay=config.weight_decay)
    model.compile(optimizer, config.loss)
    validation = (data.x_validation, data.y_validation)
    return timed(
        lambda: model.fit(data.x, data.y, batch_size=BATCH, epochs=EPOCHS, validation_data=validation, verbose=0)
    )


# From disk -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class FromStore:
    """One epoch over the features of a store, or only reading them.

    Attributes:
        cache: The folder of the store.
        memory: The memory budget, in bytes.
        train: Whether to train; otherwise only read.
    """

    cache: Path
    memory: int
    train: bool = True

    def __call__(self) -> float:
        """Seconds of an epoch: a third of the difference between four epochs and one."""
        store = FeatureStore(self.cache, Extractor(weights_from(WEIGHTS)))
        x = StoredFeatures(store, np.arange(len(store)), DIM)  # the images are stored in this order
        y = np.random.default_rng(1).random((len(x), 50), np.float32)
        if not self.train:
            stream = Stream(x, y, self.memory // 4 // (DIM * 4))
            return statistics.median(timed(lambda: list(map(len, stream.epoch(0, 0)))) for _ in range(3))
        data = TrainingData(x, y, x.subset(np.arange(256)), y[:256], self.memory)
        config = dataclasses.replace(NETWORK, batch_size=BATCH)
        model = build_decoder(config.decoder, "functional", data.x, y, 0)

        def train(epochs: int) -> float:
            return timed(lambda: fit({"functional": model}, data, dataclasses.replace(config, epochs=epochs)))

        train(1)
        one = train(1)
        return (train(4) - one) / 3


def stream(rounds: int, work: Path, memory: int = STREAM_MEMORY) -> None:
    """Training from a store eight times as large as the memory budget, against the same features in memory."""
    rows = 8 * memory // (DIM * 4)
    store = FeatureStore(work, Extractor(weights_from(WEIGHTS)))
    random = np.random.default_rng(0)
    for _ in range(0, rows, 512):
        digests = np.frombuffer(random.bytes(16 * 512), DIGEST)
        thumbnails = np.zeros((512, THUMBNAIL, THUMBNAIL), np.uint8)
        store.append(digests, random.random((512, DIM), np.float32), thumbnails, np.ones(512, int))
    _compare(
        f"{rows} x {DIM} features, an epoch",
        apart(
            {
                "in memory": FromStore(work, 16 * memory),
                "streamed, an eighth in memory": FromStore(work, memory),
                "reading the store, no training": FromStore(work, memory, train=False),
            },
            rounds,
        ),
    )


def main() -> None:
    """Run the selected parts, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", help="original, many, stream  [all]")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    parts = args.parts or ["original", "many", "stream"]
    if "original" in parts:
        original(args.rounds)
    if "many" in parts:
        measured = apart({"ours": many_ours, "Keras `fit`": many_keras}, args.rounds)
        _compare(f"{ROWS} x {DIM} features, batch {BATCH}, {EPOCHS} epochs", measured)
    if "stream" in parts:
        with tempfile.TemporaryDirectory() as work:
            stream(args.rounds, Path(work))


if __name__ == "__main__":
    main()
