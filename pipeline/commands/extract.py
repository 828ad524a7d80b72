"""`extract`: images -> feature store, and optionally a file of vectors."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.commands.options import ExtractOptions
from pipeline.core.atomic import check_output_file
from pipeline.core.vector_files import SUFFIXES, check_layers_fit, write_layers, write_vectors
from pipeline.core.wording import counted
from pipeline.data.shards import Shard
from pipeline.features.extraction import extract_features
from pipeline.features.features import Features, LayerFeatures
from pipeline.features.survey import Failure

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtractResult:
    """The result of `extract`.

    Attributes:
        images: The number of images.
        computed: The number of images with a feature computed now.
        cached: The number of images with all features already in the stores.
        failed: The images that were skipped, with the cause.
        passed_over: Files in the folder that look like images but have an unsupported format.
        seconds: The duration.
        seconds_starting: The part of the duration before the engine started.
        dim: The dimension of the first (or only) layer's features.
        engine: The engine that ran, or None if there was nothing to compute.
        device: What the engine ran on: "cpu", or devices such as "gpu:0"; None if there was nothing to compute.
        extractor: The fingerprint and description of the first layer's extractor.
        store: The path of the first layer's feature store; each layer has one.
        layers: For each layer, its name as `layer`, and its `dim`, `computed`, `cached`, `extractor` and `store`.
        out: The file that the vectors were written to, or None.
        shard: The share of the images, such as "3/16"; None for all of them.
        nodes: The number of nodes of the Ray cluster, or None.
        actors: The number of actors on it, or None.
        complete: Whether all images of the source were read, in all of its subfolders.
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
    device: str | None
    extractor: Mapping[str, str]
    store: str
    layers: Sequence[Mapping[str, Any]]
    out: str | None
    shard: str | None = None
    nodes: int | None = None
    actors: int | None = None
    complete: bool = True

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `extract`."""
        times = {name: round(getattr(self, name), 3) for name in ("seconds", "seconds_starting")}
        values = {name: value for name, value in asdict(self).items() if name != "complete"}
        return {**values, **times, "images_per_second": round(self.images_per_second, 3)}

    @property
    def images_per_second(self) -> float:
        """The rate at which features were computed, excluding the time to start."""
        return self.computed / (self.seconds - self.seconds_starting) if self.computed else 0.0


def extract(options: ExtractOptions) -> ExtractResult:
    """Compute the features that are missing from the store.

    Args:
        options: The images, the features, and where to write them.

    Returns:
        The counts, the images that failed, and the timing.

    Raises:
        RequestError: The vectors cannot be written to `out`.
        PipelineError: No image could be read, or the store, the weights or a worker failed.
    """
    out, shard = options.out, Shard.parse(options.shard) if options.shard is not None else None
    extractors = options.extractor.extractors()
    if out:
        check_output_file(out, SUFFIXES, "out")
        check_layers_fit(out, len(extractors))
    source = options.sources.find(options.images)
    images = shard.select(source) if shard else source
    if shard:
        log.info("Shard %s: %s of %s.", shard, f"{len(images):,}", counted(len(source), "image"))
    features = extract_features(images, extractors, options.extraction, may_all_fail=shard is not None)
    if out:
        _write(out, features)
    layers = [_layer_document(layer, len(features.paths)) for layer in features.layers]
    return ExtractResult(
        images=len(features.paths) + len(features.failed),
        computed=features.computed,
        cached=features.cached,
        failed=features.failed,
        passed_over=images.passed_over,
        seconds=features.seconds,
        seconds_starting=features.seconds_starting,
        dim=layers[0]["dim"],
        engine=features.engine,
        device=features.device,
        extractor=layers[0]["extractor"],
        store=layers[0]["store"],
        layers=layers,
        out=str(out) if out else None,
        shard=str(shard) if shard else None,
        nodes=features.nodes,
        actors=features.actors,
        complete=not (features.failed or images.passed_over or source.unread),
    )


def _write(out: Path, features: Features) -> None:
    if len(features.layers) == 1:
        write_vectors(out, "features", features.paths, features.stored())
    else:
        names = [layer.extractor.layer for layer in features.layers]
        write_layers(out, features.paths, dict(zip(names, features.by_layer(), strict=True)))


def _layer_document(layer: LayerFeatures, images: int) -> dict[str, Any]:
    extractor = layer.extractor
    return {
        "layer": extractor.layer,
        "dim": extractor.dim,
        "computed": layer.computed,
        "cached": images - layer.computed,
        "extractor": {"fingerprint": extractor.fingerprint, **extractor.description},
        "store": str(layer.store.path),
    }
