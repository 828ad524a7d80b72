"""Backends, which turn images into features: on this machine (`local.py`), or on a Ray cluster (`ray`)."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.data.images import ImageSet
from pipeline.features.backends.worker_process import Decoded

if TYPE_CHECKING:  # worker processes import this package without Lance
    from pipeline.features.store_group import StoreGroup


class Result(NamedTuple):
    """An image that was read, and its features.

    Attributes:
        image: The image.
        features: Its feature by each extractor, shape (dim,), float32; None if it was not computed, because the image
            failed, is already stored, or has the same content as an earlier one.
        thumbnail: Shape (THUMBNAIL, THUMBNAIL), uint8; None like `features`.
    """

    image: Decoded
    features: Sequence[np.ndarray] | None = None
    thumbnail: np.ndarray | None = None


class Backend(ABC):
    """Reads and decodes images, and computes their features.

    Attributes:
        engine: The name of the engine that ran; None if there was nothing to compute.
        device: What it ran on; None if there was nothing to compute.
        started_at: When the engine got its first batch, by `time.monotonic`; on Ray, when its first block came back.
        nodes: The number of nodes of the cluster, or None.
        actors: The number of actors on it, or None.
    """

    engine: str | None = None
    device: str | None = None
    started_at: float | None = None
    nodes: int | None = None
    actors: int | None = None

    @abstractmethod
    def results(
        self, images: ImageSet, unknown: Sequence[int], suspects: Sequence[int], stores: "StoreGroup"
    ) -> Generator[list[Result], None, None]:
        """Read images, and compute the features of those whose content the stores lack.

        Args:
            images: All images.
            unknown: The indices of the images to read.
            suspects: The indices of other images to read, those that crashed a process before.
            stores: The stores of the features.

        Yields:
            Lists of results, one for each image, in any order; new ones together, by batch.

        Raises:
            PipelineError: The engine, the workers or the cluster failed.
        """
