import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from pipeline.core.vectors import (
    array_digest,
    cosines,
    in_blocks,
    moments,
    number_equal,
    slices,
    standard_deviations,
    unit,
    vector_digest,
)

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(600, 7)).astype(np.float32)
Y = (X + RANDOM.normal(size=X.shape)).astype(np.float32)


def test_blocks_cover_the_array_in_order() -> None:
    assert np.array_equal(np.concatenate(list(in_blocks(X, 256))), X)
    assert [len(block) for block in in_blocks(X, 256)] == [256, 256, 88]


@pytest.mark.parametrize("offset", [0, 1000])
def test_moments_match_the_whole_array(offset: float) -> None:
    x = X + np.float32(offset)
    mean, variance = moments(x)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(axis=0), rtol=1e-6)
    assert variance == pytest.approx(x.astype(np.float64).var(axis=0).mean(), rel=1e-6)


def test_standard_deviations_in_blocks_are_those_of_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "__defaults__", (2 * len(X),))
    np.testing.assert_allclose(standard_deviations(X), X.std(axis=0, dtype=np.float64), rtol=1e-12)


def test_cosines_match_scikit_learn() -> None:
    np.testing.assert_allclose(cosines(X, Y), np.diag(cosine_similarity(X, Y)), atol=1e-6)
    assert np.abs(cosines(X, X) - 1).max() < 1e-12
    assert cosines(X, X).max() <= 1


def test_the_cosine_of_a_zero_vector_is_0() -> None:
    assert cosines(np.zeros((1, 7)), X[:1])[0] == 0
    assert not unit(np.zeros((2, 3))).any()


@pytest.mark.parametrize("equal", [0, 16, 40, 41], ids=lambda equal: f"{equal} equal columns")
def test_equal_vectors_are_numbered_in_lexicographic_order(equal: int) -> None:
    """Vectors that differ in the first column, in later ones, or only in the last."""
    distinct = RANDOM.normal(size=(30, 42)).astype(np.float32)
    distinct[:, :equal] = distinct[0, :equal]
    vectors = np.concatenate([distinct, distinct[5:9], -0.0 * distinct[:1], 0.0 * distinct[:1]])
    assert np.array_equal(number_equal(vectors), np.unique(vectors, axis=0, return_inverse=True)[1].ravel())


def test_a_digest_is_of_the_numbers_in_order() -> None:
    assert array_digest(X[:, ::2]) == array_digest(X[:, ::2].copy()) != array_digest(X[::-1, ::2])


def test_equal_vectors_have_equal_digests() -> None:
    assert vector_digest(np.array([1.0, 0.0])) == vector_digest(np.array([1.0, -0.0], np.float32))
    assert vector_digest(np.array([1.0, 0.0])) != vector_digest(np.array([1.0, 1e-7]))
    assert len(vector_digest(X[0])) == 16
