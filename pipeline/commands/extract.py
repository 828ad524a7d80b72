"""`extract`: images -> feature store, and a file of vectors where one is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.core.atomic import check_output_file
from pipeline.core.vector_files import SUFFIXES, write_vectors
from pipeline.core.vectors import in_blocks
from pipeline.data.images import ImageSet
from pipeline.features.extraction import ExtractionOptions, extract_features
from pipeline.features.extractor import Extractor
from pipeline.features.survey import Failure


@dataclass(frozen=True)
class ExtractResult:
    """The result of `extract`.

    Attributes:
        images: How many images there are.
        computed: How many features were computed now.
        cached: How many were in the store already.
        failed: The images that were skipped, with the cause.
        passed_over: Files of the folder that look like images, but whose format is not read.
        seconds: How long it took.
        seconds_starting: How much of that passed before the engine could begin.
        dim: The dimension of a feature.
        engine: The engine that computed, or None where nothing was left to compute.
        extractor: The extractor's fingerprint and description.
        store: The path of the feature store.
        out: The file that the vectors were written to, or None.
    """

    images: int
    computed: int
    cached: int
    failed: Sequence[Failure]
    passed_over: Sequence[str]
    seconds: float
    seconds_starting: float
    dim: int
    engine: str | None
    extractor: Mapping[str, str]
    store: str
    out: str | None

    def to_json(self) -> dict[str, Any]:
        """The `extract` document of the contract."""
        times = {name: round(getattr(self, name), 3) for name in ("seconds", "seconds_starting")}
        return {**asdict(self), **times, "images_per_second": round(self.images_per_second, 3)}

    @property
    def images_per_second(self) -> float:
        """The rate at which features were computed, without the start."""
        return self.computed / (self.seconds - self.seconds_starting) if self.computed else 0.0


def extract(
    images: ImageSet, extractor: Extractor, options: ExtractionOptions, out: Path | None = None
) -> ExtractResult:
    """Compute the features that the store lacks.

    Args:
        images: The images.
        extractor: What turns images into features.
        options: How to run it.
        out: A `.npz`, `.npy` or `.parquet` file to write the vectors to.

    Returns:
        What was computed, and what failed.

    Raises:
        RequestError: The vectors cannot be written to `out`.
        PipelineError: No image could be read, or the store, the weights or a worker failed.
    """
    if out:
        check_output_file(out, SUFFIXES, "out")
    features = extract_features(images, extractor, options)
    if out:
        write_vectors(out, "features", features.paths, in_blocks(features.stored()), extractor.dim)
    return ExtractResult(
        images=len(features.paths) + len(features.failed),
        computed=features.computed,
        cached=features.cached,
        failed=features.failed,
        passed_over=images.passed_over,
        seconds=features.seconds,
        seconds_starting=features.seconds_starting,
        dim=extractor.dim,
        engine=features.engine,
        extractor={"fingerprint": extractor.fingerprint, **extractor.description},
        store=str(features.store.path),
        out=str(out) if out else None,
    )
