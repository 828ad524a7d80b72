import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from pipeline.core import nearest
from pipeline.core.nearest import find_rows
from pipeline.core.vectors import unit

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("count", [1, 7, 600])
def test_rows_are_found_in_the_order_of_their_cosine(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "ROWS", 3)
    queries, vectors = RANDOM.normal(size=(5, 8)), RANDOM.normal(size=(600, 8)).astype(np.float32)
    rows, cosines = find_rows(queries, vectors, count)
    similarity = cosine_similarity(queries, vectors.astype(np.float64))
    assert np.array_equal(rows, np.argsort(-similarity, axis=1)[:, :count])
    assert np.allclose(cosines, np.take_along_axis(similarity, rows, axis=1))


@pytest.mark.parametrize("count", [5, 40, 300])
def test_the_first_of_equally_near_rows_is_found(count: int) -> None:
    vectors = np.eye(3, dtype=np.float32)[RANDOM.integers(0, 3, 600)]  # in three blocks; many are equal
    query = np.array([[3.0, 2.0, 1.0]])
    [rows], _ = find_rows(query, vectors, count)
    assert np.array_equal(rows, np.argsort(-(unit(query) @ unit(vectors).T)[0], kind="stable")[:count])


def test_fewer_rows_than_requested_are_all_found() -> None:
    [rows], [cosines] = find_rows(np.ones((1, 2)), np.array([[0, 0], [1, 1]], np.float32), 5)
    assert rows.tolist() == [1, 0]
    assert cosines.tolist() == pytest.approx([1, 0])
