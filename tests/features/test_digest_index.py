"""Digests by binary search."""

import numpy as np
import pytest

from pipeline.data.images import DIGEST
from pipeline.features import digest_index
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


def test_many_random_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest_index, "RECENT", 60)
    random = np.random.default_rng(0)
    known = np.frombuffer(random.bytes(16 * 500), DIGEST)
    index = DigestIndex(known[:200])
    for start in range(200, 500, 50):
        index.add(known[start : start + 50])
        index.merge()
    order = random.permutation(500)
    assert np.array_equal(index.find(known[order]), order)
    assert np.array_equal(index.sorted, np.sort(known))


def test_digests_added_during_a_merge_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest_index, "RECENT", 1)
    index = DigestIndex(digests(5, 9))
    index.add(digests(1, 7))
    merged = digest_index._Sorted.merged

    def slowly(large: digest_index._Sorted, recent: digest_index._Sorted) -> digest_index._Sorted:
        monkeypatch.undo()
        index.add(digests(3, 7, 0))
        return merged(large, recent)

    monkeypatch.setattr(digest_index._Sorted, "merged", slowly)
    index.merge()
    assert index.find(digests(5, 9, 1, 7, 3, 0, 2)).tolist() == [0, 1, 2, 3, 4, 6, -1]
    assert len(index) == 6
