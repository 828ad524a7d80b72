"""Target embeddings, read from tables, arrays and word vectors."""

import itertools
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipeline.core.errors import Parameter, RequestError
from pipeline.core.wording import counted, examples
from pipeline.data.images import ImageSet
from pipeline.data.table_files import SUFFIXES, read_table
from pipeline.data.tables import SPREADSHEETS, Row, Table, as_vector, cell_text, check_finite, split_name, without_dot
from pipeline.data.target_columns import TargetColumns, choose_columns
from pipeline.data.word_vectors import SUGGESTED, is_word_vectors, read_word_vectors

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TargetTable:
    """A table of target embeddings.

    Attributes:
        file: The file that it was read from.
        rows: Key (an image's path or label; in NFC if from a table) -> row number in `vectors`.
        vectors: The embeddings, shape (rows, D), float32.
        repeats: Key -> repeated measurements of its target, shape (R, D), if there are any; `vectors` has their mean.
        missing: A label of the images that the table lacks -> similar spellings in it; `read_targets` logged these.
        columns: The names of the D columns; empty if the table has no header, or a column of lists.
    """

    file: str
    rows: dict[str, int]
    vectors: np.ndarray
    repeats: Mapping[str, np.ndarray] = field(default_factory=dict)
    missing: Mapping[str, Sequence[str]] = field(default_factory=dict)
    columns: Sequence[str] = ()

    @property
    def dimensions(self) -> Sequence[str]:
        """The name of each dimension: its column, or else its number from 0."""
        dim = self.vectors.shape[1]
        return self.columns if len(self.columns) == dim else [str(number) for number in range(dim)]


def read_targets(
    file: str | Path | None, images: ImageSet, on_missing: str = "error", columns: str | None = None
) -> TargetTable:
    """Read the target embeddings of images.

    Args:
        file: The file; None for the targets in the images' own list. By suffix:

            `.csv` `.tsv`: rows of a key (a path or a label) and D numbers, with or without a header; see
            `pipeline.data.table_files.CsvTable`.
            `.parquet`: a column `path` or `label`, and a column of lists of D numbers or D columns of numbers.
            `.npz`: an array `paths` or `labels` (N,) and an array of N rows of D numbers.
            `.mat` `.h5` `.hdf5`: a variable or dataset with N rows of D numbers, and one with N names; without names,
            rows are in path order. BData of bdpy has a column for each key. FILE:NAME chooses the numbers.
            `.npy`: a row of D numbers for each image, in path order.
            `.txt` `.vec` `.glove` `.bin`, gzipped or not: word vectors, matched to the images' labels (see
            `pipeline.data.word_vectors`).
        images: The images.
        on_missing: What to do with rows without a key, and with labels that a file of word vectors lacks: "error", or
            "skip", with a warning.
        columns: The columns of the embedding in a table, such as "x,y" or "d*"; None to find them with
            `pipeline.data.target_columns.choose_columns`.

    Returns:
        The table; D is the same for all rows and every number is finite. If a key has several different rows, its
        vector is their mean, and `repeats` has the rows.

    Raises:
        RequestError: The file is missing, empty, damaged, of another kind, or declares more data than fits in memory; a
            row is ragged, not numeric, NaN, infinite or too large for float32 arithmetic; or repeats include their
            mean. The message names the line.
    """
    path, name = split_name(Path(file)) if file is not None else (Path(), None)
    if path.suffix.lower() in SUFFIXES:
        table, target_columns = _open(path, name, columns)
        targets = _read_table(table, target_columns, images, on_missing)
    elif columns:
        raise RequestError(Parameter("target_columns", columns), f" chooses columns of a table: {', '.join(SUFFIXES)}.")
    else:
        targets, target_columns = _read_other(file, images, on_missing), None
    count, dim = targets.vectors.shape
    names = f" ({_ends(target_columns.names)})" if target_columns and any(target_columns.names) else ""
    log.info("%s: %s of %s%s.", targets.file, counted(count, "target"), counted(dim, "dimension"), names)
    return targets


def _ends(names: Sequence[str]) -> str:
    """The first and last name, for a message."""
    return names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}"


def _read_other(file: str | Path | None, images: ImageSet, on_missing: str) -> TargetTable:
    """Read targets that are not in a table."""
    if file is None:
        if images.targets is None:
            raise RequestError(
                f"{images.source} has no column 'target'; name the target embeddings with ",
                Parameter("targets", "FILE"),
                ".",
            )
        rows = {path: row for row, path in enumerate(images.paths)}
        repeats = dict(zip(images.paths, images.repeats or (), strict=False))
        if repeated := {path: targets for path, targets in repeats.items() if len(targets) > 1}:
            _announce_repeats(images.source, repeated, len(repeats))
        return TargetTable(images.source, rows, images.targets, repeats)
    file = Path(file)
    if file.suffix.lower() == ".npy":
        return _read_npy(file, images)
    if is_word_vectors(file):
        return _read_words(file, images, on_missing)
    if file.suffix.lower() in SPREADSHEETS:
        raise RequestError(f"{file} is a spreadsheet; save its sheet as CSV (UTF-8).")
    raise RequestError(
        f"{file}: targets are read from {', '.join(SUFFIXES)} and .npy files, and from word vectors (.txt, .vec, "
        ".glove, .bin, gzipped or not)."
    )


