"""Vectors as files: `.npz`, `.npy` or `.parquet`, written a block at a time."""

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.core.atomic import atomic_write

SUFFIXES = (".npz", ".npy", ".parquet")


NAMES_AT_ONCE = 4096  # rows


@dataclass(frozen=True)
class NearestNames:
    """The K names whose vectors are nearest to each of N others, the nearest first.

    Attributes:
        names: All names.
        numbers: Which of them, shape (N, K), int32.
        cosines: Their cosines, shape (N, K), float32.
    """

    names: Sequence[str]
    numbers: np.ndarray
    cosines: np.ndarray

    def of(self, rows: slice) -> list[list[str]]:
        """The names that are nearest to some of the vectors."""
        return [[self.names[number] for number in row] for row in self.numbers[rows].tolist()]


def write_vectors(
    file: Path,
    name: str,
    paths: Sequence[str],
    blocks: Iterable[np.ndarray],
    dim: int,
    nearest: NearestNames | None = None,
) -> None:
    """Write one vector for each path, in the order given.

    Args:
        file: `.npz` holds `paths` (N,) str and `name` (N, dim) float32; `.npy` the vectors alone; `.parquet` the
            columns `path` and `vector`. An existing file is replaced.
        name: The name of the array in an `.npz`: "features" or "predictions".
        paths: N paths.
        blocks: The vectors, as consecutive arrays of shape (n, dim), float32, N rows in all.
        dim: Their dimension.
        nearest: What to write beside them, as `nearest` (N, K) str and `cosines` (N, K) float32; not into an `.npy`.

    Raises:
        PipelineError: The file cannot be written.
    """
    with atomic_write(file) as unfinished:
        if file.suffix.lower() == ".npz":
            _write_npz(unfinished, name, paths, blocks, dim, nearest)
        elif file.suffix.lower() == ".npy":
            with open(unfinished, "wb") as opened:
                _stream_npy(opened, blocks, (len(paths), dim))
        else:
            _write_parquet(unfinished, paths, blocks, dim, nearest)


def _write_npz(
    file: Path, name: str, paths: Sequence[str], blocks: Iterable[np.ndarray], dim: int, nearest: NearestNames | None
) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open("paths.npy", "w") as member:
            np.lib.format.write_array(member, np.array(paths, dtype=str), allow_pickle=False)
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            _stream_npy(member, blocks, (len(paths), dim))
        if nearest:
            with archive.open("nearest.npy", "w", force_zip64=True) as member:
                _stream_names(member, nearest)
            with archive.open("cosines.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, nearest.cosines, allow_pickle=False)


def _stream_names(opened: IO[bytes], nearest: NearestNames) -> None:
    dtype = np.array([nearest.names[number] for number in np.unique(nearest.numbers)], str).dtype
    header = {"descr": dtype.str, "fortran_order": False, "shape": nearest.numbers.shape}
    np.lib.format.write_array_header_1_0(opened, header)
    for start in range(0, len(nearest.numbers), NAMES_AT_ONCE):
        opened.write(np.array(nearest.of(slice(start, start + NAMES_AT_ONCE)), dtype).tobytes())


def _stream_npy(opened: IO[bytes], blocks: Iterable[np.ndarray], shape: tuple[int, int]) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(opened, header)
    for block in blocks:
        opened.write(block.astype("<f4", copy=False).tobytes())


def _write_parquet(
    file: Path, paths: Sequence[str], blocks: Iterable[np.ndarray], dim: int, nearest: NearestNames | None
) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = pa.schema([("path", pa.string()), ("vector", pa.list_(pa.float32(), dim))])
    if nearest:
        schema = schema.append(pa.field("nearest", pa.list_(pa.string())))
        schema = schema.append(pa.field("cosines", pa.list_(pa.float32())))
    with ParquetWriter(file, schema) as writer:
        start = 0
        for block in blocks:
            rows = slice(start, start := start + len(block))
            columns = [pa.array(paths[rows]), pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), dim)]
            if nearest:
                columns += [
                    pa.array(nearest.of(rows)),
                    pa.array(nearest.cosines[rows].tolist(), pa.list_(pa.float32())),
                ]
            writer.write_table(pa.table(columns, schema=schema))
