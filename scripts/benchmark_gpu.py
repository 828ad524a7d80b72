"""Benchmark extraction on GPUs, in at most ten minutes and without a download.

    python scripts/benchmark_gpu.py                       # all GPUs that TensorFlow sees
    KERAS_BACKEND=jax python scripts/benchmark_gpu.py     # without TensorFlow

One table: the rate of a large matrix product, VGG16 (`random:0`, layer fc2) at four batch sizes as a share of it, all
GPUs together, and `extract` from JPEGs to the store against the slower of decoding and computing. The rate of VGG16
includes the transfer of pixels and features. Measurements that do not fit into the time limit are left out.
"""

import argparse
import math
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import numpy as np
from benchmark_extraction import photographs
from extraction_flow import decode_rate
from measuring import processor_name, table

from pipeline.core import tf32
from pipeline.core.keras_backend import import_keras
from pipeline.core.machine import usable_cores
from pipeline.data.sources import find_images
from pipeline.features.backends import local
from pipeline.features.engines.devices import chosen_devices
from pipeline.features.engines.keras import KerasEngine
from pipeline.features.extraction import extract_features
from pipeline.features.extractor import Extractor
from pipeline.features.options import ExtractionOptions
from pipeline.features.vgg import Network
from pipeline.features.weights import weights_from

PRECISIONS = ("bfloat16", "tf32", "float32")  # the most important first
PRODUCTS = 8  # matrix products per call, so that launching it takes a negligible part of the time
DIFFERENT = 64  # photographs; the other files differ from them only in a comment
GOAL, STORE_GOAL = 0.5, 0.8


@dataclass(frozen=True)
class Sizes:
    """How much to measure.

    Attributes:
        side: The side of the square matrices.
        batches: The batch sizes.
        images: The JPEGs to extract.
        seconds: The time for each figure, without compiling.
        limit: The time after which no measurement starts.
    """

    side: int = 8192
    batches: Sequence[int] = (32, 64, 128, 256)
    images: int = 8192
    seconds: float = 4
    limit: float = 480


@dataclass
class Figures:
    """The measurements; those that did not fit into the time limit are missing.

    Attributes:
        matrix: Precision -> floating-point operations a second.
        alone: Precision and batch size -> images a second on one device.
        together: Precision -> images a second on all devices.
        decoding: Images a second.
        stored: Precision -> images a second from JPEGs to the store.
    """

    matrix: dict[str, float] = field(default_factory=dict)
    alone: dict[tuple[str, int], float] = field(default_factory=dict)
    together: dict[str, float] = field(default_factory=dict)
    decoding: float = math.nan
    stored: dict[str, float] = field(default_factory=dict)

    def share(self, precision: str, batch: int, flops: float) -> float:
        """VGG16's rate as a share of the matrix product's; `flops`: operations per image."""
        return self.alone[precision, batch] * flops / self.matrix[precision]

    def stored_share(self, precision: str) -> float:
        """The rate of `extract` as a share of the slower of decoding and computing."""
        return self.stored[precision] / min(self.decoding, self.together[precision])


def measure(devices: Sequence[str], sizes: Sizes, work: Path) -> Figures:
    """Measure everything.

    Args:
        devices: The devices by Keras's names; see `pipeline.features.engines.devices.chosen_devices`.
        sizes: How much is measured.
        work: A folder for the images and stores.
    """
    deadline = time.monotonic() + sizes.limit
    figures = Figures()
    images = find_images(jpegs(work / "images", sizes.images))
    figures.decoding = decode_rate(images, usable_cores())
    for precision in PRECISIONS:
        if time.monotonic() > deadline:
            break
        figures.matrix[precision] = matrix_rate(devices[0], precision, sizes)
        extractor = Extractor(weights_from("random:0"), precision=precision)
        engine = KerasEngine([extractor], max(sizes.batches), devices[:1])
        for batch in sorted(sizes.batches, reverse=True):
            if time.monotonic() < deadline:
                figures.alone[precision, batch] = vgg16_rate(engine, batch, sizes.seconds)
        if len(devices) > 1 and time.monotonic() < deadline:
            engine = KerasEngine([extractor], max(sizes.batches), devices)
        figures.together[precision] = vgg16_rate(engine, engine.batch_size, sizes.seconds)
        if time.monotonic() < deadline:
            options = ExtractionOptions(
                engine="keras",
                device=",".join(devices),
                batch_size=engine.batch_size,
                cache=work / precision,
                progress=False,
            )
            with patch.object(local, "make_engine", lambda *_, engine=engine: engine):  # it has compiled
                features = extract_features(images, extractor, options)
            figures.stored[precision] = features.computed / (features.seconds - features.seconds_starting)
            shutil.rmtree(work / precision)
    return figures


def jpegs(folder: Path, count: int) -> Path:
    """Write JPEGs of 500 x 375, all different."""
    folder.mkdir(parents=True)
    originals = sorted(photographs(folder.parent / "originals", min(DIFFERENT, count)).iterdir())
    contents = [file.read_bytes() for file in originals]
    for number in range(count):
        start, rest = contents[number % len(contents)][:2], contents[number % len(contents)][2:]
        comment = b"\xff\xfe\x00\x06" + number.to_bytes(4, "big")
        (folder / f"{number:06}.jpg").write_bytes(start + comment + rest)
    return folder