def read_repeats(file: Path, columns: str | None = None) -> dict[str, np.ndarray]:
    """Read repeated measurements of targets, for the estimate of the noise ceiling.

    Args:
        file: A `.csv`, `.tsv`, `.parquet` or `.npz` table, see `read_targets`, in which a key (a path or a label) has a
            row for each measurement.
        columns: The columns of the embedding; see `read_targets`.

    Returns:
        Key -> its measurements, shape (R, D), float32.

    Raises:
        RequestError: See `read_targets`; or no key has two rows.
    """
    path, name = split_name(file)
    if path.suffix.lower() not in SUFFIXES:
        raise RequestError(f"{file}: repeated targets are read from {', '.join(SUFFIXES)} files.")
    table, target_columns = _open(path, name, columns)
    if target_columns.key is None:
        raise RequestError(f"{file}: repeated targets need a column of paths or labels.")
    repeats = _read_rows(table, target_columns, target_columns.key).measurements()
    if all(len(vectors) < 2 for vectors in repeats.values()):
        raise RequestError(f"{file}: no path or label has two rows; a noise ceiling needs repeated measurements.")
    return repeats


def _open(file: Path, name: str | None, columns: str | None) -> tuple[Table, TargetColumns]:
    """Open a table and choose its columns, by name or as `choose_columns` does."""
    if name and columns:
        raise RequestError(f"{file}:{name} names the embedding; leave out ", Parameter("target_columns", columns), ".")
    table = read_table(file)
    return table, choose_columns(table, name or columns)


def _read_table(table: Table, columns: TargetColumns, images: ImageSet, on_missing: str) -> TargetTable:
    """Read the rows of a table, by key or in the order of the images."""
    names = columns.names if all(columns.names) else ()
    if columns.key is not None:
        return replace(_read_rows(table, columns, columns.key, on_missing).table(), columns=names)
    vectors = [row.vector for row in table.rows([], columns.numbers)]
    return replace(_read_in_order(table.file, np.array(vectors), images), columns=names)


def _read_rows(table: Table, columns: TargetColumns, key_column: int, on_missing: str = "error") -> "_Rows":
    rows, skipped = _Rows(table.file), 0
    for row in table.rows([key_column], columns.numbers):
        key = cell_text(row.cells[0], row.where)
        if key is not None:
            rows.add(without_dot(key), row)
        elif on_missing == "skip":
            skipped += 1
        else:
            raise RequestError(f"{row.where}: this row has no path or label.")
    if skipped:
        log.warning("%s: left out %s without a path or label.", table.file, counted(skipped, "row"))
    return rows


