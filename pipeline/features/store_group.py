"""The stores of several extractors that run in one pass, used as if they were one."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.features.store import FeatureStore


class StoreGroup:
    """Feature stores that are filled together: an image is stored when all of them have it.

    Args:
        stores: The stores, one for each extractor.

    Attributes:
        stores: The stores.
        computed: By the path of a store, how many features it was given that it lacked.
    """

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        self.stores = stores
        self.computed: Counter[Path | str] = Counter()

    @property
    def commit_cost(self) -> int:
        """See `FeatureStore`; all stores lie in the same cache."""
        return self.stores[0].commit_cost

    @property
    def digests(self) -> np.ndarray:
        """The content digests of the images that all stores have, sorted, DIGEST."""
        first = self.stores[0].digests
        return first[self.contains(first)]

    def contains(self, digests: np.ndarray) -> np.ndarray:
        """Whether all stores have an image; as `FeatureStore.contains`."""
        return np.logical_and.reduce([store.contains(digests) for store in self.stores])

    def pixel_counts(self, digests: np.ndarray) -> np.ndarray:
        """The sizes of stored images; see `FeatureStore.pixel_counts`."""
        return self.stores[0].pixel_counts(digests)

    def check(self, digests: np.ndarray) -> None:
        """Check the rows that hold the sizes of stored images; see `FeatureStore.check`."""
        self.stores[0].check(digests)

    def has_arrived(self, digest: bytes) -> bool:
        """Whether other processes have stored an image in all stores since these were opened."""
        return all(digest in store.arrived for store in self.stores)

    def append(
        self, digests: np.ndarray, features: Sequence[np.ndarray], thumbnails: np.ndarray, pixel_counts: np.ndarray
    ) -> None:
        """Store a batch, one store after the other; see `FeatureStore.append`.

        Args:
            digests: See there.
            features: An array for each store.
            thumbnails: See there.
            pixel_counts: See there.

        Raises:
            PipelineError: A store cannot be written.
        """
        for store, each in zip(self.stores, features, strict=True):
            lacking = int((~store.contains(digests)).sum())
            store.append(digests, each, thumbnails, pixel_counts)
            self.computed[store.path] += lacking
