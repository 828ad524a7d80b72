"""Vectors and their names in files that are written a block at a time."""

import csv
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from pipeline.core import vector_files
from pipeline.core.vector_files import NearestNames, write_layers, write_vectors

PATHS = [f"{number}.png" for number in range(7)]
NEAREST = NearestNames(
    ["cat", "a longer name", "ö"],
    np.array([[0, 1], [1, 2], [2, 0], [0, 2], [1, 0], [2, 1], [0, 1]], np.int32),
    np.linspace(1, -1, 14, dtype=np.float32).reshape(7, 2),
)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.core.vectors.LARGEST_BLOCK", 100)  # bytes: two rows of the test vectors
    monkeypatch.setattr(vector_files, "NAMES_AT_ONCE", 2)


def test_names_and_cosines_match_their_vectors(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(7, 10)).astype(np.float32)
    expected = [[NEAREST.names[number] for number in row] for row in NEAREST.numbers]
    for suffix in ("npz", "parquet"):
        write_vectors(tmp_path / f"out.{suffix}", "predictions", PATHS, vectors, NEAREST)
    with np.load(tmp_path / "out.npz") as saved:
        assert saved["paths"].tolist() == PATHS
        assert np.array_equal(saved["predictions"], vectors)
        assert saved["nearest"].tolist() == expected
        assert np.array_equal(saved["cosines"], NEAREST.cosines)
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert table["path"].to_pylist() == PATHS
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), vectors)
    assert table["nearest"].to_pylist() == expected
    assert np.array_equal(np.array(table["cosines"].to_pylist(), np.float32), NEAREST.cosines)


def test_a_csv_keeps_every_bit_of_the_vectors(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(7, 10)).astype(np.float32)
    paths = ['a "b".png', "a,b.png", "a\nb.png", "ö.png", "=1.png", " .png", "0.png"]
    write_vectors(tmp_path / "out.csv", "predictions", paths, vectors, NEAREST)
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["path"] for row in rows] == paths
    assert np.array_equal(np.array([[row[f"d{at}"] for at in range(10)] for row in rows], np.float32), vectors)
    assert [[row["nearest1"], row["nearest2"]] for row in rows] == NEAREST.of(slice(None))
    cosines = np.array([[row["cosine1"], row["cosine2"]] for row in rows], np.float32)
    assert np.array_equal(cosines, NEAREST.cosines)


def test_layers_of_different_size_stay_aligned(tmp_path: Path) -> None:
    layers = {name: np.arange(7 * dim, dtype=np.float32).reshape(7, dim) for name, dim in (("a", 1), ("b", 20))}
    write_layers(tmp_path / "out.parquet", PATHS, layers)
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    for name, vectors in layers.items():
        assert np.array_equal(np.array(table[name].to_pylist(), np.float32), vectors)


def test_archives_above_two_gigabytes_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 20)  # bytes instead of 2 GiB
    vectors = np.ones((7, 10), np.float32)
    write_vectors(tmp_path / "out.npz", "predictions", PATHS, vectors, NEAREST)
    write_layers(tmp_path / "layers.npz", PATHS, {"fc1": vectors, "fc2": vectors})
    for name in ("out", "layers"):
        with np.load(tmp_path / f"{name}.npz") as saved:
            assert saved["paths"].tolist() == PATHS