def matrix_rate(device: str, precision: str, sizes: Sizes) -> float:
    """The rate of dense matrix products on one device, in floating-point operations per second."""
    keras = import_keras()
    ops, dtype = keras.ops, "float32" if precision == "tf32" else precision

    def products(left: object, right: object) -> object:
        for _ in range(PRODUCTS):
            left = ops.matmul(left, right)
        return ops.sum(ops.cast(left, "float32"))

    step = compiled(products)
    with keras.device(device), tf32.allowed(keras.backend.backend()) if precision == "tf32" else nullcontext():
        random = np.random.default_rng(0).standard_normal((2, sizes.side, sizes.side), np.float32)
        left, right = (ops.cast(ops.convert_to_tensor(part), dtype) for part in random / math.sqrt(sizes.side))
        float(step(left, right))  # compiles
        seconds = []
        end = time.monotonic() + sizes.seconds
        while time.monotonic() < end or not seconds:
            start = time.perf_counter()
            float(step(left, right))
            seconds.append(time.perf_counter() - start)
    return PRODUCTS * 2 * sizes.side**3 / statistics.median(seconds)


def compiled(function: Callable) -> Callable:
    """A function compiled by Keras's backend."""
    backend = import_keras().backend.backend()
    if backend == "tensorflow":
        import tensorflow

        return tensorflow.function(function, jit_compile=True, autograph=False)
    if backend == "jax":
        import jax

        return jax.jit(function)
    return function


def vgg16_rate(engine: KerasEngine, batch: int, seconds: float) -> float:
    """Images per second of an engine with as many batches in flight as it accepts."""
    pixels = np.random.default_rng(0).integers(0, 255, (batch, 224, 224, 3), np.uint8)
    with ThreadPoolExecutor(engine.at_once) as threads:
        for _ in range(2):  # compiles on all devices
            list(threads.map(engine, [pixels] * engine.at_once))
        start = time.perf_counter()

        def run(_: int) -> int:
            count = 0
            while count == 0 or time.perf_counter() - start < seconds:
                engine(pixels)
                count += 1
            return count

        batches = sum(threads.map(run, range(engine.at_once)))
        return batches * batch / (time.perf_counter() - start)


def flops_per_image(network: Network) -> int:
    """Floating-point operations of a network up to fc2 per image; a multiplication with its addition counts as two."""
    shapes = network.activation_shapes
    kernels = network.weighted_layers("fc2")
    positions = {name: math.prod(shapes[name][:-1]) for name in kernels}
    return 2 * sum(math.prod(kernel) * positions[name] for name, kernel in kernels.items())


def print_table(figures: Figures, devices: Sequence[str], sizes: Sizes) -> None:
    """Print the figures as a Markdown table with a column for each precision."""
    keras = import_keras()
    flops = flops_per_image(weights_from("random:0").network)

    def cells(name: str, cell: Callable[[str], str]) -> list[str]:
        return [name, *(_or_dash(cell, precision) for precision in PRECISIONS)]

    rows = [cells("matrix product, TFLOP/s", lambda precision: f"{figures.matrix[precision] / 1e12:.3g}")]
    for batch in sizes.batches:
        rows.append(
            cells(
                f"VGG16, batch {batch}, images a second (share of the matrix product; goal {GOAL})",
                lambda precision, batch=batch: (
                    f"{figures.alone[precision, batch]:.4g} ({figures.share(precision, batch, flops):.2f})"
                ),
            )
        )
    together = f"VGG16 on {len(devices)} x, batch {max(sizes.batches)}, images a second"
    rows.append(cells(together, lambda precision: f"{figures.together[precision]:.4g}"))
    rows.append(cells(f"decoding on {usable_cores()} cores, images a second", lambda _: f"{figures.decoding:.4g}"))
    rows.append(
        cells(
            f"{sizes.images:,} JPEGs to the store, images a second (share of the slower; goal {STORE_GOAL})",
            lambda precision: f"{figures.stored[precision]:.4g} ({figures.stored_share(precision):.2f})",
        )
    )
    backend = keras.backend.backend()
    table((f"{device_names(devices)}; Keras {keras.__version__} on {backend}", *PRECISIONS), rows)


def _or_dash(cell: Callable[[str], str], precision: str) -> str:
    try:
        return cell(precision)
    except KeyError:  # not measured
        return "-"


def device_names(devices: Sequence[str]) -> str:
    """The names of the devices, with the model if NVIDIA makes them."""
    if devices[0].startswith("cpu") or not shutil.which("nvidia-smi"):
        return f"{', '.join(devices)} of {processor_name()}"
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    models = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
    return f"{', '.join(devices)}: {', '.join(dict.fromkeys(models))}"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", help="see `extract --help`")
    parser.add_argument("--side", type=int, default=Sizes.side)
    parser.add_argument("--batches", type=int, nargs="+", default=Sizes.batches)
    parser.add_argument("--images", type=int, default=Sizes.images)
    parser.add_argument("--seconds", type=float, default=Sizes.seconds)
    args = parser.parse_args()
    sizes = Sizes(args.side, args.batches, args.images, args.seconds)
    devices = chosen_devices(args.device)
    with tempfile.TemporaryDirectory() as work:
        print_table(measure(devices, sizes, Path(work)), devices, sizes)


if __name__ == "__main__":
    main()
