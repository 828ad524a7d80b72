"""Engines: the ways to run VGG16. Each turns batches of pixels into features, and is one file in this folder."""

from typing import Protocol

import numpy as np

from pipeline.errors import RequestError
from pipeline.vgg16 import Extractor

ENGINES = ("auto", "keras")


class Engine(Protocol):
    """Runs one extractor.

    Attributes:
        name: As `--engine` names it.
        batch_size: How many images it takes at a time.
    """

    name: str
    batch_size: int

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Compute features.

        Args:
            pixels: RGB, shape (batch_size, 224, 224, 3), uint8. Always a full batch: with one shape for all calls, the
                feature of an image does not depend on how many others came with it.

        Returns:
            The features, shape (batch_size, dim), float32.
        """
        ...


def make_engine(name: str, extractor: Extractor, batch_size: int | None = None) -> Engine:
    """Make the engine that `--engine` names.

    Args:
        name: One of ENGINES; "auto" takes the fastest one for this machine.
        extractor: What to run.
        batch_size: Images in a batch; None leaves the choice to the engine.

    Returns:
        The engine, its weights read.

    Raises:
        RequestError: There is no such engine, or the weights cannot be read.
    """
    if name not in ENGINES:
        raise RequestError(f"--engine {name!r} is unknown; choose from {', '.join(ENGINES)}.")
    from pipeline.engines.keras import KerasEngine

    return KerasEngine(extractor, batch_size)
