"""The table of a run's images: reading in row groups, and missing parts."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import PipelineError
from pipeline.core.vectors import READ_AT_ONCE
from pipeline.data.images import ImageRef, ImageSet
from pipeline.evaluation.retrieval import Candidates
from pipeline.export.embedding_table import FITTED, EmbeddingTable, write_table

LABELS = ("blue", "red")


@dataclass
class CountedRows:
    """Vectors that record how many were read at once."""

    vectors: np.ndarray
    most: list[int] = field(default_factory=lambda: [0])

    @property
    def shape(self) -> tuple[int, ...]:
        return self.vectors.shape

    @property
    def dtype(self) -> np.dtype:
        return self.vectors.dtype

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        self.most[0] = max(self.most[0], len(self.vectors[rows]))
        return self.vectors[rows]


def table_of(count: int, dim: int, folder: Path) -> EmbeddingTable:
    """Made-up vectors of deleted images."""
    random = np.random.default_rng(0)
    paths = [f"{number:05}.png" for number in range(count)]
    labels = [LABELS[number % 2] for number in range(count)]
    refs = [ImageRef(str(folder / path)) for path in paths]
    target = dict(zip(LABELS, random.normal(size=(2, dim)).astype(np.float32), strict=True))
    return EmbeddingTable(
        images=ImageSet("gone", paths, refs, labels),
        labels=labels,
        splits=[None, *["train"] * (count - 1)],
        vectors=CountedRows(random.normal(size=(count, 7)).astype(np.float32)),
        predictions=CountedRows(random.normal(size=(count, dim)).astype(np.float32)),
        targets=np.stack([target[label] for label in labels]),
        candidates=Candidates(target.items()),
    )


def test_vectors_are_read_a_row_group_at_a_time(tmp_path: Path) -> None:
    count = FITTED + READ_AT_ONCE + 1
    table = table_of(count, 3, tmp_path)
    write_table(tmp_path / "table.parquet", table)
    file = pq.ParquetFile(tmp_path / "table.parquet")
    assert table.vectors.most == table.predictions.most == [READ_AT_ONCE]
    assert (file.metadata.num_rows, file.num_row_groups) == (count, -(-count // READ_AT_ONCE))
    rows = file.read().to_pydict()
    assert np.array_equal(rows["vector"], table.vectors.vectors)
    assert np.array_equal(rows["prediction"], table.predictions.vectors)
    assert rows["image"][0] == {"bytes": None, "path": "00000.png"}
    assert rows["split"][:2] == [None, "train"]
    assert np.isfinite(rows["x"] + rows["y"]).all()


def test_one_dimension_has_no_map(tmp_path: Path) -> None:
    write_table(tmp_path / "table.parquet", table_of(5, 1, tmp_path))
    rows = pq.read_table(tmp_path / "table.parquet").to_pydict()
    assert rows["x"] == rows["y"] == [None] * 5


def test_a_table_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="cannot be written"):
        write_table(tmp_path / "gone" / "table.parquet", table_of(5, 3, tmp_path))
