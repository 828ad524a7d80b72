"""Search with the vector index of a feature store; its candidates are ranked by their exact cosines."""

import numpy as np

from pipeline.core.nearest import TIE, find_rows
from pipeline.features.features import Features
from pipeline.features.vector_index import VectorIndex, build_index, open_index

QUERIES = 100  # images to measure the recall with
RECALL_AT = 10  # neighbours per image
OVERSAMPLING = 2, 4  # candidates per result at first, and the growth factor while there are too few results


class IndexedSearch:
    """A search among images with the index of their store, which is built if it does not exist.

    The store may contain other images, and the index may miss a neighbour. So the index returns more candidates than
    results, other images are dropped, and the rest are ranked by the cosines of the stored vectors: every result is one
    of the images, with its exact cosine.

    Args:
        features: The features of the images, by one layer.

    Attributes:
        recall: The share of true neighbours that the index found when it was built.

    Raises:
        PipelineError: The index cannot be built.
    """

    def __init__(self, features: Features) -> None:
        self._vectors = features.by_layer()[0]
        self._order = np.argsort(features.digests, kind="stable")
        self._digests = features.digests[self._order]
        self._index = open_index(features.store) or build_index(features.store, self._measure)
        self.recall = self._index.recall

    def find(self, query: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the images that are nearest to a query by cosine.

        Args:
            query: Shape (F,).
            count: The number of images to find.

        Returns:
            As `find_rows` for one query: row numbers and cosines, each of shape (min(count, N),).
        """
        return self._find(self._index, query, count)

    def _find(self, index: VectorIndex, query: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        count = min(count, len(self._digests))
        requested = OVERSAMPLING[0] * count
        while True:
            digests = index.nearest(query, requested)
            rows = self._rows(digests)
            if len(rows) >= count:
                break
            if len(digests) < requested:  # the searched partitions have no more vectors
                [rows], [cosines] = find_rows(query[None], self._vectors, count)
                return rows, cosines
            requested *= OVERSAMPLING[1]
        [nearest], [cosines] = find_rows(query[None], self._vectors[rows], count)
        return rows[nearest], cosines

    def _rows(self, digests: np.ndarray) -> np.ndarray:
        """The rows of all images with one of these digests, sorted."""
        starts, ends = (np.searchsorted(self._digests, digests, side) for side in ("left", "right"))
        rows = [self._order[start:end] for start, end in zip(starts, ends, strict=True)]
        return np.sort(np.concatenate([self._order[:0], *rows]))

    def _measure(self, index: VectorIndex) -> float:
        """The recall of an index: the share of the nearest neighbours of sampled images that it finds."""
        sample = np.sort(np.random.default_rng(0).permutation(len(self._digests))[:QUERIES])
        queries = self._vectors[sample]
        _, exact = find_rows(queries, self._vectors, RECALL_AT + 1)
        shares = []
        for row, query, true in zip(sample, queries, exact, strict=True):
            rows, cosines = self._find(index, query, RECALL_AT + 1)
            neighbours = cosines[rows != row][:RECALL_AT]
            shares.append((neighbours >= true[-1] - TIE).sum() / max(1, len(true) - 1))
        return float(np.mean(shares))
