"""Vectors as files: `.npz`, `.npy` or `.parquet`, written a block at a time."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.core.atomic import atomic_write
from pipeline.core.errors import RequestError
from pipeline.core.vectors import Vectors, in_blocks

SUFFIXES = (".npz", ".npy", ".parquet")


def write_vectors(file: Path, name: str, paths: Sequence[str], vectors: Vectors) -> None:
    """Write one vector for each path, in the order given.

    Args:
        file: `.npz` holds `paths` (N,) str and `name` (N, F) float32; `.npy` the vectors alone; `.parquet` the columns
            `path` and `vector`. An existing file is replaced.
        name: The name of the array in an `.npz`: "features" or "predictions".
        paths: N paths.
        vectors: The vectors, shape (N, F).

    Raises:
        PipelineError: The file cannot be written.
    """
    suffix = file.suffix.lower()
    with atomic_write(file) as unfinished:
        if suffix == ".npy":
            with open(unfinished, "wb") as opened:
                _stream_npy(opened, vectors)
        elif suffix == ".npz":
            _write_npz(unfinished, paths, {name: vectors})
        else:
            _write_parquet(unfinished, paths, {"vector": vectors})


def write_layers(file: Path, paths: Sequence[str], layers: Mapping[str, Vectors]) -> None:
    """Write several vectors for each path, in the order given.

    Args:
        file: `.npz` holds `paths` (N,) str and an array for each layer, (N, F) float32; `.parquet` the column `path`
            and one for each layer. An existing file is replaced.
        paths: N paths.
        layers: Name -> vectors, shape (N, F).

    Raises:
        PipelineError: The file cannot be written.
    """
    with atomic_write(file) as unfinished:
        (_write_npz if file.suffix.lower() == ".npz" else _write_parquet)(unfinished, paths, layers)


def check_layers_fit(file: Path, count: int) -> None:
    """Refuse several layers in a file that holds one array.

    Raises:
        RequestError: It is such a file.
    """
    if count > 1 and file.suffix.lower() == ".npy":
        raise RequestError(
            f"{file} would hold one array; for {count} layers name a .npz or .parquet file with out=FILE."
        )


def _write_npz(file: Path, paths: Sequence[str], arrays: Mapping[str, Vectors]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open("paths.npy", "w") as member:
            np.lib.format.write_array(member, np.array(paths, dtype=str), allow_pickle=False)
        for name, vectors in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                _stream_npy(member, vectors)


def _stream_npy(opened: IO[bytes], vectors: Vectors) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": tuple(vectors.shape)}
    np.lib.format.write_array_header_1_0(opened, header)
    for block in in_blocks(vectors):
        opened.write(block.astype("<f4", copy=False).tobytes())


def _write_parquet(file: Path, paths: Sequence[str], columns: Mapping[str, Vectors]) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    lists = [(name, pa.list_(pa.float32(), vectors.shape[1])) for name, vectors in columns.items()]
    schema = pa.schema([("path", pa.string()), *lists])
    with ParquetWriter(file, schema) as writer:
        start = 0
        for blocks in zip(*map(in_blocks, columns.values()), strict=True):
            arrays = [pa.FixedSizeListArray.from_arrays(pa.array(each.reshape(-1)), each.shape[1]) for each in blocks]
            names = pa.array(paths[start : start + len(blocks[0])])
            writer.write_table(pa.table([names, *arrays], schema=schema))
            start += len(blocks[0])
