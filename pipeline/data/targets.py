"""Target embeddings: read from the files that people have."""

import csv
import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.core.errors import RequestError, cause
from pipeline.core.wording import counted
from pipeline.data.csv_files import is_number, read_csv
from pipeline.data.images import ImageSet, as_text
from pipeline.data.word_vectors import NAMED, is_word_vectors, read_word_vectors

log = logging.getLogger(__name__)

KEYS = ("path", "label")
TABLES = (".csv", ".tsv", ".parquet", ".npz")
INDEX_NAMES = ("", "index", "unnamed: 0")  # of the column that pandas writes in front


@dataclass(frozen=True)
class TargetTable:
    """A table of target embeddings.

    Attributes:
        file: Where it was read from.
        rows: Key (an image's path, or a label) -> row number in `vectors`.
        vectors: The embeddings, shape (rows, D), float32.
        repeats: Key -> repeated measurements of its target, shape (R, D), where there are some; `vectors` has the mean.
        missing: Label of the images -> near spellings, where the table is known to lack it: `read_targets` said so.
    """

    file: str
    rows: dict[str, int]
    vectors: np.ndarray
    repeats: Mapping[str, np.ndarray] = field(default_factory=dict)
    missing: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_targets(file: str | Path | None, images: ImageSet, on_missing: str = "error") -> TargetTable:
    """Read the target embeddings of images.

    Args:
        file: Where they are; None for the targets that the images' own list brings along. By its name:

            `.csv` `.tsv`: rows of a key (a path or a label) and D numbers. A first row that begins with `path` or
            `label`, or whose second cell is not a number, is a header; so is the one that pandas writes, whose index
            may stand before the column `path` or `label`. See `pipeline.data.csv_files.read_csv`.
            `.parquet`: a column `path` or `label`, and one of lists of D numbers or D columns of numbers.
            `.npz`: an array `paths` or `labels` (N,) and one of N rows of D numbers.
            `.npy`: a row of D numbers for each image, in path order.
            `.txt` `.vec` `.glove` `.bin`, gzipped or not: word vectors, matched to the images' labels (see
            `pipeline.data.word_vectors`).
        images: The images.
        on_missing: What to do with labels that a file of word vectors lacks: "error", or "skip" them, named.

    Returns:
        The table; D is the same for all rows and every number is finite.

    Raises:
        RequestError: The file is missing, empty, damaged or of another kind; a row is ragged, not numeric, NaN or
            infinite; or two rows give one key different vectors. The message names the line.
    """
    if file is None:
        if images.targets is None:
            raise RequestError(f"{images.source} has no column 'target'; name the target embeddings with targets=FILE.")
        rows = {path: row for row, path in enumerate(images.paths)}
        repeats = dict(zip(images.paths, images.repeats or (), strict=False))
        return TargetTable(images.source, rows, images.targets, repeats)
    file = Path(file)
    if file.suffix.lower() == ".npy":
        return _read_npy(file, images)
    if is_word_vectors(file):
        return _read_words(file, images, on_missing)
    if file.suffix.lower() not in TABLES:
        raise RequestError(
            f"{file}: targets are read from .csv, .tsv, .parquet, .npz and .npy files, and from word vectors "
            "(.txt, .vec, .glove, .bin, gzipped or not)."
        )
    return _read_rows(_Rows(file)).table()


def read_repeats(file: Path) -> dict[str, np.ndarray]:
    """Read repeated measurements of targets, from which the noise ceiling is estimated.

    Args:
        file: A `.csv`, `.tsv`, `.parquet` or `.npz` table as `read_targets` reads it, in which a key (a path or a
            label) has a row for each measurement.

    Returns:
        Key -> its measurements, shape (R, D), float32.

    Raises:
        RequestError: As `read_targets`; or no key has two rows.
    """
    if file.suffix.lower() not in TABLES:
        raise RequestError(f"{file}: repeated targets are read from {', '.join(TABLES)} files.")
    repeats = _read_rows(_Rows(file, repeated=True)).measurements()
    if all(len(each) < 2 for each in repeats.values()):
        raise RequestError(f"{file}: no path or label has two rows; a noise ceiling needs repeated measurements.")
    return repeats


