"""A table of a run's images with their vectors, predictions and positions on a map, for embedding viewers.

Previews are structs of `bytes` and `path`, like images of Hugging Face's `datasets`; embedding-atlas
(https://apple.github.io/embedding-atlas) displays them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.core.atomic import atomic_write
from pipeline.core.errors import ImageError
from pipeline.core.vector_files import as_lists
from pipeline.core.vectors import Vectors, cosines, rows_at_once
from pipeline.data import decoding
from pipeline.data.images import ImageSet, contents_of
from pipeline.evaluation.embedding_map import fit_plane, project
from pipeline.evaluation.report import PREVIEW
from pipeline.evaluation.retrieval import Candidates, retrieve

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

FITTED = 2000  # random images; the map is fitted to their predictions and targets


@dataclass(frozen=True)
class EmbeddingTable:
    """The content of a table: N images in path order.

    Attributes:
        images: The images.
        labels: The label of each image, or else the key of its target.
        splits: The side of each image in the run's split; None if the image is not in the run.
        vectors: Their features, shape (N, F).
        predictions: Their predicted embeddings, shape (N, D).
        targets: Their target embeddings, shape (N, D).
        candidates: The candidates among which targets are ranked; they include all targets.
    """

    images: ImageSet
    labels: Sequence[str]
    splits: Sequence[str | None]
    vectors: Vectors
    predictions: Vectors
    targets: np.ndarray
    candidates: Candidates


def write_table(file: Path, table: EmbeddingTable) -> None:
    """Write a table as a Parquet file, a row group at a time.

    Args:
        file: The file, replaced if it exists.
        table: Its content.

    Raises:
        PipelineError: A vector on disk is damaged, or the file cannot be written.
    """
    from pyarrow.parquet import ParquetWriter

    with atomic_write(file) as unfinished, ParquetWriter(unfinished, _schema(table)) as writer:
        for rows in _row_groups(table):
            writer.write_table(rows)


def _schema(table: EmbeddingTable) -> pa.Schema:
    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("label", pa.string(), nullable=False),
            pa.field("split", pa.string()),
            pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), table.vectors.shape[1]), nullable=False),
            pa.field("prediction", pa.list_(pa.float32(), table.predictions.shape[1]), nullable=False),
            pa.field("cosine", pa.float32(), nullable=False),
            pa.field("rank", pa.float32(), nullable=False),
            pa.field("x", pa.float32()),
            pa.field("y", pa.float32()),
        ]
    )


def _row_groups(table: EmbeddingTable) -> Iterator[pa.Table]:
    at_once = rows_at_once(table.vectors.shape[1] + table.predictions.shape[1])
    plane = _plane(table, at_once)
    for start in range(0, len(table.images), at_once):
        rows = slice(start, start + at_once)
        predictions, targets = table.predictions[rows], table.targets[rows]
        x, y = project(plane, predictions).T if plane else np.full((2, len(predictions)), None)
        columns: Mapping[str, Any] = {
            "path": table.images.paths[rows],
            "label": table.labels[rows],
            "split": table.splits[rows],
            "image": list(map(_preview, contents_of(table.images.refs[rows]), table.images.paths[rows])),
            "vector": as_lists(table.vectors[rows]),
            "prediction": as_lists(predictions),
            "cosine": cosines(predictions, targets),
            "rank": retrieve(predictions, targets, table.candidates).ranks,
            "x": x,
            "y": y,
        }
        yield pa.table(columns, schema=_schema(table))


def _plane(table: EmbeddingTable, at_once: int) -> "PCA | None":
    sample = np.sort(np.random.default_rng(0).permutation(len(table.images))[:FITTED])
    predictions = [table.predictions[sample[start : start + at_once]] for start in range(0, len(sample), at_once)]
    return fit_plane(np.concatenate(predictions), np.unique(table.targets[sample], axis=0))


def _preview(content: bytes | None, path: str) -> dict[str, bytes | str | None]:
    """A small JPEG; without content if the image is no longer readable."""
    try:
        return {"bytes": decoding.preview(content, PREVIEW) if content else None, "path": path}
    except ImageError:
        return {"bytes": None, "path": path}
