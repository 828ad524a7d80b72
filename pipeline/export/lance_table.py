"""A Lance table of images and their vectors, for LanceDB (https://lancedb.github.io/lancedb)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import lance
import pyarrow as pa

from pipeline.core.atomic import atomic_folder
from pipeline.core.errors import PipelineError
from pipeline.core.vector_files import as_lists
from pipeline.core.vectors import Vectors, rows_at_once
from pipeline.features.lance_errors import UNREADABLE, lance_cause


def write_lance(folder: Path, paths: Sequence[str], labels: Sequence[str], columns: Mapping[str, Vectors]) -> None:
    """Write a table with the columns `path` and `label`, and a column of vectors per layer, a block at a time.

    Args:
        folder: The table, a new folder `NAME.lance`; for LanceDB, the table NAME in the database of its parent folder.
        paths: The names of N images.
        labels: Their labels; "" for images without one.
        columns: Name of a column -> vectors, shape (N, F).

    Raises:
        PipelineError: A vector on disk is damaged, or the table cannot be written; no output is left behind.
    """
    schema = pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("label", pa.string(), nullable=False),
            *(
                pa.field(name, pa.list_(pa.float32(), vectors.shape[1]), nullable=False)
                for name, vectors in columns.items()
            ),
        ]
    )

    damaged: list[PipelineError] = []

    def blocks() -> Iterator[pa.RecordBatch]:
        at_once = rows_at_once(sum(vectors.shape[1] for vectors in columns.values()))
        for start in range(0, len(paths), at_once):
            rows = slice(start, start + at_once)
            try:
                lists = [as_lists(vectors[rows]) for vectors in columns.values()]
            except PipelineError as error:  # Lance would reduce it to part of a traceback
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
