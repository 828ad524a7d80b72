from math import factorial

import numpy as np
import pytest

from pipeline.evaluation.exchangeable import Units

RANDOM = np.random.default_rng(0)


def test_common_targets_are_permuted_among_clusters_of_any_size() -> None:
    label = np.array([0, 0, 0, 1, 2, 2, 3, 4])
    units = Units.of(RANDOM.normal(size=(5, 3)).astype(np.float32)[label], [f"label {number}" for number in label])
    assert units.constant
    assert (units.of_image == label).all()
    assert units.exchanged == 5
    assert np.exp(units.log_permutations) == pytest.approx(factorial(5))
    sources = units.permutations(200)
    assert (np.sort(sources, axis=1) == np.arange(5)).all()
    assert len(np.unique(sources, axis=0)) > 80  # of 120


def test_targets_of_single_images_move_with_their_cluster() -> None:
    cluster = np.array(["a", "b", "a", "c", "b", "d", "e", "e", "c"])  # a, b, c and e have two images
    targets = np.arange(9.0)[:, None]
    units = Units.of(targets, cluster)
    assert not units.constant
    assert units.exchanged == 4
    assert np.exp(units.log_permutations) == pytest.approx(factorial(4))
    for source in units.permutations(50):
        moved = targets[source].ravel()
        assert moved[5] == 5  # alone of its size
        for name in "abce":
            rows = np.flatnonzero(cluster == name)
            [other] = set(cluster[moved[rows].astype(int)])
            assert moved[rows].tolist() == np.flatnonzero(cluster == other).tolist()  # in order


@pytest.mark.parametrize(
    ("targets", "clusters", "different"),
    [
        ([1, 2, 3], "abc", 6),
        ([1, 1, 2, 2, 3, 3], "aabbcc", 6),
        ([1, 1, 1, 1, 0, 0, 0, 0], "abcdefgh", 70),  # equal targets are not told apart
        ([1, 2, 1, 2, 1, 2], "aabbcc", 1),  # every group has the same targets
        ([1, 2, 3, 4, 5, 6], "aabccc", 1),  # no two of the same size
        ([1, 1, 1], "abc", 1),
    ],
)
def test_different_permutations_are_counted(targets: list[int], clusters: str, different: int) -> None:
    units = Units.of(np.array(targets, np.float32)[:, None], list(clusters))
    assert np.exp(units.log_permutations) == pytest.approx(different)
    assert units.are_enough == (different > 20)


def test_more_than_twenty_permutations_are_enough() -> None:
    """Six clusters with two different targets: 6! / (3! 3!) = 20; four clusters: 4! = 24."""
    assert not Units.of(np.repeat([[0.0], [1.0]], 3, axis=0), list("abcdef")).are_enough
    assert Units.of(np.arange(4.0)[:, None], list("abcd")).are_enough
