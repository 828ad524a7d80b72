"""Vectors of another model, read from a table or an array with a row for each image."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.core.errors import Parameter, RequestError
from pipeline.core.vectors import ArrayRows, in_blocks, vector_digest
from pipeline.core.wording import counted, examples
from pipeline.data.image_names import image_set
from pipeline.data.images import DIGEST, ImageRef, ImageSet
from pipeline.data.labels import label_by_pattern
from pipeline.data.options import SourceOptions
from pipeline.data.table_files import HDF5, SUFFIXES, read_table
from pipeline.data.tables import LARGEST, Table, cell_text, find_column, split_name, without_dot
from pipeline.data.target_columns import choose_numbers, only_text
from pipeline.data.text_files import nfc

log = logging.getLogger(__name__)

COLUMNS = ("label", "group", "split")
NAMES = ("vector", "vectors", "feature", "features", "embedding", "embeddings")  # of several columns of lists


@dataclass(frozen=True)
class FeatureTable:
    """Vectors of another model.

    Attributes:
        file: The file.
        names: The path of each image, as in the file; None if it has none.
        vectors: The vectors, shape (N, F), finite; mapped or loaded, see `read_features`.
        digests: The digest of each vector, shape (N,), DIGEST.
        columns: The labels, groups and splits of the images, as far as the file has them.
    """

    file: Path
    names: Sequence[str] | None
    vectors: ArrayRows
    digests: np.ndarray
    columns: Mapping[str, Sequence[str | None]] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        """F, the dimension of a vector."""
        return self.vectors.shape[1]

    @property
    def digest(self) -> str:
        """The digest of all vectors."""
        return hashlib.blake2b(self.digests.tobytes(), digest_size=8).hexdigest()

    @property
    def images(self) -> ImageSet:
        """The images by name, in the order of the file; by row number if the file has no names."""
        names = self.names or [str(row) for row in range(len(self.vectors))]
        columns = {f"{name}s": column for name, column in self.columns.items()}
        return image_set(self.file, names, [ImageRef("")] * len(names), **columns)

    def match(self, images: ImageSet, on_missing: str = "error") -> tuple[np.ndarray, np.ndarray]:
        """Match images to vectors, by path; or by row, in path order, if the file has no names.

        Args:
            images: The images.
            on_missing: What to do with images without a vector: "error", or "skip", with a warning.

        Returns:
            The row numbers of the images that have a vector, and of their vectors, shape (N,) each.

        Raises:
            RequestError: Images have no vector and `on_missing` is "error", or no image has one.
        """
        if self.names is None:
            return self._match_rows(images)
        by_name = {name: row for row, name in enumerate(self.names)}
        by_name = {name.replace("\\", "/"): row for name, row in by_name.items()} | by_name
        rows = [
            next((by_name[name] for name in (path, nfc(path), ref.uri) if name in by_name), -1)
            for path, ref in zip(images.paths, images.refs, strict=True)
        ]
        matched = np.flatnonzero(np.array(rows) >= 0)
        self._check_missing(images, [path for path, row in zip(images.paths, rows, strict=True) if row < 0], on_missing)
        used = set(rows)
        if unused := [name for row, name in enumerate(self.names) if row not in used]:
            log.info("%s has %s without an image: %s.", self.file, counted(len(unused), "vector"), examples(unused))
        return matched, np.array(rows, np.intp)[matched]

    def _match_rows(self, images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
        if len(images) != len(self.vectors):
            raise RequestError(
                f"{self.file} has {counted(len(self.vectors), 'vector')} without names, but {images.source} has "
                f"{counted(len(images), 'image')}: it needs a row for each image, in path order, or a column 'path'."
            )
        rows = np.arange(len(images))
        return rows, rows

    def _check_missing(self, images: ImageSet, missing: Sequence[str], on_missing: str) -> None:
        if not missing:
            return
        names, count = self.names or (), counted(len(images), "image")
        if len(missing) == len(images):
            raise RequestError(
                f"{self.file} has no vector for any of the images, such as {missing[0]!r}; its paths begin with "
                f"{examples(names)}."
            )
        if on_missing == "error":
            raise RequestError(
                f"{self.file} has no vector for {len(missing)} of {count}: {examples(missing)}. Add their rows, or "
                "leave these images out with ",
                Parameter("on_missing", "skip"),
                ".",
            )
        log.warning("Left out %s without a vector: %s.", counted(len(missing), "image"), examples(missing))


class _Content(NamedTuple):
    """The paths, the other columns of text, and the vectors in a file."""

    names: Sequence[str] | None
    columns: Mapping[str, Sequence[str | None]]
    array: np.ndarray


def read_features(file: Path) -> FeatureTable:
    """Read the vectors of another model.

    Args:
        file: By suffix:

            `.csv` `.tsv` `.parquet` `.lance` `.npz` `.mat` `.h5` `.hdf5`: a table, see `read_table`, with a column of
            lists of F numbers or F columns of numbers and, optionally, `path`, `label`, `group` and `split`. A CSV file
            without a `path` or a `label` has the path in its first column.
            `.npy`: F numbers for each image, without names.

            FILE:NAME chooses one of several columns or variables. An `.npy` and a contiguous HDF5 dataset are mapped,
            not loaded.

    Returns:
        The table; different vectors of one path, such as trials of one stimulus, are averaged, and equal ones count
        once.

    Raises:
        RequestError: The file is missing, empty, damaged, of another kind, or declares more data than fits in memory; a
            vector has NaN, infinite or too large values; or vectors of one path differ in label, group or split.
    """
    file, name = split_name(file)
    suffix = file.suffix.lower()
    if suffix == ".npy":
        from pipeline.data.binary_tables import map_npy

        names, columns, array = _Content(None, {}, map_npy(file))
    elif suffix in SUFFIXES:
        names, columns, array = _read_table(read_table(file), name)
    else:
        raise RequestError(f"{file}: vectors are read from {', '.join((*SUFFIXES, '.npy'))} files.")
    if array.ndim != 2 or array.dtype.kind not in "fiu" or not array.shape[1]:
        raise RequestError(f"{file}: vectors are N rows of F numbers, not {array.dtype} {array.shape}.")
    if not len(array):
        raise RequestError(f"{file}: this array contains no vectors.")
    vectors = ArrayRows(array, np.arange(len(array)))
    digests = _digests(file, names, vectors)
    table = FeatureTable(file, names, vectors, digests, columns)
    log.info("%s: %s of %s.", file, counted(len(array), "vector"), counted(array.shape[1], "dimension"))
    return table if names is None else _without_doubles(table, names)


def _read_table(table: Table, name: str | None) -> _Content:
    """The paths, the other columns of text, and the vectors of a table."""
    path = find_column(table, "path")
    positions = {name: number for name in COLUMNS if (number := find_column(table, name)) is not None}
    if path is None and table.columns and table.columns[0].kind == "any" and "label" not in positions:
        path = 0
    if path is None and table.file.suffix.lower() in (".mat", *HDF5):
        path = only_text(table)
    numbers = choose_numbers(table, path, name, NAMES, (f" with {table.file.name}:NAME",))
    texts = ([] if path is None else [path]) + list(positions.values())
    cells, array = _read_columns(table, texts, numbers)
    if path is None:
        return _Content(None, dict(zip(positions, cells, strict=True)), array)
    names, *columns = cells
    if None in names:
        raise RequestError(f"{table.file}: row {names.index(None) + 1} has no path.")
    return _Content([without_dot(str(name)) for name in names], dict(zip(positions, columns, strict=True)), array)


def _read_columns(
    table: Table, texts: Sequence[int], numbers: Sequence[int]
) -> tuple[list[list[str | None]], np.ndarray]:
    """Columns of text, and the vectors in columns of numbers, shape (N, F)."""
    from pipeline.data.binary_tables import ArrayTable

    if isinstance(table, ArrayTable):
        array = table.matrix(numbers)
        rows = list(table.rows(texts, [])) if texts else []
        if texts and len(rows) != len(array):
            raise RequestError(
                f"{table.file}: {counted(len(rows), 'name')}, but {counted(len(array), 'row')} of numbers."
            )
        return [[cell_text(row.cells[column], row.where) for row in rows] for column in range(len(texts))], array
    cells: list[list[str | None]] = [[] for _ in texts]
    values, dim = bytearray(), 0
    for row in table.rows(texts, numbers):
        count = 0 if row.vector is None else len(row.vector)
        dim = dim or count
        if row.vector is None or not count or count != dim:
            others = f"; others have {dim}" if dim and count != dim else ""
            raise RequestError(f"{row.where}: the vector has {counted(count, 'number')}{others}.")
        values += row.vector.tobytes()
        for column, cell in zip(cells, row.cells, strict=True):
            column.append(cell_text(cell, row.where))
    return cells, np.frombuffer(values, np.float32).reshape(-1, dim) if dim else np.empty((0, 1), np.float32)


def _digests(file: Path, names: Sequence[str] | None, vectors: ArrayRows) -> np.ndarray:
    """The digest of each vector, shape (N,), DIGEST; an error if a number is not finite or too large."""
    digests: list[bytes] = []
    row = 0
    for block in in_blocks(vectors):
        wrong = ~(np.abs(block) <= LARGEST).all(axis=1)
        if wrong.any():
            row += int(wrong.argmax())
            named = f" ({names[row]!r})" if names else ""
            raise RequestError(
                f"{file}, row {row + 1}{named}: the vector contains NaN or infinite values, or numbers above "
                f"{LARGEST:g}."
            )
        digests += map(vector_digest, block)
        row += len(block)
    return np.frombuffer(b"".join(digests), DIGEST)


def _without_doubles(table: FeatureTable, names: Sequence[str]) -> FeatureTable:
    """The table with each path once, in the order of its first rows: equal rows count once, others are averaged."""
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows_of.setdefault(name, []).append(row)
    if len(rows_of) == len(names):
        return table
    first = np.array([rows[0] for rows in rows_of.values()], np.intp)
    columns = {name: [column[row] for row in first] for name, column in table.columns.items()}
    repeats = {name: rows for name, rows in rows_of.items() if (table.digests[rows] != table.digests[rows[0]]).any()}
    if not repeats:
        log.info("%s: left out %s of paths listed before.", table.file, counted(len(names) - len(first), "row"))
        return FeatureTable(table.file, list(rows_of), table.vectors.subset(first), table.digests[first], columns)
    _check_repeats(table, repeats)
    vectors = np.empty((len(first), table.dim), np.float32)
    for vector, (name, rows) in zip(vectors, rows_of.items(), strict=True):
        several = table.vectors[np.array(rows if name in repeats else rows[:1], np.intp)]
        vector[:] = several.mean(axis=0, dtype=np.float64)
    digests = np.frombuffer(b"".join(map(vector_digest, vectors)), DIGEST)
    return FeatureTable(table.file, list(rows_of), ArrayRows(vectors, np.arange(len(vectors))), digests, columns)


def _check_repeats(table: FeatureTable, repeats: Mapping[str, Sequence[int]]) -> None:
    """Log that rows are averaged, a warning if they are rare, and so perhaps a mistake; their texts must agree."""
    for column, cells in table.columns.items():
        for name, rows in repeats.items():
            if other := next((row for row in rows if cells[row] != cells[rows[0]]), None):
                raise RequestError(
                    f"{table.file}: {name!r} has different vectors in the rows {rows[0] + 1} and {other + 1}, which "
                    f"are averaged, but also {column}s {cells[rows[0]]!r} and {cells[other]!r}. Use one {column}."
                )
    names = len(set(table.names or ()))
    log.log(
        logging.INFO if 2 * len(repeats) > names else logging.WARNING,
        "%s: %d of %s have several different vectors (up to %d), such as %s. Repeats of a path are averaged.",
        table.file,
        len(repeats),
        counted(names, "path"),
        max(map(len, repeats.values())),
        examples(list(repeats), 3),
    )


def find_or_name(sources: SourceOptions, images: str | None, table: FeatureTable | None) -> ImageSet:
    """Find images, or take the names in a table of vectors.

    Args:
        sources: How to find images.
        images: The images; None for the names in the table.
        table: The vectors.

    Raises:
        RequestError: The images cannot be found, or there are neither images nor a table.
    """
    if images is not None:
        return sources.find(images)
    if table is None:
        raise RequestError("Name IMAGES, or a table of vectors with ", Parameter("features", "FILE"), ".")
    if sources.root:
        raise RequestError(
            Parameter("root", str(sources.root)), " sets the base folder of a list's paths; name a list as IMAGES."
        )
    return label_by_pattern(table.images, sources.label_pattern) if sources.label_pattern else table.images
