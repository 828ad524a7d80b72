"""Append to a store five times, each time eight rows of this process and two rows that all processes append."""

import sys

import numpy as np

from pipeline.data.images import DIGEST
from pipeline.features.extractor import Extractor
from pipeline.features.store import FeatureStore
from pipeline.features.weights import weights_from

Batch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def rows(process: int, number: int) -> Batch:
    """The rows that a process appends: digests, vectors, thumbnails, sizes."""
    parts = [(process, 8), (99, 2)]
    made = [(np.random.default_rng([seed, number]), size) for seed, size in parts]
    digests = [np.frombuffer(random.bytes(16 * size), DIGEST) for random, size in made]
    vectors = [random.random((size, 512), np.float32) for random, size in made]
    return (
        np.concatenate(digests),
        np.concatenate(vectors),
        np.full((10, 24, 24), process, np.uint8),
        np.full(10, number),
    )


def main(cache: str, process: int) -> None:
    store = FeatureStore(cache, Extractor(weights_from("random:0"), "block5_pool"))
    for number in range(5):
        store.append(*rows(process, number))
        for earlier in range(number + 1):
            digests, vectors, *_ = rows(process, earlier)
            assert np.array_equal(store.features(digests), vectors)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