def _read_rows(rows: "_Rows") -> "_Rows":
    """Read a table of any of the formats TABLES."""
    readers = {".csv": _read_table, ".tsv": _read_table, ".parquet": _read_parquet, ".npz": _read_npz}
    readers[rows.file.suffix.lower()](rows)
    return rows


def _read_table(rows: "_Rows") -> None:
    file, key = rows.file, 0
    try:
        for line, cells in read_csv(file):
            if line == 1 and _is_header(cells):
                key = _key_column(cells)
            else:
                rows.add(as_text("".join(cells[key : key + 1])), _vector(cells[key:], f"{file}, line {line}"), line)
    except (OSError, UnicodeError, csv.Error) as error:
        raise RequestError(f"{file}: the targets cannot be read ({cause(error)}).") from error


class _Rows:
    """The rows of a table as they are read, all of one length.

    Args:
        file: The table.
        repeated: Whether a key may have several different vectors.
    """

    def __init__(self, file: Path, repeated: bool = False) -> None:
        self.file, self._repeated = file, repeated
        self._unit = "row" if file.suffix.lower() in (".parquet", ".npz", ".npy") else "line"
        self._rows: dict[str, list[int]] = {}
        self._numbers: list[int] = []
        self._vectors: list[np.ndarray] = []

    def add(self, key: str, vector: np.ndarray, number: int) -> None:
        """Add a row; `number` is where it stands."""
        where = f"{self.file}, {self._unit} {number}"
        if not key.strip():
            raise RequestError(f"{where}: no path or label stands before the numbers.")
        if self._vectors and len(vector) != len(self._vectors[0]):
            given, dim = counted(len(vector), "number"), len(self._vectors[0])
            raise RequestError(
                f"{where}: {given}, but {self._unit} {self._numbers[0]} has {dim}; "
                "all targets must have the same dimension."
            )
        if not np.isfinite(vector).all():
            raise RequestError(f"{where}: the target of {key!r} holds NaN or infinite values.")
        known = self._rows.setdefault(key, [])
        if known and not self._repeated:
            if not np.array_equal(self._vectors[known[0]], vector):
                line = self._numbers[known[0]]
                raise RequestError(f"{where}: {key!r} has another vector already on {self._unit} {line}.")
            return
        known.append(len(self._vectors))
        self._vectors.append(vector)
        self._numbers.append(number)

    def add_all(self, keys: Sequence[str], vectors: Iterable[np.ndarray]) -> None:
        """Add all rows of a table."""
        for number, (key, vector) in enumerate(zip(keys, vectors, strict=True), start=1):
            self.add(str(key), vector, number)

    def measurements(self) -> dict[str, np.ndarray]:
        """All vectors of each key, shape (R, D)."""
        if not self._vectors:
            raise RequestError(f"{self.file}: this table holds no targets.")
        return {key: np.stack([self._vectors[row] for row in rows]) for key, rows in self._rows.items()}

    def table(self) -> TargetTable:
        """All rows, one for each key."""
        vectors = [each[0] for each in self.measurements().values()]
        return TargetTable(str(self.file), {key: row for row, key in enumerate(self._rows)}, np.stack(vectors))


def _read_parquet(rows: _Rows) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    file = rows.file
    try:
        table = pyarrow.parquet.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise RequestError(f"{file}: the targets cannot be read ({error}).") from error
    key = next((name for name in KEYS if name in table.column_names), None)
    if key is None:
        raise RequestError(f"{file}: no column 'path' or 'label' (it has {', '.join(table.column_names)}).")
    rest = table.drop_columns([key])
    list_types = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    lists = [name for name in rest.column_names if any(is_type(rest[name].type) for is_type in list_types)]
    try:
        if lists:
            vectors = [np.array(values, np.float32) for values in rest[lists[0]].to_pylist()]
        else:
            vectors = list(np.column_stack([column.to_numpy().astype(np.float32) for column in rest.columns]))
    except (TypeError, ValueError) as error:
        raise RequestError(f"{file}: the targets are not all numbers ({error}).") from error
    if any(vector.ndim != 1 for vector in vectors):
        raise RequestError(f"{file}: the column {lists[0]!r} has rows without a list of numbers.")
    rows.add_all(table[key].to_pylist(), vectors)


