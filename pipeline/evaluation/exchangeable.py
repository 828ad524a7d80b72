"""Exchangeable units: which targets could as well belong to other images if a decoder had learned nothing.

Images that share a label or a group resemble each other, so their predictions do, too. Permuting targets image by image
would destroy that resemblance, and chance would look too small. So targets are permuted among clusters (labels, groups
or single images), the same ones that intervals generalize over:

- If all images of a cluster have the same target, such as the word vector of their label, the clusters' targets are
  permuted.
- Otherwise each cluster's targets stay together, in order, and are exchanged as a whole with those of another cluster
  with as many images (whole-block exchangeability; Winkler et al. 2015, "Multi-level block permutation", NeuroImage
  123). A cluster with a unique number of images keeps its targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from pipeline.core.vectors import vector_digest

FEWEST_DIFFERENT = 21  # permutations with different results; with fewer, no p-value is below 0.05


@dataclass(frozen=True)
class Units:
    """N images in U units; a permutation gives each unit the target of another one.

    Attributes:
        of_image: The unit of each image, shape (N,), int: its cluster if targets are constant within clusters, else
            the image itself.
        rows: An image of each unit, shape (U,), int.
        target: The number of each unit's target, shape (U,), int; equal targets have the same number.
        blocks: The units that are exchanged as a whole, an array for each size, shape (blocks, size), int.
        constant: Whether targets are constant within clusters.
        log_permutations: The logarithm of the number of different results of a permutation.
    """

    of_image: np.ndarray
    rows: np.ndarray
    target: np.ndarray
    blocks: Sequence[np.ndarray]
    constant: bool
    log_permutations: float

    @classmethod
    def of(cls, targets: np.ndarray, clusters: Sequence[str] | np.ndarray) -> "Units":
        """The units of images.

        Args:
            targets: Shape (N, D).
            clusters: The label or group of each image, length N.
        """
        _, target = np.unique([vector_digest(row) for row in targets], return_inverse=True)
        _, rows, cluster = np.unique(np.asarray(clusters), return_index=True, return_inverse=True)
        if (target == target[rows][cluster]).all():
            blocks = [np.arange(len(rows))[:, None]]
            return cls(cluster, rows, target[rows], blocks, True, _log_permutations(blocks, target[rows]))
        images = np.argsort(cluster, kind="stable")
        by_size: dict[int, list[np.ndarray]] = {}
        for block in np.split(images, np.cumsum(np.bincount(cluster))[:-1]):
            by_size.setdefault(len(block), []).append(block)
        blocks = [np.stack(same) for same in by_size.values()]
        every = np.arange(len(target))
        return cls(every, every, target, blocks, False, _log_permutations(blocks, target))

    @property
    def are_enough(self) -> bool:
        """Whether there are enough permutations for p < 0.05."""
        return self.log_permutations > np.log(FEWEST_DIFFERENT) - 1e-9

    @property
    def exchanged(self) -> int:
        """The number of clusters that can change their targets."""
        return sum(len(block) for block in self.blocks if len(block) > 1)

    def permutations(self, count: int, seed: int = 0) -> np.ndarray:
        """Random permutations: the unit that each unit gets its target from, shape (count, U), int32."""
        random = np.random.default_rng([seed, 5])
        sources = np.tile(np.arange(len(self.rows), dtype=np.int32), (count, 1))
        for block in self.blocks:
            for source in sources:
                source[block] = block[random.permutation(len(block))]
        return sources


def _log_permutations(blocks: Sequence[np.ndarray], target: np.ndarray) -> float:
    """The logarithm of the number of different assignments; blocks with equal targets are not told apart."""
    total = 0.0
    for block in blocks:
        _, equal = np.unique(target[block], axis=0, return_counts=True)
        total += gammaln(len(block) + 1) - gammaln(equal + 1).sum()
    return float(total)
