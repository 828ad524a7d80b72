"""Vectors as files: `.npz`, `.npy` or `.parquet`, written a block at a time."""

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.core.atomic import atomic_write

SUFFIXES = (".npz", ".npy", ".parquet")


def write_vectors(file: Path, name: str, paths: Sequence[str], blocks: Iterable[np.ndarray], dim: int) -> None:
    """Write one vector for each path, in the order given.

    Args:
        file: `.npz` holds `paths` (N,) str and `name` (N, dim) float32; `.npy` the vectors alone; `.parquet` the
            columns `path` and `vector`. An existing file is replaced.
        name: The name of the array in an `.npz`: "features" or "predictions".
        paths: N paths.
        blocks: The vectors, as consecutive arrays of shape (n, dim), float32, N rows in all.
        dim: Their dimension.

    Raises:
        PipelineError: The file cannot be written.
    """
    with atomic_write(file) as unfinished:
        if file.suffix.lower() == ".npz":
            _write_npz(unfinished, name, paths, blocks, dim)
        elif file.suffix.lower() == ".npy":
            with open(unfinished, "wb") as opened:
                _stream_npy(opened, blocks, (len(paths), dim))
        else:
            _write_parquet(unfinished, paths, blocks, dim)


def _write_npz(file: Path, name: str, paths: Sequence[str], blocks: Iterable[np.ndarray], dim: int) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open("paths.npy", "w") as member:
            np.lib.format.write_array(member, np.array(paths, dtype=str), allow_pickle=False)
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            _stream_npy(member, blocks, (len(paths), dim))


def _stream_npy(opened: IO[bytes], blocks: Iterable[np.ndarray], shape: tuple[int, int]) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(opened, header)
    for block in blocks:
        opened.write(block.astype("<f4", copy=False).tobytes())


def _write_parquet(file: Path, paths: Sequence[str], blocks: Iterable[np.ndarray], dim: int) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = pa.schema([("path", pa.string()), ("vector", pa.list_(pa.float32(), dim))])
    with ParquetWriter(file, schema) as writer:
        start = 0
        for block in blocks:
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), dim)
            writer.write_table(pa.table([pa.array(paths[start : start + len(block)]), vectors], schema=schema))
            start += len(block)
