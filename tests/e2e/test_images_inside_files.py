"""The same images as a folder, as tar files and as Parquet: the same vectors, each computed once."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from helpers import SMALL, Finished, load_npz, make_images, wait_for_tick

COUNT = 24


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder, four tar files and a Parquet file, all with the same images."""
    folder = make_images(tmp_path / "folder", range(COUNT))
    files = sorted(folder.iterdir())
    (tmp_path / "shards").mkdir()
    for shard in range(4):
        with tarfile.open(tmp_path / "shards" / f"{shard:05}.tar", "w") as tar:
            for file in files[shard::4]:
                info = tarfile.TarInfo(file.name)
                info.size = file.stat().st_size
                tar.addfile(info, io.BytesIO(file.read_bytes()))
    rows = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    pyarrow.parquet.write_table(pa.table({"image": rows}), tmp_path / "photos.parquet", row_group_size=10)
    wait_for_tick(tmp_path)
    return tmp_path


def test_images_are_computed_once_whatever_contains_them(
    photos: Path, run: Callable[..., Finished], fresh_cache: Callable[[str], Path]
) -> None:
    cache = ("--cache", fresh_cache("cache"), "--workers", 2, "--json")
    first = run("extract", photos / "shards", "--shard", "1/2", *SMALL, *cache).json
    counts, vectors = [], []
    for number, source in enumerate(("shards/{00000..00003}.tar", "photos.parquet", "folder", "shards")):
        result = run("extract", photos / source, "--out", photos / f"{number}.npz", *SMALL, *cache).json
        counts.append(result["computed"])
        vectors.append(load_npz(photos / f"{number}.npz"))
    assert 0 < first["computed"] < COUNT
    assert counts == [COUNT - first["computed"], 0, 0, 0]
    for other in vectors[1:]:
        assert other["paths"].tolist() == vectors[0]["paths"].tolist()
        assert np.array_equal(other["features"], vectors[0]["features"])
