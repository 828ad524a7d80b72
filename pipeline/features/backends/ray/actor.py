"""The actor that runs on the nodes of a Ray cluster: references to images -> features.

It reads and decodes in the same worker processes as a run without Ray, so that broken images are reported in the same
way, and an image that crashes its decoder does not crash the actor. Ray calls an actor several times at once: while the
engine computes one block of images, the next ones are decoded.
"""

import contextlib
import pickle
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.data.decoding import THUMBNAIL
from pipeline.data.images import ImageRef
from pipeline.features.backends import Result
from pipeline.features.backends.slots import Slots
from pipeline.features.backends.worker_pool import WorkerPool
from pipeline.features.backends.worker_process import Decoded, shared_digests
from pipeline.features.cache import usual_folder
from pipeline.features.engines import Engine, make_engine
from pipeline.features.extractor import Extractor
from pipeline.features.options import ExtractionOptions

CALLS_AT_ONCE = 3
# Images per block. A block is computed again if its actor dies: that takes seconds without a GPU, and a fraction of a
# second with one, where the overhead of each call matters more. Each block costs the driver 1 ms and 70 kB, so blocks
# are larger if there would be too many of them.
BLOCK, BLOCK_WITH_GPU, LARGEST_BLOCK = 64, 256, 512
MANY_BLOCKS = 10_000
# The columns of an answer, one row per image, except the features: these are `vector0` and so on, one per extractor.
IMAGE = pa.schema(
    [
        ("number", pa.int64()),
        ("slot", pa.int64()),
        ("digest", pa.binary()),
        ("version", pa.string()),
        ("is_new", pa.bool_()),
        ("pixel_count", pa.int64()),
        ("error", pa.string()),
        ("crashed", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class ActorOptions:
    """The settings of an actor, sent to the nodes.

    Attributes:
        extractors: The extractors to run.
        extraction: How to run them.
        block: The maximum number of images per call.
        cache: The folder of converted networks on the node; None for the default of the node's user.
    """

    extractors: Sequence[Extractor]
    extraction: ExtractionOptions
    block: int
    cache: Path | None

    def make_engine(self) -> Engine:
        """Create the engine; see `pipeline.features.engines.make_engine`."""
        extraction, folder = self.extraction, self.cache or usual_folder()
        return make_engine(extraction.engine, self.extractors, extraction.batch_size, folder, extraction.device)


def block_size(images: int, has_gpus: bool, batch_size: int | None) -> int:
    """The number of images per block; whole batches, if there is a batch size.

    Args:
        images: The number of images.
        has_gpus: Whether actors have GPUs.
        batch_size: Images in a batch, or None.
    """
    usual = BLOCK_WITH_GPU if has_gpus else BLOCK
    size = min(LARGEST_BLOCK, max(usual, images // MANY_BLOCKS))
    return -(-size // batch_size) * batch_size if batch_size else size


class FeatureActor:
    """Computes the features of blocks of images.

    Args:
        known: A list of one reference, to the sorted digests of the images that need no computing; in a list, so that
            Ray passes on the reference itself.
        options: The settings.
    """

    def __init__(self, known: Sequence[Any], options: ActorOptions) -> None:
        import ray

        self._options = options
        self._engine: Engine | None = None
        self._engine_lock = threading.Lock()
        self._turns = threading.Semaphore()
        self._workspaces: queue.SimpleQueue[tuple[WorkerPool, Slots]] = queue.SimpleQueue()
        stored = shared_digests(ray.get(known[0]))
        workers = -(-options.extraction.worker_count // CALLS_AT_ONCE)
        for _ in range(CALLS_AT_ONCE):
            slots = Slots(options.block)
            pool = WorkerPool(workers, stored, slots, options.extraction.max_pixels, options.extractors[0].resize)
            self._workspaces.put((pool, slots))

    def __call__(self, block: pa.Table) -> pa.Table:
        """Compute a block.

        Args:
            block: Columns `number`, and `ref`, a pickled ImageRef.

        Returns:
            A row for each image, in the same order: IMAGE, `thumbnail`, `engine`, `device` and `vector0` and so on. The
            thumbnail and the vectors are zeros if the image failed, is known, or has a duplicate earlier in the block.

        Raises:
            PipelineError: The engine or the worker processes cannot be started.
        """
        refs: dict[int, ImageRef] = dict(
            zip(block["number"].to_pylist(), map(pickle.loads, block["ref"].to_pylist()), strict=True)
        )
        with self._workspace() as (pool, slots):
            images = list(pool.decode(refs, list(refs)))
            thumbnails = np.zeros((len(images), THUMBNAIL, THUMBNAIL), np.uint8)
            vectors = [np.zeros((len(images), extractor.dim), np.float32) for extractor in self._options.extractors]
            rows = _rows_to_compute(images)
            thumbnails[rows] = slots.thumbnails[[images[row].slot for row in rows]]
            if rows:
                self._compute(rows, images, slots, vectors)
            slots.give_back([image.slot for image in images])
        table = pa.Table.from_pylist([image._asdict() for image in images], IMAGE)
        table = table.append_column("thumbnail", _column(thumbnails))
        for number, array in enumerate(vectors):
            table = table.append_column(f"vector{number}", _column(array))
        names = (self._engine.name, self._engine.device) if self._engine else ("", "")
        for column, name in zip(("engine", "device"), names, strict=True):
            table = table.append_column(column, pa.array([name] * len(images), pa.string()))
        return table

    @contextlib.contextmanager
    def _workspace(self) -> Iterator[tuple[WorkerPool, Slots]]:
        """Workers and slots for one call."""
        workspace = self._workspaces.get()
        try:
            yield workspace
        finally:
            self._workspaces.put(workspace)

    def _compute(
        self, rows: Sequence[int], images: Sequence[Decoded], slots: Slots, vectors: Sequence[np.ndarray]
    ) -> None:
        """Fill in the vectors of rows, batch by batch."""
        with self._engine_lock:
            if self._engine is None:
                self._engine = self._options.make_engine()
                self._turns = threading.Semaphore(self._engine.at_once)
            engine = self._engine
        with self._turns:
            for at in range(0, len(rows), engine.batch_size):
                batch = rows[at : at + engine.batch_size]
                features = engine(slots.batch([images[row].slot for row in batch], engine.batch_size))
                for vector, feature in zip(vectors, features, strict=True):
                    vector[batch] = feature[: len(batch)]


def _rows_to_compute(images: Sequence[Decoded]) -> list[int]:
    """The rows of new images, one of each set of duplicates."""
    first = {image.digest: row for row, image in reversed(list(enumerate(images))) if image.is_new}
    return sorted(first.values())


def _column(array: np.ndarray) -> pa.Array:
    """An array, shape (N, ...), as a column of N lists."""
    flat = pa.array(array.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, array[0].size)


def results_from(table: pa.Table) -> list[Result]:
    """The results in an answer of an actor."""
    images = [Decoded(**row) for row in table.select(IMAGE.names).to_pylist()]
    features = zip(*(_as_array(table[name]) for name in table.column_names if name.startswith("vector")), strict=True)
    thumbnails = _as_array(table["thumbnail"]).reshape(-1, THUMBNAIL, THUMBNAIL)
    computed = set(_rows_to_compute(images))
    rows = enumerate(zip(images, features, thumbnails, strict=True))
    return [Result(*row) if number in computed else Result(row[0]) for number, row in rows]


def _as_array(column: pa.ChunkedArray) -> np.ndarray:
    """A column of equally long lists as an array, shape (N, length)."""
    lists = column.combine_chunks()
    return lists.flatten().to_numpy().reshape(len(lists), -1)
