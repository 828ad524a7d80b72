"""Files of vectors: `.npz`, `.npy`, `.parquet`, `.csv` and `.h5`, written block by block, and `.mat`."""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipeline.core.atomic import atomic_write
from pipeline.core.errors import Parameter, RequestError
from pipeline.core.vectors import Vectors, in_blocks, rows_at_once

SUFFIXES = (".npz", ".npy", ".parquet", ".csv", ".h5", ".mat")
LARGEST_MAT = 2**31  # bytes of a variable in the format that SciPy writes

NAMES_AT_ONCE = 4096  # rows


@dataclass(frozen=True)
class NearestNames:
    """The K nearest names of each of N vectors, nearest first.

    Attributes:
        names: All names.
        numbers: Indices into `names`, shape (N, K), int32.
        cosines: Cosines between the names' vectors and the N vectors, shape (N, K), float32.
    """

    names: Sequence[str]
    numbers: np.ndarray
    cosines: np.ndarray

    def of(self, rows: slice) -> list[list[str]]:
        """The nearest names of a slice of the vectors."""
        return [[self.names[number] for number in row] for row in self.numbers[rows].tolist()]


def write_vectors(
    file: Path, name: str, paths: Sequence[str], vectors: Vectors, nearest: NearestNames | None = None
) -> None:
    """Write one vector per path, in the same order.

    Args:
        file: `.npz` gets `paths` (N,) str and `name` (N, F) float32; `.npy` only the vectors; `.parquet` the columns
            `path` and `vector`; `.csv` the columns `path` and `d0`, `d1`, ...; `.h5` and `.mat` the same as `.npz`,
            in a `.mat` with the paths as a cell array. An existing file is replaced.
        name: The name of the array in an `.npz`, `.h5` or `.mat`: "features" or "predictions".
        paths: N paths.
        vectors: The vectors, shape (N, F).
        nearest: Nearest names, written as `nearest` (N, K) str and `cosines` (N, K) float32; in a `.csv` as the
            columns `nearest1`, `cosine1`, `nearest2`, ...; left out of an `.npy`.

    Raises:
        RequestError: The vectors are too large for a `.mat`.
        PipelineError: The file cannot be written.
    """
    suffix = file.suffix.lower()
    if suffix == ".mat":
        _check_mat(file, vectors)
    with atomic_write(file) as unfinished:
        if suffix == ".npy":
            with open(unfinished, "wb") as stream:
                _stream_npy(stream, vectors)
        elif suffix == ".csv":
            _write_csv(unfinished, paths, vectors, nearest)
        elif suffix == ".parquet":
            _write_parquet(unfinished, paths, {"vector": vectors}, nearest)
        else:
            _writer(suffix)(unfinished, paths, {name: vectors}, nearest)


def write_layers(file: Path, paths: Sequence[str], layers: Mapping[str, Vectors]) -> None:
    """Write one vector per path and layer, in the order of the paths.

    Args:
        file: `.npz`, `.h5` and `.mat` get `paths` (N,) str and an array per layer, (N, F) float32; `.parquet` the
            column `path` and one per layer. An existing file is replaced.
        paths: N paths.
        layers: Name -> vectors, shape (N, F).

    Raises:
        PipelineError: The file cannot be written.
    """
    if file.suffix.lower() == ".mat":
        for vectors in layers.values():
            _check_mat(file, vectors)
    with atomic_write(file) as unfinished:
        _writer(file.suffix.lower())(unfinished, paths, layers)


def check_layers_fit(file: Path, count: int) -> None:
    """Refuse to write several layers to a file format that stores only one array.

    Raises:
        RequestError: There are several layers, and the file is an `.npy` or `.csv`.
    """
    if count > 1 and file.suffix.lower() in (".npy", ".csv"):
        raise RequestError(
            f"{file} would hold one array; for {count} layers name a .npz, .parquet, .h5 or .mat file with ",
            Parameter("out", "FILE"),
            ".",
        )