def _load(file: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` or `.npy` file, by name; nothing is ever unpickled."""
    try:
        with open(file, "rb") as opened:
            loaded = np.load(opened, allow_pickle=False)
            return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"": loaded}
    except ValueError as error:
        if "pickle" in str(error).lower():
            raise RequestError(
                f"{file}: this file holds pickled Python objects, which could run code when they are read, so they are "
                "not. Save plain arrays of numbers and strings (dtype float32 and str)."
            ) from error
        raise RequestError(f"{file}: the targets cannot be read ({error}).") from error
    except Exception as error:  # NumPy's parsers raise many types for damaged files
        raise RequestError(f"{file}: the targets cannot be read ({cause(error)}).") from error


def _read_npz(rows: _Rows) -> None:
    file, arrays = rows.file, _load(rows.file)
    keys = next((arrays[name] for name in ("paths", "labels") if name in arrays), None)
    matrices = [name for name, array in arrays.items() if array.ndim == 2 and array.dtype.kind in "fiu"]
    if keys is None or keys.ndim != 1 or len(matrices) != 1:
        shapes = ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items())
        raise RequestError(
            f"{file}: an .npz of targets holds an array 'paths' or 'labels' of N names and one of N rows of numbers; "
            f"this one holds {shapes or 'nothing'}."
        )
    vectors = arrays[matrices[0]].astype(np.float32)
    if len(vectors) != len(keys):
        raise RequestError(f"{file}: {counted(len(keys), 'name')}, but {counted(len(vectors), 'row')} of numbers.")
    rows.add_all(keys.tolist(), list(vectors))


def _read_npy(file: Path, images: ImageSet) -> TargetTable:
    vectors = next(iter(_load(file).values()))
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        raise RequestError(
            f"{file}: an .npy of targets holds N rows of D numbers, not {vectors.dtype} {vectors.shape}."
        )
    if len(vectors) != len(images):
        raise RequestError(
            f"{file} has {counted(len(vectors), 'row')}, but {images.source} {counted(len(images), 'image')}: a .npy "
            "needs a row for each image, in path order. Where images come and go, use a table with their paths."
        )
    rows = _Rows(file)
    rows.add_all(images.paths, list(vectors.astype(np.float32)))
    return rows.table()


def _read_words(file: Path, images: ImageSet, on_missing: str) -> TargetTable:
    if not file.is_file():
        raise RequestError(f"{file}: the targets cannot be read (No such file or directory).")
    vectors, missing = read_word_vectors(file, images.labels)
    if missing:
        named = [
            f"{label!r} (nearest: {', '.join(near)})" if near else repr(label)
            for label, near in itertools.islice(missing.items(), NAMED)
        ]
        listed = "; ".join(named) + ("; ..." if len(missing) > NAMED else "")
        said = f"{file} has no vector for {len(missing)} of {counted(len(vectors) + len(missing), 'label')}: {listed}."
        if on_missing == "error" or not vectors:
            raise RequestError(f"{said} Rename them, or leave their images out with on_missing='skip'.")
        log.warning(said)
    rows = {label: row for row, label in enumerate(vectors)}
    return TargetTable(str(file), rows, np.stack(list(vectors.values())), missing=missing)


def _is_header(cells: Sequence[str]) -> bool:
    """Whether a first row is a header: `path` or `label` first, a second cell that is not a number, or pandas' own."""
    first, second = _name(cells, 0), _name(cells, 1)
    if first in KEYS or (second and not is_number(second)):
        return True
    return first in INDEX_NAMES and list(cells[1:]) == [str(number) for number in range(len(cells) - 1)]


def _key_column(header: Sequence[str]) -> int:
    """Where the keys are: in the first column, or behind an index."""
    return 1 if _name(header, 0) in INDEX_NAMES and _name(header, 1) in KEYS else 0


def _name(header: Sequence[str], column: int) -> str:
    return header[column].strip().lower() if column < len(header) else ""


def _vector(cells: Sequence[str], where: str) -> np.ndarray:
    if len(cells) < 2:
        raise RequestError(f"{where}: no numbers after {''.join(cells)!r}; is the table separated by commas?")
    try:
        vector = np.array(cells[1:], dtype=np.float32)
    except ValueError as error:
        raise RequestError(f"{where}: not a number ({error}).") from error
    return vector
