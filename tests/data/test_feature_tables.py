"""Vectors of another model in files: what is read, and what is refused."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import make_images

from pipeline.core.errors import RequestError
from pipeline.core.vector_files import write_vectors
from pipeline.data.feature_tables import FeatureTable, read_features
from pipeline.data.sources import find_images

PATHS = ["blue/0.png", "blue/1.png", "red/0.png"]
VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4) / 7


def save(folder: Path, **arrays: object) -> Path:
    np.savez(folder / "vectors.npz", **{name: np.asarray(array) for name, array in arrays.items()})
    return folder / "vectors.npz"


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet", ".csv"])
def test_our_own_files_are_read_back(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"vectors{suffix}"
    write_vectors(file, "features", PATHS, VECTORS)
    table = read_features(file)
    assert np.array_equal(table.vectors[:], VECTORS)
    assert table.names == (None if suffix == ".npy" else PATHS)
    assert table.images.labels == (["", "", ""] if suffix == ".npy" else ["blue", "blue", "red"])
    assert table.digest == read_features(file).digest


def test_labels_groups_and_splits_are_columns(tmp_path: Path) -> None:
    columns = {"label": ["cat", None, "dog"], "group": [1, 1, 2], "split": ["train", "train", "test"]}
    rows = pa.table({"path": PATHS, "caption": ["a", "b", "c"], **columns, "clip": VECTORS.tolist()})
    pq.write_table(rows, tmp_path / "clip.parquet")
    images = read_features(tmp_path / "clip.parquet").images
    assert images.labels == ["cat", "blue", "dog"]
    assert images.groups == ["1", "1", "2"]
    assert images.splits == ["train", "train", "test"]
    arrays = read_features(save(tmp_path, labels=["x", "y", "z"], features=VECTORS)).images
    assert (arrays.labels, arrays.paths) == (["x", "y", "z"], ["0", "1", "2"])


def test_the_rows_keep_their_order(tmp_path: Path) -> None:
    table = read_features(save(tmp_path, paths=PATHS[::-1], features=VECTORS))
    assert table.images.paths == PATHS[::-1]
    assert np.array_equal(table.vectors[:], VECTORS)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint16", ">f4"])
def test_other_numbers_become_float32(dtype: str, tmp_path: Path) -> None:
    vectors = (VECTORS * 7).astype(dtype)
    np.save(tmp_path / "vectors.npy", vectors)
    for file in (tmp_path / "vectors.npy", save(tmp_path, paths=PATHS, features=vectors)):
        read = read_features(file).vectors[:]
        assert (read.dtype, read.tolist()) == (np.float32, vectors.tolist())


def test_an_npy_is_mapped_and_columns_in_order_are_loaded(tmp_path: Path) -> None:
    file = tmp_path / "vectors.npy"
    np.save(file, VECTORS)
    assert isinstance(read_features(file).vectors.array, np.memmap)
    np.save(file, np.asfortranarray(VECTORS))
    table = read_features(file)
    assert table.vectors.array.flags.c_contiguous
    assert np.array_equal(table.vectors[:], VECTORS)


def test_a_path_with_the_same_vector_again_counts_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    table = read_features(save(tmp_path, paths=["a", "b", "a"], labels=["1", "2", "1"], features=VECTORS[[0, 1, 0]]))
    assert "left out 1 row of paths listed before" in caplog.text
    assert (table.names, table.images.labels) == (["a", "b"], ["1", "2"])
    assert np.array_equal(table.vectors[:], VECTORS[:2])


def test_different_vectors_of_a_path_are_averaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    names, trials = ["a", "b", "a", "c", "b", "a"], np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    table = read_features(save(tmp_path, paths=names, labels=list("121321"), features=trials))
    assert "2 of 3 paths have several different vectors (up to 3), such as 'a', 'b'" in caplog.text
    assert caplog.records[-1].levelno == logging.INFO
    assert (table.names, table.images.labels) == (["a", "b", "c"], ["1", "2", "3"])
    means = [trials[[row for row, name in enumerate(names) if name == key]].mean(axis=0) for key in "abc"]
    assert table.vectors[:] == pytest.approx(np.array(means), rel=1e-6)
    assert len(table.digests) == 3


def test_rare_repeats_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = np.vstack([VECTORS, VECTORS + 1])
    table = read_features(save(tmp_path, paths=["a", "b", "a", "c", "d", "e"], features=more))
    assert "1 of 5 paths" in caplog.text
    assert caplog.records[-1].levelno == logging.WARNING
    assert np.array_equal(table.vectors[1:], more[[1, 3, 4, 5]])


@pytest.mark.parametrize("column", ["label", "group", "split"])
def test_repeats_of_a_path_agree_in_their_texts(column: str, tmp_path: Path) -> None:
    message = rf"'a' has different vectors in the rows 1 and 3, .* also {column}s 'x' and 'y'"
    with pytest.raises(RequestError, match=message):
        read_features(save(tmp_path, paths=["a", "b", "a"], **{f"{column}s": ["x", "x", "y"]}, features=VECTORS))


WRONG = {
    "NaN": ({"paths": PATHS, "features": [[1, 2], [np.nan, 1], [1, 1]]}, r"row 2 \('blue/1.png'\): .*NaN"),
    "infinite in float32": ({"features": [[1, 2], [1e300, 1]]}, "row 2: .*infinite"),
    "no rows": ({"paths": np.array([], str), "features": np.zeros((0, 4))}, "contains no vectors"),
    "no columns": ({"paths": PATHS, "features": np.zeros((3, 0))}, r"not float64 \(3, 0\)"),
    "too few names": ({"paths": PATHS[:2], "features": VECTORS}, "2 names, but 3 rows of numbers"),
    "empty name": ({"paths": ["a", " ", "b"], "features": VECTORS}, "row 2 has no path"),
    "two arrays": ({"paths": PATHS, "a": VECTORS, "b": VECTORS}, "'a', 'b' hold lists.*with vectors.npz:NAME"),
    "three axes": ({"paths": PATHS, "features": np.zeros((3, 2, 2))}, "'features' hold neither numbers nor lists"),
    "text": ({"paths": PATHS, "features": np.full((3, 2), "x")}, "'features' hold neither numbers nor lists"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_vectors_are_one_message(case: str, tmp_path: Path) -> None:
    arrays, message = WRONG[case]
    with pytest.raises(RequestError, match=message):
        read_features(save(tmp_path, **arrays))


def test_wrong_arrays_and_files_are_one_message(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.zeros(4))
    np.save(tmp_path / "complex.npy", np.zeros((2, 2), complex))
    np.save(tmp_path / "empty.npy", np.zeros((0, 2)))
    (tmp_path / "ragged.csv").write_text("path,d0,d1\na,1,2\nb,1\n")
    (tmp_path / "vectors.txt").write_text("a 1 2\n")
    for name, message in {
        "flat.npy": r"N rows of F numbers, not float64 \(4,\)",
        "complex.npy": "not complex128",
        "empty.npy": "contains no vectors",
        "ragged.csv": "line 3: 2 cells",
        "vectors.txt": "vectors are read from .csv",
    }.items():
        with pytest.raises(RequestError, match=message):
            read_features(tmp_path / name)


def test_images_match_by_path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    make_images(tmp_path / "photos" / "a", range(3))
    images = find_images(tmp_path / "photos")
    names = ["a\\0001.png", str(tmp_path / "photos" / "a" / "0000.png"), "other.png"]
    table = read_features(save(tmp_path, paths=names, features=VECTORS))
    with pytest.raises(RequestError, match=r"no vector for 1 of 3 images: 'a/0002.png'.*on_missing='skip'"):
        table.match(images)
    matched, rows = table.match(images, "skip")
    assert (matched.tolist(), rows.tolist()) == ([0, 1], [1, 0])
    assert "Left out 1 image without a vector: 'a/0002.png'" in caplog.text
    assert "has 1 vector without an image: 'other.png'" in caplog.text
    with pytest.raises(RequestError, match=r"no vector for any of the images, such as 'a/0000.png'; .*begin with 'x'"):
        read_features(save(tmp_path, paths=["x"], features=VECTORS[:1])).match(images, "skip")


def test_vectors_without_names_match_by_row(tmp_path: Path) -> None:
    images = find_images(make_images(tmp_path / "photos", range(3)))
    np.save(tmp_path / "v.npy", VECTORS)
    assert read_features(tmp_path / "v.npy").match(images)[1].tolist() == [0, 1, 2]
    np.save(tmp_path / "v.npy", VECTORS[:2])
    with pytest.raises(RequestError, match=r"2 vectors without names, but .*3 images: it needs a row for each image"):
        read_features(tmp_path / "v.npy").match(images)


def test_equal_vectors_have_equal_digests(tmp_path: Path) -> None:
    table: FeatureTable = read_features(save(tmp_path, paths=PATHS, features=VECTORS[[0, 1, 0]]))
    assert table.digests[0] == table.digests[2] != table.digests[1]