def as_lists(block: np.ndarray) -> Any:
    """Convert vectors, shape (n, F), to an Arrow array of fixed-size lists."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), block.shape[1])


def _writer(suffix: str) -> Callable[..., None]:
    """The function that writes several arrays to a file with a suffix."""
    return {".npz": _write_npz, ".parquet": _write_parquet, ".h5": _write_hdf5, ".mat": _write_mat}[suffix]


def _check_mat(file: Path, vectors: Vectors) -> None:
    """Refuse vectors that are too large for a `.mat`."""
    size = 4 * len(vectors) * vectors.shape[1]
    if size >= LARGEST_MAT:
        raise RequestError(
            f"{file}: a variable in a .mat must be below 2 GB, and the vectors have {size:,} bytes; name an .h5 file."
        )


def _write_mat(
    file: Path, paths: Sequence[str], arrays: Mapping[str, Vectors], nearest: NearestNames | None = None
) -> None:
    from scipy.io import savemat

    variables: dict[str, Any] = {"paths": _cells([[path] for path in paths])}
    variables |= {name.replace(":", "_"): vectors[:] for name, vectors in arrays.items()}
    if nearest:
        variables |= {"nearest": _cells(nearest.of(slice(None))), "cosines": nearest.cosines}
    with open(file, "wb") as stream:
        savemat(stream, variables)


def _cells(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """A MATLAB cell array, shape (N, K)."""
    cells = np.empty((len(texts), len(texts[0]) if texts else 1), object)
    for row, names in enumerate(texts):
        cells[row] = names
    return cells


def _write_hdf5(
    file: Path, paths: Sequence[str], arrays: Mapping[str, Vectors], nearest: NearestNames | None = None
) -> None:
    import h5py

    with h5py.File(file, "w", locking=False) as root:  # the unfinished file is already locked
        root.create_dataset("paths", data=_encoded(paths, _text_type(paths)))
        for name, vectors in arrays.items():
            dataset, start = root.create_dataset(name, tuple(vectors.shape), np.float32), 0
            for block in in_blocks(vectors):
                dataset[start : start + len(block)] = block
                start += len(block)
        if nearest:
            kind = _text_type(nearest.names)
            names = root.create_dataset("nearest", nearest.numbers.shape, kind)
            for start in range(0, len(names), NAMES_AT_ONCE):
                names[start : start + NAMES_AT_ONCE] = _encoded(nearest.of(slice(start, start + NAMES_AT_ONCE)), kind)
            root.create_dataset("cosines", data=nearest.cosines)


def _encoded(texts: Sequence[str] | Sequence[Sequence[str]], kind: np.dtype) -> np.ndarray:
    """Texts in UTF-8, as an HDF5 type."""
    return np.strings.encode(np.array(texts, str), "utf-8").astype(kind)


def _text_type(texts: Sequence[str]) -> np.dtype:
    """The HDF5 type for these texts, of fixed length: unlike variable length, it needs no heap in the file."""
    import h5py

    return h5py.string_dtype("utf-8", max(1, *(len(text.encode()) for text in texts)) if texts else 1)


def _write_npz(
    file: Path, paths: Sequence[str], arrays: Mapping[str, Vectors], nearest: NearestNames | None = None
) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open("paths.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, np.array(paths, dtype=str), allow_pickle=False)
        for name, vectors in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                _stream_npy(member, vectors)
        if nearest:
            with archive.open("nearest.npy", "w", force_zip64=True) as member:
                _stream_names(member, nearest)
            with archive.open("cosines.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, nearest.cosines, allow_pickle=False)


def _stream_names(stream: IO[bytes], nearest: NearestNames) -> None:
    dtype = np.array([nearest.names[number] for number in np.unique(nearest.numbers)], str).dtype
    header = {"descr": dtype.str, "fortran_order": False, "shape": nearest.numbers.shape}
    np.lib.format.write_array_header_1_0(stream, header)
    for start in range(0, len(nearest.numbers), NAMES_AT_ONCE):
        stream.write(np.array(nearest.of(slice(start, start + NAMES_AT_ONCE)), dtype).tobytes())


def _stream_npy(stream: IO[bytes], vectors: Vectors) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": tuple(vectors.shape)}
    np.lib.format.write_array_header_1_0(stream, header)
    for block in in_blocks(vectors):
        stream.write(block.astype("<f4", copy=False).tobytes())


def _write_parquet(
    file: Path, paths: Sequence[str], columns: Mapping[str, Vectors], nearest: NearestNames | None = None
) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    fields = [("path", pa.string())]
    fields += [(name, pa.list_(pa.float32(), vectors.shape[1])) for name, vectors in columns.items()]
    if nearest:
        fields += [("nearest", pa.list_(pa.string())), ("cosines", pa.list_(pa.float32()))]
    schema = pa.schema(fields)
    at_once = rows_at_once(sum(vectors.shape[1] for vectors in columns.values()))
    with ParquetWriter(file, schema) as writer:
        for start in range(0, len(paths), at_once):
            rows = slice(start, start + at_once)
            arrays = [as_lists(vectors[rows]) for vectors in columns.values()]
            if nearest:
                cosines = pa.array(nearest.cosines[rows].tolist(), pa.list_(pa.float32()))
                arrays += [pa.array(nearest.of(rows)), cosines]
            writer.write_table(pa.table([pa.array(paths[rows]), *arrays], schema=schema))


def _write_csv(file: Path, paths: Sequence[str], vectors: Vectors, nearest: NearestNames | None) -> None:
    import pyarrow as pa
    from pyarrow.csv import CSVWriter

    fields = [("path", pa.string()), *((f"d{number}", pa.float32()) for number in range(vectors.shape[1]))]
    count = nearest.numbers.shape[1] if nearest else 0
    for number in range(1, count + 1):
        fields += [(f"nearest{number}", pa.string()), (f"cosine{number}", pa.float32())]
    schema, at_once = pa.schema(fields), rows_at_once(vectors.shape[1])
    with CSVWriter(file, schema) as writer:
        for start in range(0, len(paths), at_once):
            rows = slice(start, start + at_once)
            columns = [pa.array(paths[rows], pa.string()), *np.ascontiguousarray(vectors[rows].T)]
            if nearest:
                for names, cosines in zip(zip(*nearest.of(rows), strict=True), nearest.cosines[rows].T, strict=True):
                    columns += [pa.array(names, pa.string()), np.ascontiguousarray(cosines)]
            writer.write_table(pa.table(columns, schema=schema))
