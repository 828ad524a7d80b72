"""The features of a set of images, in the feature stores of one or several layers."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from pipeline.core.vectors import ArrayRows, moments
from pipeline.data.images import ImageSet
from pipeline.data.near_duplicates import find_near_duplicates
from pipeline.features.extractor import Extractor, total_dim
from pipeline.features.store import FeatureStore
from pipeline.features.survey import Failure


@dataclass(frozen=True)
class LayerFeatures:
    """The features by one layer: their extractor, their store, and the number computed now."""

    extractor: Extractor
    store: FeatureStore
    computed: int


@dataclass
class Features:
    """The features of a set of images, by one layer or several concatenated ones; the vectors stay on disk.

    Attributes:
        layers: The layers.
        images: The images that have a feature, in path order.
        digests: Their content digests, in the same order, shape (N,), DIGEST.
        failed: The images that could not be read.
        computed: The number of images with a vector computed now.
        cached: The number of images with all vectors already in the stores, or shared with a duplicate.
        seconds: The duration of the stage.
        seconds_starting: The part of it before the engine started: starting the workers, converting the network,
            decoding the first batch.
        engine: The engine that ran, or None if there was nothing to compute.
        device: What it ran on, or None.
        scales: The divisor of each layer's features if there are several layers; empty if all are 1.
        nodes: The number of nodes of the Ray cluster, or None.
        actors: The number of actors on it, or None.
    """

    layers: Sequence[LayerFeatures]
    images: ImageSet
    digests: np.ndarray
    failed: list[Failure] = field(default_factory=list)
    computed: int = 0
    cached: int = 0
    seconds: float = 0.0
    seconds_starting: float = 0.0
    engine: str | None = None
    device: str | None = None
    scales: Sequence[float] = ()
    nodes: int | None = None
    actors: int | None = None

    @property
    def store(self) -> FeatureStore:
        """The store of the first layer, which has everything that does not depend on the layer."""
        return self.layers[0].store

    @property
    def dim(self) -> int:
        """F, the dimension of a feature."""
        return total_dim([layer.extractor for layer in self.layers])

    @property
    def bands(self) -> dict[str, int]:
        """Layer -> the number of its features, in order."""
        return {layer.extractor.layer: layer.extractor.dim for layer in self.layers}

    @property
    def paths(self) -> Sequence[str]:
        """The names of the images that have a feature."""
        return self.images.paths

    def subset(self, rows: Sequence[int] | np.ndarray) -> Self:
        """The features of the images in some rows."""
        return dataclasses.replace(
            self, images=self.images.subset(rows), digests=self.digests[np.asarray(rows, np.intp)]
        )

    def of_layer(self, number: int) -> Self:
        """The features by one of several layers, unscaled."""
        return dataclasses.replace(self, layers=[self.layers[number]], scales=())

    def number_duplicates(self, progress: bool = False) -> np.ndarray:
        """A number for each image, shape (N,), int; near-duplicates share a number.

        Args:
            progress: Whether to show a progress bar on stderr.
        """
        return find_near_duplicates(self.digests, self.store.thumbnails, progress)

    def by_layer(self) -> list["StoredFeatures"]:
        """The vectors by each layer, as they are stored."""
        return [
            StoredFeatures(layer.store, layer.store.rows(self.digests), layer.extractor.dim) for layer in self.layers
        ]

    def stored(self) -> "StoredFeatures | ConcatenatedFeatures | ArrayRows":
        """The vectors, read from disk on access."""
        parts = self.by_layer()
        return parts[0] if len(parts) == 1 else ConcatenatedFeatures(parts, self.scales or [1.0] * len(parts))

    def scaled_by(self, rows: np.ndarray) -> Self:
        """These features; each of several layers is divided by the root of its mean variance over some rows."""
        if len(self.layers) == 1:
            return self
        variances = [moments(part.subset(rows))[1] for part in self.by_layer()]
        return dataclasses.replace(self, scales=[math.sqrt(variance) or 1.0 for variance in variances])

    def vectors(self) -> np.ndarray:
        """All vectors at once, shape (len(paths), dim), float32."""
        return self.stored()[:]


@dataclass
class TableFeatures(Features):
    """Vectors of another model as the features of images, without layers or a store.

    Attributes:
        values: The vectors, in the order of the images, shape (N, F).
        thumbnails: The thumbnails of the images, shape (N, THUMBNAIL, THUMBNAIL), uint8; None if only the names of the
            images are known (their digests are then those of the vectors).
    """

    values: ArrayRows = field(kw_only=True)
    thumbnails: np.ndarray | None = None

    @property
    def dim(self) -> int:
        """F, the dimension of a feature."""
        return self.values.shape[1]

    def subset(self, rows: Sequence[int] | np.ndarray) -> Self:
        """The features of the images in some rows."""
        rows = np.asarray(rows, np.intp)
        thumbnails = None if self.thumbnails is None else self.thumbnails[rows]
        return dataclasses.replace(super().subset(rows), values=self.values.subset(rows), thumbnails=thumbnails)

    def number_duplicates(self, progress: bool = False) -> np.ndarray:
        """See `Features.number_duplicates`; without thumbnails, only images with the same vector share a number."""
        _, first, of_image = np.unique(self.digests, return_index=True, return_inverse=True)
        if self.thumbnails is None:
            return of_image
        thumbnails = self.thumbnails[first]
        return find_near_duplicates(self.digests, lambda _: thumbnails, progress)

    def stored(self) -> ArrayRows:
        """The vectors, read on access."""
        return self.values

    def scaled_by(self, rows: np.ndarray) -> Self:
        """These features; there are no layers to scale."""
        return self


@dataclass(frozen=True)
class StoredFeatures:
    """Features on disk, read like an array: `stored[rows]`.

    Attributes:
        store: The feature store.
        rows: The row of each feature in the store, shape (N,).
        dim: F, the dimension of a feature.
    """

    store: FeatureStore
    rows: np.ndarray
    dim: int

    @property
    def shape(self) -> tuple[int, int]:
        """(N, F)."""
        return len(self.rows), self.dim

    @property
    def dtype(self) -> np.dtype:
        """float32."""
        return np.dtype(np.float32)

    def subset(self, rows: np.ndarray) -> "StoredFeatures":
        """Some of the rows, still on disk."""
        return dataclasses.replace(self, rows=self.rows[rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.store.take(self.rows[rows])


@dataclass(frozen=True)
class ConcatenatedFeatures:
    """Features of the same images by several layers, concatenated when they are read from disk.

    Attributes:
        parts: The features by each layer, shape (N, F).
        scales: The divisor of each layer's features.
    """

    parts: Sequence[StoredFeatures]
    scales: Sequence[float]

    @property
    def shape(self) -> tuple[int, int]:
        """(N, F), where F is the sum over the layers."""
        return len(self), sum(part.shape[1] for part in self.parts)

    @property
    def dtype(self) -> np.dtype:
        """float32."""
        return np.dtype(np.float32)

    def subset(self, rows: np.ndarray) -> "ConcatenatedFeatures":
        """Some of the rows, still on disk."""
        return dataclasses.replace(self, parts=[part.subset(rows) for part in self.parts])

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        pairs = zip(self.parts, self.scales, strict=True)
        return np.concatenate([part[rows] / np.float32(scale) for part, scale in pairs], axis=1)
