"""Vectors as files: `.npz`, `.npy` or `.parquet`, written a block at a time and visible only when complete."""

import contextlib
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.errors import PipelineError, RequestError

SUFFIXES = (".npz", ".npy", ".parquet")
UNFINISHED = ".unfinished-"


def check_output(file: Path) -> None:
    """Refuse a file that could not be written, before any work is spent on its content.

    Raises:
        RequestError: The suffix is not one of SUFFIXES, or the folder does not exist.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise RequestError(f"--out {file}: vectors are written as {', '.join(SUFFIXES)}; give the file such a suffix.")
    if not file.parent.is_dir():
        raise RequestError(f"--out {file}: the folder {file.parent} does not exist; make it first.")


def write_vectors(file: Path, name: str, paths: Sequence[str], blocks: Iterable[np.ndarray], dim: int) -> None:
    """Write one vector for each path, in the order given.

    Args:
        file: `.npz` holds `paths` (N,) str and `name` (N, dim) float32; `.npy` the vectors alone; `.parquet` the
            columns `path` and `vector`. An existing file is replaced.
        name: What the vectors are called in an `.npz`: "features" or "predictions".
        paths: N paths.
        blocks: The vectors, as consecutive arrays of shape (n, dim), float32, N rows in all.
        dim: Their dimension.

    Raises:
        PipelineError: The file cannot be written.
    """
    write = {".npz": _write_npz, ".npy": _write_npy, ".parquet": _write_parquet}[file.suffix.lower()]
    try:
        with replacing(file) as unfinished:
            write(unfinished, name, paths, blocks, dim)
    except OSError as error:
        raise PipelineError(f"{file} cannot be written ({error.strerror or error}).") from error


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A hidden file to write, which takes the place of `file` when the block ends well and is gone otherwise.

    Its name follows from the file's, so that what a kill leaves lying is overwritten the next time.
    """
    unfinished = file.with_name(f"{UNFINISHED}{file.name}")
    try:
        yield unfinished
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a kill in the middle of `replacing` has left in a folder that no other process writes to."""
    for file in folder.glob(f"{UNFINISHED}*"):
        file.unlink(missing_ok=True)


def _write_npy(file: Path, name: str, paths: Sequence[str], blocks: Iterable[np.ndarray], dim: int) -> None:
    with open(file, "wb") as opened:
        _stream_npy(opened, blocks, (len(paths), dim))


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


def _write_parquet(file: Path, name: str, paths: Sequence[str], blocks: Iterable[np.ndarray], dim: int) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = pa.schema([("path", pa.string()), ("vector", pa.list_(pa.float32(), dim))])
    with ParquetWriter(file, schema) as writer:
        start = 0
        for block in blocks:
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), dim)
            writer.write_table(pa.table([pa.array(paths[start : start + len(block)]), vectors], schema=schema))
            start += len(block)
