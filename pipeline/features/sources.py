"""Sources of features: a network, or a table of another model's vectors."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.core.errors import ImageError
from pipeline.core.progress import progress_bar
from pipeline.data.feature_tables import FeatureTable, read_features
from pipeline.data.images import DIGEST, ImageRef, ImageSet
from pipeline.features.backends.slots import Slots
from pipeline.features.backends.worker_pool import WorkerPool
from pipeline.features.backends.worker_process import CHUNK, CHUNKS_AHEAD, shared_digests
from pipeline.features.extraction import extract_features, warn_of_failures
from pipeline.features.extractor import Extractor, describe, total_dim
from pipeline.features.features import Features, TableFeatures
from pipeline.features.options import ExtractionOptions, ExtractorOptions
from pipeline.features.survey import Failure


class FeatureSource(Protocol):
    """A source of features."""

    @property
    def description(self) -> dict[str, str]:
        """What the features depend on, for the model card."""
        ...

    @property
    def weights(self) -> str:
        """The `weights` option of a network; "" for a table."""
        ...

    @property
    def dim(self) -> int:
        """F, the dimension of a feature."""
        ...

    def features(self, images: ImageSet, options: ExtractionOptions, on_missing: str = "error") -> Features:
        """The features of images.

        Args:
            images: The images.
            options: How to run the feature stage.
            on_missing: What to do with images without a vector in the table: "error" or "skip".

        Raises:
            RequestError: Images have no vector in the table and `on_missing` is "error", or no image has one; or see
                `extract_features`.
            PipelineError: No image could be read; or see `extract_features`.
        """
        ...


@dataclass(frozen=True)
class NetworkSource:
    """A network, at one or several layers.

    Attributes:
        extractors: The extractor of each layer.
    """

    extractors: Sequence[Extractor]

    @property
    def description(self) -> dict[str, str]:
        """See `FeatureSource.description`."""
        return describe(self.extractors)

    @property
    def weights(self) -> str:
        """See `FeatureSource.weights`."""
        return self.extractors[0].weights.name

    @property
    def dim(self) -> int:
        """See `FeatureSource.dim`."""
        return total_dim(self.extractors)

    def features(self, images: ImageSet, options: ExtractionOptions, on_missing: str = "error") -> Features:
        """See `FeatureSource.features`."""
        return extract_features(images, self.extractors, options)


@dataclass(frozen=True)
class TableSource:
    """A table of vectors.

    Attributes:
        table: The table.
    """

    table: FeatureTable
    weights = ""

    @property
    def description(self) -> dict[str, str]:
        """See `FeatureSource.description`."""
        return {"table": self.table.file.name, "vectors": self.table.digest}

    @property
    def dim(self) -> int:
        """See `FeatureSource.dim`."""
        return self.table.dim

    def features(self, images: ImageSet, options: ExtractionOptions, on_missing: str = "error") -> Features:
        """See `FeatureSource.features`.

        If only the names of the images are known, the digest of an image is that of its vector, so that images with the
        same vector count as duplicates. Otherwise the images are read for their digests and thumbnails.
        """
        matched, rows = self.table.match(images, on_missing)
        images, vectors = images.subset(matched), self.table.vectors.subset(rows)
        if not images.refs[0].is_readable:
            return TableFeatures([], images, self.table.digests[rows], cached=len(images), values=vectors)
        contents = _read(images.refs, options)
        failed = [
            Failure(path, str(content))
            for path, content in zip(images.paths, contents, strict=True)
            if isinstance(content, ImageError)
        ]
        warn_of_failures(failed, images)
        readable = [row for row, content in enumerate(contents) if not isinstance(content, ImageError)]
        read = [content for content in contents if not isinstance(content, ImageError)]
        return TableFeatures(
            layers=[],
            images=images.subset(readable),
            digests=np.frombuffer(b"".join(digest for digest, _ in read), DIGEST),
            failed=failed,
            cached=len(read),
            values=vectors.subset(np.array(readable, np.intp)),
            thumbnails=np.stack([thumbnail for _, thumbnail in read]),
        )


def feature_source(options: ExtractorOptions) -> NetworkSource | TableSource:
    """The source of features that the options select.

    Raises:
        RequestError: The table cannot be read; or see `ExtractorOptions.extractors`.
    """
    return TableSource(read_features(options.features)) if options.features else NetworkSource(options.extractors())


def _read(refs: Sequence[ImageRef], options: ExtractionOptions) -> list[tuple[bytes, np.ndarray] | ImageError]:
    """The content digest and the thumbnail of each image, or why it cannot be read."""
    workers, known = min(options.worker_count, -(-len(refs) // CHUNK)), shared_digests(np.empty(0, DIGEST))
    slots = Slots(workers * CHUNK * CHUNKS_AHEAD)
    results: list[tuple[bytes, np.ndarray] | ImageError] = []
    with (
        contextlib.closing(WorkerPool(workers, known, slots, options.max_pixels, "squash")) as pool,
        progress_bar(len(refs), "image", "thumbnails", options.progress) as bar,
    ):
        for image in pool.decode(refs, range(len(refs))):
            thumbnail = slots.thumbnails[image.slot].copy()
            results.append(ImageError(image.error) if image.error else (image.digest, thumbnail))
            slots.give_back([image.slot])
            bar.update()
    return results
