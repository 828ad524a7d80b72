"""Digests by binary search."""

import numpy as np

from pipeline.data.images import DIGEST
from pipeline.features.digest_index import DigestIndex


def digests(*values: int) -> np.ndarray:
    return np.frombuffer(b"".join(value.to_bytes(16, "big") for value in values), DIGEST)


def test_digests_are_found_at_their_position() -> None:
    # 256 ends in a zero byte, which must not be treated as padding.
    index = DigestIndex(digests(9, 256, 1))
    assert index.find(digests(1, 2, 256, 9, 1, 2**127)).tolist() == [2, -1, 1, 0, 2, -1]
    index.add(digests(300, 0, 2))
    assert index.find(digests(0, 1, 2, 9, 256, 300)).tolist() == [4, 2, 5, 0, 1, 3]
    assert index.sorted.tolist() == digests(0, 1, 2, 9, 256, 300).tolist()


def test_an_empty_index_finds_nothing() -> None:
    index = DigestIndex(digests())
    assert index.find(digests(0, 5)).tolist() == [-1, -1]
    index.add(digests(5))
    assert (len(index), index.find(digests(0, 5)).tolist()) == (1, [-1, 0])


def test_many_random_digests() -> None:
    random = np.random.default_rng(0)
    known = np.frombuffer(random.bytes(16 * 500), DIGEST)
    index = DigestIndex(known[:200])
    for start in range(200, 500, 50):
        index.add(known[start : start + 50])
    order = random.permutation(500)
    assert np.array_equal(index.find(known[order]), order)
