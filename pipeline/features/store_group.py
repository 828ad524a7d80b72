"""The stores of several extractors that run in one pass, used like one store."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.features.store import FeatureStore


class StoreGroup:
    """Feature stores that are filled together: an image is stored if all of them have it.

    Args:
        stores: The stores, one per extractor.

    Attributes:
        stores: The stores.
        computed: Path of a store -> number of new features stored in it.
    """

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        self.stores = stores
        self.computed: Counter[Path | str] = Counter()

    @property
    def commit_cost(self) -> int:
        """See `FeatureStore`; all stores are in the same cache."""
        return self.stores[0].commit_cost

    @property
    def digests(self) -> np.ndarray:
        """The content digests of the images that all stores have, sorted, DIGEST."""
        first = self.stores[0].digests
        return first[self.contains(first)]

    def contains(self, digests: np.ndarray) -> np.ndarray:
        """Check which images all stores have; see `FeatureStore.contains`."""
        return np.logical_and.reduce([store.contains(digests) for store in self.stores])

    def pixel_counts(self, digests: np.ndarray) -> np.ndarray:
        """The sizes of stored images; see `FeatureStore.pixel_counts`."""
        return self.stores[0].pixel_counts(digests)

    def check(self, digests: np.ndarray) -> None:
        """Check the rows with the sizes of stored images; see `FeatureStore.check`."""
        self.stores[0].check(digests)

    def has_arrived(self, digest: bytes) -> bool:
        """Whether other processes have stored an image in all stores since these were opened."""
        return all(digest in store.arrived for store in self.stores)

    def append(
        self, digests: np.ndarray, features: Sequence[np.ndarray], thumbnails: np.ndarray, pixel_counts: np.ndarray
    ) -> None:
        """Store a batch, one store after the other; see `FeatureStore.append`.

        Args:
            digests: See `FeatureStore.append`.
            features: An array for each store.
            thumbnails: See `FeatureStore.append`.
            pixel_counts: See `FeatureStore.append`.

        Raises:
            PipelineError: A store cannot be written.
        """
        for store, vectors in zip(self.stores, features, strict=True):
            self.computed[store.path] += store.append(digests, vectors, thumbnails, pixel_counts)

    def merge(self) -> None:
        """Merge the small data files of all stores; see `FeatureStore.merge`."""
        for store in self.stores:
            store.merge()
