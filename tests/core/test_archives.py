"""Archives that declare, or unpack to, far more than they contain: refused before memory is allocated."""

import io
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.archives import SMALL, read_npz
from pipeline.core.errors import PipelineError
from pipeline.decoders.baselines import Baselines
from pipeline.decoders.callbacks import read_checkpoint, write_checkpoint


def refused(file: Path, reason: str) -> None:
    """Check that an archive is refused, using hardly any memory."""
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, zipfile.BadZipFile), match=reason):
            read_npz(file)
        assert tracemalloc.get_traced_memory()[1] < SMALL
    finally:
        tracemalloc.stop()


def declared(*shape: int, version: tuple[int, int] = (1, 0)) -> bytes:
    """An `.npy` file with only a header, which declares an array of float32."""
    written = io.BytesIO()
    write = np.lib.format.write_array_header_1_0 if version == (1, 0) else np.lib.format.write_array_header_2_0
    write(written, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return written.getvalue()


def test_written_archives_are_read(tmp_path: Path) -> None:
    arrays = {"x": np.random.default_rng(0).random((100, 50)), "names": np.array(["a", "bc"]), "none": np.zeros((0, 3))}
    write_checkpoint(tmp_path / "checkpoint.npz", arrays)
    read = read_checkpoint(tmp_path / "checkpoint.npz")
    assert read.keys() == arrays.keys()
    assert all(np.array_equal(read[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("shape", [(2**30,), (2**20, 2**40), (2**62, 2**62), (5,)])
def test_an_array_that_is_only_declared_is_refused(tmp_path: Path, shape: tuple, version: tuple) -> None:
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("whole.npy", declared(2) + bytes(8))
        archive.writestr("x.npy", declared(*shape, version=version))
    refused(tmp_path / "t.npz", "x.npy declares an array of shape")


def test_compressed_zeros_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", declared(2**24) + bytes(2**26))
    assert (tmp_path / "t.npz").stat().st_size < 100_000
    refused(tmp_path / "t.npz", "its members have 67,")


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    """Each is small, but there are many: the directory lists the same bytes many times (Fifield 2019)."""
    with zipfile.ZipFile(tmp_path / "one.npz", "w") as archive:
        archive.writestr("a000.npy", declared(2**17) + bytes(2**19))
    data = (tmp_path / "one.npz").read_bytes()
    at = data.index(b"PK\x01\x02")
    entry, end = data[at : data.index(b"PK\x05\x06")], bytearray(data[data.index(b"PK\x05\x06") :])
    entries = b"".join(entry.replace(b"a000", b"a%03d" % number) for number in range(200))
    end[8:10] = end[10:12] = (200).to_bytes(2, "little")
    end[12:16] = len(entries).to_bytes(4, "little")
    (tmp_path / "t.npz").write_bytes(data[:at] + entries + end)
    refused(tmp_path / "t.npz", "its members have 104,")


def test_reading_stops_where_a_member_exceeds_its_declared_size(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", declared(2**8) + bytes(2**28))
    data = bytearray((tmp_path / "t.npz").read_bytes())
    at, claimed = data.index(b"PK\x01\x02"), (len(declared(2**8)) + 2**10).to_bytes(4, "little")
    data[22:26] = data[at + 24 : at + 28] = claimed
    (tmp_path / "t.npz").write_bytes(data)
    refused(tmp_path / "t.npz", "Bad CRC-32")


@pytest.mark.parametrize("read", [Baselines.load, lambda folder: read_checkpoint(folder / "checkpoint.npz")])
def test_files_of_ours_that_declare_too_much_are_refused(tmp_path: Path, read) -> None:
    for name in ("baselines.npz", "checkpoint.npz"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("mean.npy", declared(2**20, 2**40))
    with pytest.raises(PipelineError, match=r"\.npz is damaged \(mean.npy declares an array of shape"):
        read(tmp_path)


@pytest.mark.parametrize("read", [Baselines.load, lambda folder: read_checkpoint(folder / "checkpoint.npz")])
def test_a_pipe_is_refused_without_waiting(tmp_path: Path, read) -> None:
    for name in ("baselines.npz", "checkpoint.npz"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(PipelineError, match="not a regular file"):
        read(tmp_path)
