"""The `store` part of `benchmark_extraction.py`: appending to a large store."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
from measuring import peak_memory, processor_name, table

from pipeline.core.machine import usable_cores
from pipeline.data.decoding import THUMBNAIL
from pipeline.data.images import DIGEST
from pipeline.features.extractor import Extractor
from pipeline.features.store import FeatureStore
from pipeline.features.weights import weights_from

NARROW = Extractor(weights_from("random:0"), "block1_pool")  # 64 numbers
FILE_ROWS = 2**16  # about as many as the largest merged files of fc2 have


def large_store(work: Path, count: int = 20_000_000, appends: int = 500, size: int = 1000) -> None:
    """Measure appends to a store with many rows, in milliseconds, while another thread merges, as in `Saver`.

    Args:
        work: A folder for the store.
        count: Rows in the store before.
        appends: Measured appends.
        size: Rows of an append.
    """
    random = np.random.default_rng(0)
    fill(FeatureStore(work, NARROW).path, random, count)
    start = time.perf_counter()
    store = FeatureStore(work, NARROW)
    opening, has_ended = time.perf_counter() - start, threading.Event()

    def merge() -> None:
        while not has_ended.wait(0.02):
            store.merge()

    merger = threading.Thread(target=merge)
    merger.start()
    milliseconds = [1000 * append(store, random, size) for _ in range(appends)]
    has_ended.set()
    merger.join()
    rows = [(f"append, {name}", f"{value:.1f} ms") for name, value in quantiles(milliseconds).items()]
    title = f"{count:,} rows, {usable_cores()} cores of {processor_name()}"
    rows += [("opening the store", f"{opening:.1f} s"), ("peak memory", f"{peak_memory() / 1e9:.2f} GB")]
    table((title, f"{appends} appends of {size} rows"), rows)


def quantiles(values: list[float]) -> dict[str, float]:
    """The median, the 99th percentile and the maximum of some values."""
    return dict(zip(("median", "99th percentile", "maximum"), np.quantile(values, [0.5, 0.99, 1]), strict=True))


def fill(path: Path, random: np.random.Generator, count: int) -> None:
    """Fill a store with rows with random digests and no content; their checksums are wrong."""
    schema = lance.dataset(path).schema

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, count, FILE_ROWS):
            size = min(FILE_ROWS, count - start)
            digests, thumbnails = pa.py_buffer(random.bytes(16 * size)), pa.py_buffer(bytes(size * THUMBNAIL**2))
            vectors = pa.array(np.zeros(size * NARROW.dim, np.float32))
            columns = [
                pa.Array.from_buffers(pa.binary(16), size, [None, digests]),
                pa.array(np.zeros(size, np.uint32)),
                pa.FixedSizeListArray.from_arrays(vectors, NARROW.dim),
                pa.Array.from_buffers(pa.binary(THUMBNAIL**2), size, [None, thumbnails]),
                pa.array(np.ones(size, np.int64)),
            ]
            yield pa.record_batch(columns, schema=schema)

    reader = pa.RecordBatchReader.from_batches(schema, batches())
    lance.write_dataset(reader, path, mode="append", max_rows_per_file=FILE_ROWS)


def append(store: FeatureStore, random: np.random.Generator, size: int) -> float:
    """Append rows with random digests and zero vectors; returns the seconds that it took."""
    digests = np.frombuffer(random.bytes(16 * size), DIGEST)
    vectors, thumbnails = np.zeros((size, NARROW.dim), np.float32), np.zeros((size, THUMBNAIL, THUMBNAIL), np.uint8)
    start = time.perf_counter()
    store.append(digests, vectors, thumbnails, np.ones(size, np.int64))
    return time.perf_counter() - start