class _Rows:
    """Collects the rows of a table, all of the same length.

    Args:
        file: The table.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._rows: dict[str, list[int]] = {}
        self._positions: list[str] = []
        self._vectors: list[np.ndarray] = []

    def add(self, key: str, row: Row) -> None:
        """Add a row."""
        vector = row.vector
        if vector is None or not len(vector):
            raise RequestError(f"{row.where}: the target of {key!r} has no numbers.")
        if self._vectors and len(vector) != len(self._vectors[0]):
            raise RequestError(
                f"{row.where}: {counted(len(vector), 'number')}, but {self._positions[0]} has {len(self._vectors[0])}; "
                "all targets must have the same dimension."
            )
        check_finite(vector, f"{row.where}: the target of {key!r}")
        self._rows.setdefault(key, []).append(len(self._vectors))
        self._vectors.append(vector)
        self._positions.append(row.where.rpartition(", ")[2])

    def measurements(self) -> dict[str, np.ndarray]:
        """All vectors of each key, shape (R, D)."""
        if not self._vectors:
            raise RequestError(f"{self.file}: this table contains no targets.")
        return {key: np.stack([self._vectors[row] for row in rows]) for key, rows in self._rows.items()}

    def table(self) -> TargetTable:
        """The table, with one row per key: the mean of its rows; rows that are not all equal are repeats."""
        measurements = self.measurements()
        repeated = {key: rows for key, rows in measurements.items() if (rows != rows[0]).any()}
        vectors = [rows.mean(axis=0) if key in repeated else rows[0] for key, rows in measurements.items()]
        rows = {key: row for row, key in enumerate(measurements)}
        if not repeated:
            return TargetTable(str(self.file), rows, np.stack(vectors))
        self._check_means(repeated)
        _announce_repeats(self.file, repeated, len(rows))
        return TargetTable(str(self.file), rows, np.stack(vectors), measurements)

    def _check_means(self, repeated: Mapping[str, np.ndarray]) -> None:
        """Refuse repeats that include their mean, that is, if every key with three or more rows has such a row."""
        several = {key: rows for key, rows in repeated.items() if len(rows) > 2}
        means = {key: row for key, rows in several.items() if (row := _mean_row(rows)) is not None}
        if means and len(means) == len(several) and next(iter(several.values())).shape[1] > 1:
            key, row = next(iter(means.items()))
            raise RequestError(
                f"{self.file}, {self._positions[self._rows[key][row]]}: this row of {key!r} is the mean of its other "
                "rows. Remove such rows; the mean of repeats is computed from the others."
            )


def _announce_repeats(file: str | Path, repeated: Mapping[str, np.ndarray], keys: int) -> None:
    """Log how several rows of a key are used; a warning if they are rare, and so perhaps a mistake."""
    counts = [len(rows) for rows in repeated.values()]
    log.log(
        logging.INFO if 2 * len(repeated) > keys else logging.WARNING,
        "%s: %d of %s have several different rows (up to %d), such as %s. They count as repeats: the target is their "
        "mean, and a noise ceiling is estimated if all evaluated images have repeats.",
        file,
        len(repeated),
        counted(keys, "key"),
        max(counts),
        examples(list(repeated), 3),
    )


def _mean_row(rows: np.ndarray) -> int | None:
    """The number of a row that is the mean of the others, shape (R, D); None if no row is."""
    others = (rows.sum(axis=0) - rows) / (len(rows) - 1)
    equal = np.isclose(rows, others, rtol=1e-5, atol=1e-6 * float(np.abs(rows).max())).all(axis=1)
    return int(equal.argmax()) if equal.any() else None


def _read_npy(file: Path, images: ImageSet) -> TargetTable:
    from pipeline.data.binary_tables import read_npy

    vectors = read_npy(file)
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        raise RequestError(
            f"{file}: targets in a .npy file must be N rows of D numbers, not {vectors.dtype} {vectors.shape}."
        )
    return _read_in_order(file, vectors, images)


def _read_in_order(file: Path, vectors: np.ndarray, images: ImageSet) -> TargetTable:
    """Targets without keys: a row for each image."""
    if len(vectors) != len(images):
        raise RequestError(
            f"{file} has {counted(len(vectors), 'row')}, but {images.source} has {counted(len(images), 'image')}: "
            "without paths, it needs a row for each image, in path order. If images are added or removed, use a table "
            "with their paths."
        )
    by_number = sorted(images.paths, key=_natural)
    if different := [pair for pair in zip(images.paths, by_number, strict=True) if pair[0] != pair[1]]:
        log.warning(
            "%s: its rows are matched in path order, which has %r where numeric order has %r.",
            file,
            *different[0],
        )
    if not vectors.size:
        raise RequestError(f"{file}: its targets have no numbers.")
    vectors = as_vector(vectors) if vectors.dtype != np.float32 else vectors  # wide targets are not copied
    for number, (path, vector) in enumerate(zip(images.paths, vectors, strict=True), 1):
        check_finite(vector, f"{file}, row {number}: the target of {path!r}")
    return TargetTable(str(file), {path: row for row, path in enumerate(images.paths)}, vectors)


def _natural(path: str) -> list[str]:
    """A sort key for paths that compares the numbers in them by value."""
    return [part.zfill(20) if part.isdigit() else part for part in re.split(r"(\d+)", path)]


def _read_words(file: Path, images: ImageSet, on_missing: str) -> TargetTable:
    labels = list(filter(None, images.labels))
    if not labels:
        raise RequestError(
            f"{images.source}: the images have no labels to look up in {file}. A label is the name of "
            "the folder that holds an image, or what ",
            Parameter("label_pattern", "REGEX"),
            " finds in its path.",
        )
    vectors, missing = read_word_vectors(file, labels)
    if missing:
        examples = [
            f"{label!r} (nearest: {', '.join(near)})" if near else repr(label)
            for label, near in itertools.islice(missing.items(), SUGGESTED)
        ]
        listed = "; ".join(examples) + ("; ..." if len(missing) > SUGGESTED else "")
        text = f"{file} has no vector for {len(missing)} of {counted(len(vectors) + len(missing), 'label')}: {listed}."
        if on_missing == "error" or not vectors:
            raise RequestError(
                f"{text} Rename them, or leave their images out with ", Parameter("on_missing", "skip"), "."
            )
        log.warning(text)
    rows = {label: row for row, label in enumerate(vectors)}
    return TargetTable(str(file), rows, np.stack(list(vectors.values())), missing=missing)
