"""The Lance table of images, if a vector is unreadable."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import PipelineError
from pipeline.core.vectors import READ_AT_ONCE
from pipeline.export.lance_table import write_lance


class DamagedVectors:
    """Vectors with only the first block readable."""

    shape = (READ_AT_ONCE + 1, 8)
    dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        if rows.start:
            raise PipelineError("The vector changed on disk.")
        return np.ones((READ_AT_ONCE, 8), np.float32)


def test_a_damaged_vector_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    vectors = DamagedVectors()
    names = [str(number) for number in range(len(vectors))]
    with pytest.raises(PipelineError, match=r"^The vector changed on disk\.$"):
        write_lance(tmp_path / "images.lance", names, names, {"vector": vectors})
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="cannot be written"):
        write_lance(tmp_path / "gone" / "images.lance", ["a"], [""], {"vector": np.ones((1, 8), np.float32)})
