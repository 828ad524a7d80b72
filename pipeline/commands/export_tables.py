"""`export` to tables: a run's images with vectors, predictions and scores, or images with their vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.commands.examples import Source, table_of_run
from pipeline.commands.options import ExportOptions
from pipeline.commands.saved_decoder import ModelFile, SavedDecoder, decoder_file
from pipeline.commands.scoring import labels_of, names_of
from pipeline.core.atomic import check_new_folder, check_output_file
from pipeline.core.errors import Parameter, RequestError
from pipeline.core.runs import RUN_FILE, SplitRecord
from pipeline.evaluation.retrieval import Candidates
from pipeline.export.embedding_table import EmbeddingTable, write_table
from pipeline.export.lance_table import write_lance
from pipeline.features.extraction import extract_features
from pipeline.features.features import Features
from pipeline.features.survey import Failure


@dataclass(frozen=True)
class TableResult:
    """The result of an export to a table.

    Attributes:
        source: The decoder file, or the source of the images.
        format: The format.
        out: The file or folder that was written.
        rows: The number of images in the table.
        computed: The number of features computed now.
        cached: The number of features already in the store.
        failed: The images that were skipped, with the cause.
        columns: Column of vectors -> its dimension.
    """

    source: str
    format: Literal["parquet", "lance"]
    out: str
    rows: int
    computed: int
    cached: int
    failed: Sequence[Failure]
    columns: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `export`, for a table."""
        return asdict(self)


def export_table(options: ExportOptions) -> TableResult:
    """Write a table of a run, or of images.

    Args:
        options: What to export, and where to; the format is one of `TABLES`.

    Returns:
        A summary of the table.

    Raises:
        RequestError: The decoder, the images or the output path cannot be used.
        PipelineError: No image could be read, the feature stage failed, or the table cannot be written.
    """
    return _export_run(options) if options.format == "parquet" else _export_images(options)


def _export_run(options: ExportOptions) -> TableResult:
    """Write the images of a run with their vectors, predictions and scores to a Parquet file."""
    out = options.out
    check_output_file(out, (".parquet",), "out")
    file = decoder_file(Path(options.source), options.api)
    run = ModelFile(file).run_with("images from.")
    table = table_of_run(run)
    decoder = SavedDecoder.open(file, table=table)
    source = Source.of_run(run, options.sources.data_dir, table=table)
    examples = source.load_examples(decoder.load().source, options.extraction)
    features = examples.features
    embeddings = EmbeddingTable(
        images=features.images,
        labels=labels_of(examples),
        splits=_sides(features, run.split),
        vectors=features.stored(),
        predictions=decoder.predictions(features),
        targets=examples.targets,
        candidates=Candidates(names_of(source.table, source.images)),
    )
    write_table(out, embeddings)
    columns = {"vector": features.dim, "prediction": decoder.dim}
    return _result(str(decoder.file), "parquet", out, features, columns)


def _sides(features: Features, split: SplitRecord) -> list[str | None]:
    """The side of the split of each image; None for images that are not in the run, or have changed since."""
    by_side = {"train": split.train, "selection": split.selection, "held-out": split.validation}
    sides = {(path, digest): side for side, images in by_side.items() for path, digest in images.items()}
    return [sides.get((path, key.hex())) for path, key in zip(features.paths, features.digests.tolist(), strict=True)]


def _export_images(options: ExportOptions) -> TableResult:
    """Write images with their labels and vectors to a Lance table, with a column for each layer."""
    if Path(options.source).suffix == ".keras" or (Path(options.source) / RUN_FILE).exists():
        raise RequestError(
            f"{options.source} is a run; ",
            Parameter("format", "lance"),
            " takes IMAGES. The table of a run is ",
            Parameter("format", "parquet"),
            ".",
        )
    out, images, extractors = options.out, options.sources.find(options.source), options.extractor.extractors()
    check_new_folder(out, "out", ".lance")
    features = extract_features(images, extractors, options.extraction)
    names = [extractor.layer for extractor in extractors] if len(extractors) > 1 else ["vector"]
    columns = dict(zip(names, features.by_layer(), strict=True))
    write_lance(out, features.paths, features.images.labels, columns)
    return _result(images.source, "lance", out, features, {name: vectors.shape[1] for name, vectors in columns.items()})


def _result(
    source: str, kind: Literal["parquet", "lance"], out: Path, features: Features, columns: Mapping[str, int]
) -> TableResult:
    return TableResult(
        source=source,
        format=kind,
        out=str(out),
        rows=len(features.paths),
        computed=features.computed,
        cached=features.cached,
        failed=features.failed,
        columns=columns,
    )
