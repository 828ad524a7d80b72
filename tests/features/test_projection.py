import numpy as np
import pytest
from sklearn.random_projection import SparseRandomProjection

from pipeline.core.errors import RequestError
from pipeline.features.projection import Projection

FEATURES = np.random.default_rng(0).random((5, 4000)).astype(np.float32)


def test_projection_matches_scikit_learn() -> None:
    expected = SparseRandomProjection(50, random_state=3).fit_transform(FEATURES)
    ours = Projection.parse("50:3")(FEATURES)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_projection_is_seeded() -> None:
    first = Projection(50)(FEATURES)
    assert np.array_equal(Projection.parse("50:0")(FEATURES), first)
    assert not np.allclose(Projection(50, 1)(FEATURES), first)


def test_distances_are_nearly_preserved() -> None:
    x, projected = FEATURES, Projection(2000)(FEATURES)
    for row in range(1, 5):
        before, after = np.linalg.norm(x[0] - x[row]), np.linalg.norm(projected[0] - projected[row])
        assert abs(after / before - 1) < 0.1


@pytest.mark.parametrize("text", ["", "0", "-5", "x", "5:", "5:-1", "100000"])
def test_other_projections_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is not DIM or DIM:SEED"):
        Projection.parse(text)
