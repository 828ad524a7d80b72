"""Lance's IVF_PQ index of the vectors in a feature store, for searches that do not read all of them.

It is part of the store's Lance dataset, so removed rows are never found, and rows added since it was built are searched
without it. A note in the dataset's config identifies the index, with its recall and the CRC-32 of its files; an index
that differs from the note, or with changed files, is rebuilt.
"""

import json
import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import numpy as np
from filelock import FileLock

from pipeline.core.errors import Parameter, PipelineError, RequestError
from pipeline.core.locations import Location
from pipeline.data.images import DIGEST
from pipeline.features.lance_errors import UNREADABLE, lance_cause, may_be_damage
from pipeline.features.merging import MERGED_ROWS
from pipeline.features.store import FeatureStore

log = logging.getLogger(__name__)

KIND = "IVF_PQ"
NAME = "vectors"  # the index's name in the dataset
NOTE = "vector_index"  # the key of the note in the dataset's config
PARTITION = 4096  # vectors, approximately
SUB_VECTOR = 16  # numbers of a vector encoded by one byte
PROBED, LEAST_PROBED = 0.2, 20  # the share of partitions to search, and their minimum number
REFINED = 10  # candidates of the index per result, ranked by their stored vectors
LARGEST_UNINDEXED = 0.1  # as a share of the store; above this, the index is rebuilt
READ_AT_ONCE = 2**24  # bytes


@dataclass(frozen=True)
class VectorIndex:
    """The index of a feature store.

    Attributes:
        path: The store's Lance dataset.
        dataset: The version of the dataset to search.
        partitions: The number of partitions.
        recall: The share of true neighbours that the index found when it was built.
    """

    path: Path
    dataset: lance.LanceDataset
    partitions: int
    recall: float = 0.0

    def nearest(self, query: np.ndarray, count: int) -> np.ndarray:
        """Find the stored vectors nearest to a query by cosine; some true neighbours may be missing.

        Args:
            query: Shape (F,).
            count: The number of vectors to find.

        Returns:
            The digests of at most `count` images, nearest first, DIGEST.

        Raises:
            PipelineError: The index cannot be read.
        """
        search = {
            "column": "vector",
            "q": query.astype(np.float32),
            "k": count,
            "metric": "cosine",
            "nprobes": max(LEAST_PROBED, round(PROBED * self.partitions)),
            "refine_factor": REFINED,
        }
        try:
            digests = self.dataset.to_table(columns=["digest", "_distance"], nearest=search)["digest"].to_pylist()
        except UNREADABLE as error:
            raise PipelineError(
                f"The vector index of {self.path} cannot be read ({lance_cause(error)}); search without ",
                Parameter("index", True),
                ".",
            ) from error
        return np.frombuffer(b"".join(digests), DIGEST)


def open_index(store: FeatureStore) -> VectorIndex | None:
    """Open the index of a store.

    Returns:
        The index; None if none was built, if much was stored since, or if its files changed or are damaged.

    Raises:
        PipelineError: The system, or this version of Lance, cannot read it.
        RequestError: The store is in a bucket.
    """
    path = require_folder(store.path)
    try:
        dataset = lance.dataset(path)
        note = json.loads(dataset.config().get(NOTE, "null"))
        built = _built(dataset)
        if not note or not built or note["index"] != built["index"]:
            return None
        if built["rows"] < (1 - LARGEST_UNINDEXED) * dataset.count_rows():
            log.info("More than a tenth of %s came after its vector index, which is rebuilt.", store.path)
            return None
        if note["files"] != _checksums(path, note["index"]):
            log.warning("The vector index of %s changed on disk; it is rebuilt.", store.path)
            return None
        return VectorIndex(path, dataset, note["partitions"], note["recall"])
    except (*UNREADABLE, KeyError, TypeError) as error:
        if not may_be_damage(error):
            raise PipelineError(
                f"The vector index of {store.path} cannot be opened ({lance_cause(error)}); search without ",
                Parameter("index", True),
                ".",
            ) from error
        log.warning("The vector index of %s cannot be opened (%s); it is rebuilt.", store.path, lance_cause(error))
        return None


def build_index(store: FeatureStore, measure: Callable[[VectorIndex], float]) -> VectorIndex:
    """Build the index of a store, replacing an earlier one; processes that store features have to wait.

    Args:
        store: The store, with at least about 1,000 images.
        measure: Measures the recall of the index.

    Returns:
        The index.

    Raises:
        PipelineError: The index cannot be built.
        RequestError: The store is in a bucket.
    """
    path = require_folder(store.path)
    try:
        with FileLock(path.with_suffix(".lock")):
            dataset = lance.dataset(path)
            # Before building: merging small data files later would have to rewrite the index.
            dataset.optimize.compact_files(target_rows_per_fragment=MERGED_ROWS)
            count, dim = dataset.count_rows(), dataset.schema.field("vector").type.list_size
            log.info(
                "Building a vector index of %s vectors. This takes minutes where there are millions.", f"{count:,}"
            )
            partitions = max(1, count // PARTITION)
            dataset = dataset.create_index(
                "vector",
                KIND,
                name=NAME,
                metric="cosine",
                replace=True,
                num_partitions=partitions,
                num_sub_vectors=_sub_vectors(dim),
            )
        index = VectorIndex(path, dataset, partitions)
        recall = measure(index)
        identity = _built(dataset)["index"]
        note = {"index": identity, "partitions": partitions, "recall": recall}
        note["files"] = _checksums(path, identity)
        dataset.update_config({NOTE: json.dumps(note)})
        return VectorIndex(path, dataset, partitions, recall)
    except UNREADABLE as error:
        raise PipelineError(
            f"The vector index of {store.path} cannot be built ({lance_cause(error)}); search without ",
            Parameter("index", True),
            ".",
        ) from error


def require_folder(source: Location | Path | str) -> Path:
    """The location of a cache or a store, which must be a folder.

    Raises:
        RequestError: It is in a bucket.
    """
    location = Location.parse(source)
    if location.path is not None:
        return location.path
    raise RequestError(
        Parameter("index", True),
        f" needs a store in a folder, not in a bucket ({location}): each search checks all files of the index. "
        "Search without it, or merge the store into a folder (cache merge).",
    )


def _sub_vectors(dim: int) -> int:
    """The number of sub-vectors: the largest that divides `dim` into parts of at least SUB_VECTOR numbers."""
    return max(parts for parts in range(1, max(1, dim // SUB_VECTOR) + 1) if dim % parts == 0)


def _built(dataset: lance.LanceDataset) -> dict[str, Any]:
    """The identity of the index in a dataset and its number of rows; empty without an index."""
    for description in dataset.describe_indices():
        if description.name == NAME and len(description.segments) == 1:
            return {"index": str(description.segments[0].uuid), "rows": description.num_rows_indexed}
    return {}


def _checksums(path: Path, index: str) -> Mapping[str, int]:
    """The CRC-32 of each file of an index."""
    checksums = {}
    for file in sorted((path / "_indices" / index).iterdir()):
        checksum = 0
        with file.open("rb") as opened:
            while block := opened.read(READ_AT_ONCE):
                checksum = zlib.crc32(block, checksum)
        checksums[file.name] = checksum
    return checksums
