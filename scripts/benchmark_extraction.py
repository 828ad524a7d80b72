"""Benchmark extraction: engines alone, `extract` as a whole, the overhead around the engine, memory and start-up.

Each run alternates between the things it compares, for several rounds after a warm-up, and prints medians and ratios
as Markdown tables. All engines run the same VGG16 (`random:0`, layer fc2, float32 unless the name says int8) on the
same images. Other engines take part if they are installed: ONNX Runtime and OpenVINO (`--group benchmark`), PyTorch.

    python scripts/benchmark_extraction.py engines layers extract start # about 25 minutes on two cores
    python scripts/benchmark_extraction.py pipeline driver scale        # about 10 minutes
    python scripts/benchmark_extraction.py store                        # about 10 minutes, 3 GB of memory
"""

import argparse
import contextlib
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import extraction_flow
import large_store
import layers_in_one_pass
import numpy as np
from engine_peers import INT8, WEIGHTS, Worker, peers
from measuring import processor_name, table
from PIL import Image

from pipeline.core.keras_backend import import_keras
from pipeline.core.machine import usable_cores
from pipeline.data.decoding import decode
from pipeline.data.images import file_ref
from pipeline.data.sources import find_images
from pipeline.features.engines.mnn import converted_network
from pipeline.features.extractor import Extractor
from pipeline.features.weights import weights_from

ROOT = Path(__file__).resolve().parent.parent


