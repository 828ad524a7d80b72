"""A table of every score that the summaries are made of: a row for each image and each dimension of each model.

The table is tidy, one observation a row, as R, pandas and mixed models take it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.atomic import atomic_write
from pipeline.evaluation.metrics import EvaluationSet, ScoredPredictions

if TYPE_CHECKING:
    import pyarrow as pa

TEXTS = ("model", "unit", "name", "label", "nearest")
COUNTS = ("fold", "n")
COLUMNS = (
    *("model", "unit", "name", "label", "fold", "n"),
    *("cosine", "centred_cosine", "rank", "nearest", "pattern", "identification"),  # of an image
    *("pearson", "r2", "pearson_of_ceiling", "reliability", "p", "q"),  # of a dimension
)


def write_scores(
    file: Path, scored: Mapping[str, ScoredPredictions], images: EvaluationSet, dimensions: Sequence[str]
) -> None:
    """Write the scores of N images and D dimensions for each model and baseline.

    A cell is null in a `.parquet` and empty in a `.csv` if the score is undefined or belongs to the other unit.

    Args:
        file: A `.parquet` or `.csv` file, replaced if it exists.
        scored: Name of a model or a baseline -> its scored predictions.
        images: The images.
        dimensions: The names of the dimensions, length D.

    Raises:
        PipelineError: The file cannot be written.
    """
    import pyarrow as pa
    from pyarrow.csv import CSVWriter
    from pyarrow.parquet import ParquetWriter

    kinds = dict.fromkeys(TEXTS, pa.string()) | dict.fromkeys(COUNTS, pa.int64())
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in COLUMNS])
    writer = CSVWriter if file.suffix.lower() == ".csv" else ParquetWriter
    with atomic_write(file) as unfinished, writer(unfinished, schema) as table:
        for model, scores in scored.items():
            table.write_table(_rows(schema, model, "image", images.paths, _of_images(scores, images)))
            table.write_table(_rows(schema, model, "dimension", dimensions, _of_dimensions(scores, images)))


def _of_images(scored: ScoredPredictions, images: EvaluationSet) -> dict[str, Any]:
    return {
        "label": list(map(_text, images.labels)),
        "fold": None if images.folds is None else images.folds + 1,
        "n": np.ones(len(images.paths), int),
        "cosine": scored.cosines,
        "centred_cosine": scored.centred_cosines,
        "rank": scored.retrieval.ranks,
        "nearest": [_text(images.candidates.names[number]) for number in scored.retrieval.nearest[:, 0]],
        "pattern": scored.patterns.pattern,
        "identification": scored.patterns.identification,
    }


def _of_dimensions(scored: ScoredPredictions, images: EvaluationSet) -> dict[str, Any]:
    scores, tests = scored.patterns.dimensions, scored.dimension_tests
    return {
        "n": np.full(len(scores.r2), len(images.paths)),
        "pearson": scores.pearson,
        "r2": scores.r2,
        "pearson_of_ceiling": scored.patterns.pearson_of_ceiling,
        "reliability": images.noise.reliability if images.noise else None,
        "p": tests.p if tests else None,
        "q": tests.q if tests else None,
    }


def _rows(schema: "pa.Schema", model: str, unit: str, names: Sequence[str], scores: Mapping[str, Any]) -> "pa.Table":
    """Rows for the images or the dimensions; NaN becomes null."""
    import pyarrow as pa

    count = len(names)
    columns = {"model": [_text(model)] * count, "unit": [unit] * count, "name": list(map(_text, names)), **scores}
    arrays = [
        pa.nulls(count, field.type)
        if columns.get(field.name) is None
        else pa.array(columns[field.name], field.type, from_pandas=True)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def _text(name: str) -> str:
    """A name; bytes of a file's name that are not UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()
