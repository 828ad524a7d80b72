"""A Lance table of images and their vectors, which LanceDB opens (https://lancedb.github.io/lancedb)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import lance
import pyarrow as pa

from pipeline.core.atomic import atomic_folder
from pipeline.core.errors import PipelineError
from pipeline.core.vector_files import as_lists
from pipeline.core.vectors import Vectors, rows_at_once
from pipeline.features.store_repair import UNREADABLE, lance_cause


def write_lance(folder: Path, paths: Sequence[str], labels: Sequence[str], columns: Mapping[str, Vectors]) -> None:
    """Write a table with the columns `path` and `label`, and one of vectors for each layer, a block at a time.

    Args:
        folder: The table, a new folder `NAME.lance`; to LanceDB, NAME in the database that holds it.
        paths: The names of N images.
        labels: Their labels, "" where they have none.
        columns: Name of a column -> vectors, shape (N, F).

    Raises:
        PipelineError: A vector on disk is damaged, or the table cannot be written; nothing is left of it then.
    """
    schema = pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("label", pa.string(), nullable=False),
            *(pa.field(name, pa.list_(pa.float32(), each.shape[1]), nullable=False) for name, each in columns.items()),
        ]
    )

    damaged: list[PipelineError] = []

    def blocks() -> Iterator[pa.RecordBatch]:
        at_once = rows_at_once(sum(each.shape[1] for each in columns.values()))
        for start in range(0, len(paths), at_once):
            rows = slice(start, start + at_once)
            try:
                lists = [as_lists(vectors[rows]) for vectors in columns.values()]
            except PipelineError as error:  # of which Lance would leave a part of a traceback
                damaged.append(error)
                raise
            yield pa.record_batch([pa.array(paths[rows]), pa.array(labels[rows]), *lists], schema=schema)

    with atomic_folder(folder) as unfinished:
        try:
            lance.write_dataset(pa.RecordBatchReader.from_batches(schema, blocks()), unfinished, mode="create")
        except UNREADABLE as error:
            if damaged:
                raise damaged[0] from None
            raise PipelineError(f"{folder} cannot be written ({lance_cause(error)}).") from error
