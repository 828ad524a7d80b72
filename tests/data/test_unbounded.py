"""Files that declare more than they contain, never end, or nest endlessly: a message, and hardly any memory."""

import gzip
import io
import json
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from pipeline.core import regular_files
from pipeline.core.errors import RequestError
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.sources import find_images
from pipeline.data.targets import read_repeats, read_targets
from pipeline.data.word_vectors import read_vocabulary

IMAGES = ImageSet("images", ["cat/0.png"], [ImageRef("/cat/0.png")], ["cat"])
MOST = 2**20  # bytes


@pytest.fixture
def few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit so low that a test can exceed it quickly."""
    monkeypatch.setattr(regular_files, "UNPACKED", MOST)


def refused(file: Path, message: str) -> None:
    tracemalloc.start()
    with pytest.raises(RequestError, match=message) as raised:
        read_targets(file, IMAGES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert file.name in str(raised.value)
    assert peak < 40 * MOST


def npy_header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    written = io.BytesIO()
    np.lib.format.write_array_header_1_0(written, {"descr": descr, "fortran_order": False, "shape": shape})
    return written.getvalue()


@pytest.mark.usefixtures("few_bytes")
@pytest.mark.parametrize("kind", ["lists", "columns", "fixed", "keys"])
def test_parquet_files_that_unpack_to_too_much_are_refused(tmp_path: Path, kind: str) -> None:
    rows, zeros = 1000, np.zeros(1_000_000, np.float32)
    columns = {
        "lists": {"label": ["cat"], "v": pa.array([zeros])},
        "columns": {"label": ["cat"] * len(zeros), "v": zeros},
        "fixed": {"label": ["cat"] * 2, "v": pa.FixedSizeListArray.from_arrays(pa.array(zeros), len(zeros) // 2)},
        "keys": {"label": pa.array(["x" * 20_000] * rows), "v": zeros[:rows]},
    }[kind]
    pyarrow.parquet.write_table(
        pa.table(columns), tmp_path / "t.parquet", use_dictionary=kind != "keys", compression="gzip"
    )
    refused(tmp_path / "t.parquet", "unpacks to .* bytes or more, but a file of this size may unpack to 1,048,576")


@pytest.mark.usefixtures("few_bytes")
def test_arrays_that_unpack_to_too_much_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "t.npz", labels=["cat"], v=np.zeros((1, MOST), np.float32))
    refused(tmp_path / "t.npz", "unpacks to 4,")


@pytest.mark.parametrize("shape", [(2**40, 2), (2, 2**40), (2**70, 2)])
def test_arrays_smaller_than_declared_are_refused(tmp_path: Path, shape: tuple[int, int]) -> None:
    (tmp_path / "t.npy").write_bytes(npy_header(shape) + bytes(8))
    refused(tmp_path / "t.npy", "is larger than the file|cannot be read")
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("v.npy", npy_header(shape) + bytes(8))
        archive.writestr("labels.npy", npy_header((1,), "<U1000000000") + bytes(8))
    refused(tmp_path / "t.npz", "is larger than the file|cannot be read")


@pytest.mark.usefixtures("few_bytes")
@pytest.mark.parametrize(
    "text",
    [b"cat" + b" 1" * 999 + b"\n" + (b"dog" + b" 1" * 999 + b"\n") * 9000, b"cat 1 2\n" + b"1 " * 2**24, b"1" * 2**25],
)
def test_word_vectors_that_unpack_to_too_much_are_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "w.txt.gz").write_bytes(gzip.compress(text, 1))
    refused(tmp_path / "w.txt.gz", "unpacks to|longer than")
    with pytest.raises(RequestError, match=r"unpacks to|longer than|not a number|no word followed by numbers"):
        list(read_vocabulary(tmp_path / "w.txt.gz"))


def test_a_binary_header_allocates_no_memory(tmp_path: Path) -> None:
    for header in (b"1 100000000000\n", b"1 99999999\n", b"9" * 5000 + b" 2\n", b"0 0\n"):
        (tmp_path / "w.bin").write_bytes(header + b"cat " + bytes(8))
        refused(tmp_path / "w.bin", "begins with its number of rows|no word")
        (tmp_path / "w.txt").write_bytes(header + b"cat 1 2\n")
        refused(tmp_path / "w.txt", "line 1|line 2")


def test_endless_lines_are_refused(tmp_path: Path) -> None:
    with open(tmp_path / "t.csv", "wb") as file:
        file.write(b"cat," + b"1" * 2**25)
    refused(tmp_path / "t.csv", "field larger|longer than")
    os.truncate(tmp_path / "t.csv", 2**36)  # endless zeros
    refused(tmp_path / "t.csv", "longer than|NUL|field larger")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_pipes_and_devices_are_refused_without_waiting(tmp_path: Path) -> None:
    for name in ("t.csv", "t.tsv", "t.parquet", "t.npz", "t.npy", "w.txt", "w.bin", "w.vec.gz", "l.txt", "l.csv"):
        os.mkfifo(tmp_path / name)
        refused(tmp_path / name, "not a regular file")
    for name in ("l.txt", "l.csv", "t.parquet"):
        with pytest.raises(RequestError, match="not a regular file"):
            find_images(tmp_path / name)
    with pytest.raises(RequestError, match="not a regular file"):
        read_repeats(tmp_path / "t.csv")
    with pytest.raises(RequestError, match="not a regular file"):
        list(read_vocabulary(tmp_path / "w.txt"))
    for name in ("z.csv", "z.txt", "z.npy", "z.bin"):
        (tmp_path / name).symlink_to("/dev/zero")
        refused(tmp_path / name, "not a regular file")


@pytest.mark.parametrize(
    "target",
    ["[" * 100_000, "[" + "9" * 401 + "]", "[" + "9" * 5000 + "]", '{"1": 2}', '"12"', "[true]", '["1"]', "[[1]]", "3"],
    ids=lambda target: target[:9],
)
def test_targets_in_a_list_must_be_lists_of_numbers(folder: Path, target: str) -> None:
    quoted = target.replace('"', '""')
    (folder / "l.csv").write_text(f'path,target\nred/0.png,"{quoted}"\n')
    with pytest.raises(RequestError, match=r"line 2: the target is not a list of numbers|cannot be read"):
        find_images(folder / "l.csv")


def test_targets_in_a_list_must_be_finite_in_float32(folder: Path) -> None:
    for number in ("3e38", "1e39", "-1e16", "NaN"):
        (folder / "l.csv").write_text(f'path,target\nred/0.png,"[0, {number}]"\n')
        with pytest.raises(RequestError, match=r"'red/0.png' contains NaN or infinite values, or numbers above 1e"):
            find_images(folder / "l.csv")


def test_parquet_files_with_other_text_or_nesting_are_refused(tmp_path: Path) -> None:
    offsets = pa.array([0, 3], pa.int32()).buffers()[1]
    latin = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"c\xe9t")])
    nested = pa.array([json.loads("[" * 200 + "]" * 200)])
    for key, vectors in ((latin, [[1.0]]), (latin.dictionary_encode(), [[1.0]]), (["cat"], nested), (["cat"], [[]])):
        pyarrow.parquet.write_table(pa.table({"path": key, "target": vectors}), tmp_path / "t.parquet")
        refused(tmp_path / "t.parquet", "utf-8|deeply nested|has no numbers|neither numbers nor lists")
        with pytest.raises(RequestError, match=r"t\.parquet"):
            find_images(tmp_path / "t.parquet")


def test_tables_without_dimensions_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.zeros((1, 0), np.float32))
    np.savez(tmp_path / "t.npz", labels=["cat"], v=np.zeros((1, 0)))
    (tmp_path / "t.csv").write_text("label\ncat\n")
    for name in ("t.npy", "t.npz", "t.csv"):
        refused(tmp_path / name, "no (columns of )?numbers")
