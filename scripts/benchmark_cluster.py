"""Measure the cost of Ray: `extract --ray local` against plain `extract` on the same cores, with idle engines.

    python scripts/benchmark_cluster.py flow          # overhead, one actor against two, the driver; about 5 minutes
    python scripts/benchmark_cluster.py memory        # 2,000 images through VGG16, with and without Ray; 10 minutes

Rates exclude the start, which has its own column: on Ray they are from the first block of images to the last.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import extraction_flow
from benchmark_extraction import command, fresh, photographs
from extraction_flow import EXTRACTOR, IdleEngine
from measuring import table

from pipeline.data.images import ImageSet
from pipeline.data.sources import find_images
from pipeline.features import extraction
from pipeline.features.backends import Result
from pipeline.features.backends.ray import backend
from pipeline.features.backends.ray.actor import ActorOptions, results_from
from pipeline.features.engines import Engine
from pipeline.features.engines.mnn import converted_network
from pipeline.features.extraction import extract_features
from pipeline.features.options import ExtractionOptions, RayOptions

BATCH = 32
LATENCY = 0.4  # seconds per batch of an engine that is the bottleneck: 80 images a second
GOAL = 0.8
TWO = ("--actors", "2")


@dataclass(frozen=True)
class IdleActor(ActorOptions):
    """An actor with an engine that returns constants.

    Attributes:
        seconds: How long a batch takes.
    """

    seconds: float = 0.0

    def make_engine(self) -> Engine:
        """Create the engine; see `pipeline.features.engines.make_engine`."""
        return IdleEngine(BATCH, self.seconds)


@dataclass(frozen=True)
class RayFlow:
    """Measurements of `extract --ray local`.

    Attributes:
        rate: Images a second, from the first block to the last.
        driver_milliseconds: Time of the driver per image, all threads.
        start: Seconds until the first block arrived.
    """

    rate: float
    driver_milliseconds: float
    start: float


def ray_flow(images: ImageSet, actors: int, seconds: float, work: Path) -> RayFlow:
    """Run `extract --ray local` with an idle engine, into a new store."""
    answers: list[tuple[int, float, float]] = []

    def watched(answer: Any) -> list[Result]:
        answers.append((len(answer), time.monotonic(), time.process_time()))
        return results_from(answer)

    options = ExtractionOptions(
        cache=Path(tempfile.mkdtemp(dir=work)), progress=False, ray=RayOptions("local", actors=actors)
    )
    begin = time.monotonic()
    with (
        patch.object(backend, "ActorOptions", partial(IdleActor, seconds=seconds)),
        patch.object(extraction, "ensure_weights", lambda *_: None),
        patch.object(backend, "results_from", watched),
    ):
        features = extract_features(images, EXTRACTOR, options)
    assert features.computed == len(images)
    (first, started, used_before), (_, ended, used) = answers[0], answers[-1]
    count = len(images) - first
    return RayFlow(count / (ended - started), 1000 * (used - used_before) / count, started - begin)


def flow(work: Path, rounds: int, count: int) -> None:
    """Rates with an engine that takes no time, and with an engine of fixed latency."""
    images = find_images(photographs(work / "images", count))
    plain, on_ray, slow = [], {1: [], 2: []}, {1: [], 2: []}
    few = images.subset(range(min(count, 1500)))
    for _ in range(rounds):
        plain.append(extraction_flow.flow(images, IdleEngine(BATCH), work))
        for actors in (1, 2):
            on_ray[actors].append(ray_flow(images, actors, 0.0, work))
            slow[actors].append(ray_flow(few, actors, LATENCY, work))
    base = statistics.median(result.rate for result in plain)
    used = statistics.median(result.main_milliseconds for result in plain)
    rows: list[Sequence[str]] = [("plain `extract`, free engine", f"{base:.0f}", "1.00", f"{used:.3f}", "")]
    for name, flows in (("free engine", on_ray), (f"{BATCH / LATENCY:.0f} a second and actor", slow)):
        for actors, results in flows.items():
            rate, driver, start = (
                statistics.median(getattr(result, field) for result in results)
                for field in ("rate", "driver_milliseconds", "start")
            )
            one_actor = statistics.median(result.rate for result in flows[1])
            against = f"{rate / base:.2f} (goal {GOAL})" if flows is on_ray else f"{rate / one_actor:.2f} of one actor"
            rows.append((f"Ray, {actors} actors, {name}", f"{rate:.0f}", against, f"{driver:.3f}", f"{start:.1f}"))
    table(("500 x 375 JPEGs", "images a second", "against", "driver, ms per image", "start, s"), rows)


def memory(work: Path, cache: Path, count: int) -> None:
    """Peak memory of all processes combined, with VGG16 (`random:0`, fc2)."""
    images, network = photographs(work / "images", count), converted_network([EXTRACTOR], cache)
    rows = []
    for name, options in (("plain", ()), ("Ray, 1 actor", ("--ray", "local")), ("2 actors", ("--ray", "local", *TWO))):
        run = command(images, fresh(work, network), watch_memory=True, options=options)
        rows.append((name, f"{run['peak'] / 1e9:.2f} GB", f"{run['images_per_second']:.1f}"))
    table((f"{count:,} images", "peak memory of all processes", "images a second"), rows)


def main() -> None:
    """Run the selected parts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="+", choices=["flow", "memory"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, help="number of images; default 3,000 and 2,000")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "benchmark-cache")
    args = parser.parse_args()
    for part in args.parts:
        with tempfile.TemporaryDirectory(dir=args.cache.parent) as folder:
            if part == "flow":
                flow(Path(folder), args.rounds, args.count or 3000)
            else:
                memory(Path(folder), args.cache, args.count or 2000)


if __name__ == "__main__":
    main()