def photographs(folder: Path, count: int, size: tuple[int, int] = (500, 375)) -> Path:
    """Write JPEGs of the given size, each a different crop of a sample tile."""
    folder.mkdir(parents=True, exist_ok=True)
    tiles = sorted((ROOT / "images").glob("*/*.jpg"))
    random = np.random.default_rng(0)
    for number in range(count):
        with Image.open(tiles[number % len(tiles)]) as tile:
            left, top = random.integers(0, tile.width // 4), random.integers(0, tile.height // 4)
            crop = tile.crop((left, top, left + tile.width * 3 // 4, top + tile.height * 3 // 4))
            noise = random.integers(-6, 7, (size[1], size[0], 3))
            pixels = np.asarray(crop.resize(size, Image.Resampling.BICUBIC)) + noise
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:05}.jpg", quality=90)
    return folder


# Engines alone -------------------------------------------------------------------------------------------------------


def engines(cache: Path, rounds: int) -> None:
    """Images a second of each engine alone, and its ratio to Keras `predict` with batch 32."""
    tiles = sorted((ROOT / "images").glob("*/*.jpg"))[::4][:32]
    pixels = np.stack([decode(file_ref(tile).read()[0]) for tile in tiles])
    for name in {"MNN, batch 8", INT8} & peers().keys():
        peers()[name](cache)  # converts VGG16; a daemonic process cannot, because it cannot have children
    workers = {name: Worker(name, cache) for name in peers()}
    _, expected = workers["Keras predict, batch 32"](pixels)
    for name, worker in workers.items():  # the warm-up, which also checks that all engines agree
        _, features = worker(pixels)
        error = np.linalg.norm(features - expected) / np.linalg.norm(expected)
        assert error < (0.1 if name == INT8 else 1e-3), f"{name} differs from Keras by {error}"
    seconds = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            seconds[name].append(worker(pixels)[0])
    seconds = {name: statistics.median(times) for name, times in seconds.items()}
    rates = {name: len(pixels) / second for name, second in seconds.items()}
    base = rates["Keras predict, batch 32"]
    rows = [
        (name, f"{rate:.2f}", f"{rate / base:.2f}") for name, rate in sorted(rates.items(), key=lambda row: -row[1])
    ]
    table(
        (
            f"VGG16 to fc2, {usable_cores()} cores of {processor_name()}",
            "images a second",
            "against Keras predict, batch 32",
        ),
        rows,
    )


# `extract` as a whole ------------------------------------------------------------------------------------------------


def command(images: Path, cache: Path, watch_memory: bool = False, options: Sequence[str] = ()) -> dict:
    """Run `python -m pipeline extract`, with further options.

    Returns:
        Its JSON document, with "first" (seconds until the first vector was stored) and, with `watch_memory`, "peak"
        (memory of all its processes combined, in bytes; watching costs time).
    """
    import psutil

    arguments = [sys.executable, "-m", "pipeline", "extract", str(images), "--weights", WEIGHTS, "--cache", str(cache)]
    start = time.perf_counter()
    process = subprocess.Popen([*arguments, "--json", "--quiet", *options], stdout=subprocess.PIPE, cwd=ROOT)
    peak, first = 0, None
    stores = cache / "features"
    while process.poll() is None:
        if first is None and any(stores.glob("*/data/*")):
            first = time.perf_counter() - start
        if watch_memory:
            with contextlib.suppress(psutil.Error):
                family = [parent := psutil.Process(process.pid), *parent.children(recursive=True)]
                peak = max(peak, sum(member.memory_full_info().pss for member in family))
        time.sleep(1 if watch_memory else 0.1)
    return json.loads(process.stdout.read()) | {"peak": peak, "first": first}


def fresh(work: Path, network: Path) -> Path:
    """A cache that contains only the converted network."""
    cache = Path(tempfile.mkdtemp(dir=work))
    (cache / "networks").mkdir()
    os.link(network, cache / "networks" / network.name)
    return cache


def whole(cache: Path, work: Path, rounds: int) -> None:
    """`extract` from JPEGs to the store, against MNN alone and against the usual Keras loop."""
    network = converted(cache)
    folder = photographs(work / "many", 240)
    pixels = np.stack([decode(ref.read()[0]) for ref in find_images(folder).refs[:64]])
    alone = Worker("MNN, batch 8", cache)
    alone(pixels[:8])
    rates: dict[str, list[float]] = {"MNN alone": [], "`extract`": [], "the loop": []}
    loop = naive_loop()
    for _ in range(rounds):
        rates["MNN alone"].append(len(pixels) / alone(pixels)[0])
        rates["`extract`"].append(command(folder, fresh(work, network))["images_per_second"])
        rates["MNN alone"].append(len(pixels) / alone(pixels)[0])
        rates["the loop"].append(loop(folder, 16))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    table(
        ("500 x 375 JPEGs, without start-up", "images a second", "against MNN alone", "against the loop"),
        [
            (name, f"{rate:.2f}", f"{rate / medians['MNN alone']:.2f}", f"{rate / medians['the loop']:.2f}")
            for name, rate in medians.items()
        ],
    )


def naive_loop() -> Callable[[Path, int], float]:
    """Images a second of the usual Keras loop: load_img, preprocess_input, predict one by one, pickle."""
    keras = import_keras()
    full = keras.applications.VGG16(weights=None)
    network = keras.Model(full.inputs, full.get_layer("fc2").output)

    def loop(folder: Path, count: int) -> float:
        files = sorted(folder.iterdir())[:count]
        features = {}
        start = time.perf_counter()
        for file in files:
            image = keras.utils.img_to_array(keras.utils.load_img(file, target_size=(224, 224)))
            batch = keras.applications.vgg16.preprocess_input(image[None])
            features[file.name] = network.predict(batch, verbose=0)[0]
        with tempfile.TemporaryFile() as out:
            pickle.dump(features, out)
        return count / (time.perf_counter() - start)

    loop(ROOT / "images" / "cat", 1)
    return loop


def converted(cache: Path) -> Path:
    """The converted network in a cache."""
    return converted_network([Extractor(weights_from(WEIGHTS))], cache)


def start(cache: Path, work: Path) -> None:
    """Peak memory for 200 and for 2,000 images, and time to the first vector."""
    network = converted(cache)
    photographs(work / "few", 40)
    few, many = photographs(work / "200", 200), photographs(work / "2000", 2000)
    runs = {"200": command(few, fresh(work, network), True), "2,000": command(many, fresh(work, network), True)}
    first = statistics.median(command(work / "few", fresh(work, network))["first"] for _ in range(3))
    rows = [(f"peak memory, {count} images", f"{run['peak'] / 1e9:.2f} GB") for count, run in runs.items()]
    rows.append(("2,000 against 200 images", f"{runs['2,000']['peak'] / runs['200']['peak']:.3f}"))
    rows.append(("from starting `extract` to the first vector stored", f"{first:.1f} s"))
    table(("`extract` on a CPU", "measured"), rows)


def main() -> None:
    """Run the selected parts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "parts",
        nargs="+",
        choices=["engines", "layers", "extract", "start", "pipeline", "driver", "scale", "store"],
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "benchmark-cache")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.cache.parent) as folder:
        cache, rounds, work = args.cache, args.rounds, Path(folder)
        measurements = {
            "engines": lambda: engines(cache, rounds),
            "layers": lambda: layers_in_one_pass.layers(cache, rounds),
            "extract": lambda: whole(cache, work, rounds),
            "start": lambda: start(cache, work),
            "pipeline": lambda: extraction_flow.pipeline(work, rounds, photographs),
            "driver": lambda: extraction_flow.driver(work),
            "scale": lambda: extraction_flow.scale(work),
            "store": lambda: large_store.large_store(work),
        }
        for part in filter(args.parts.__contains__, measurements):
            measurements[part]()


if __name__ == "__main__":
    main()
