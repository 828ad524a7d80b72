"""The same images in a folder, tar files, Parquet and HDF5 have the same vectors, and are not computed again."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from helpers import SMALL, Finished, are_close, load_npz, make_images, wait_for_tick
from PIL import Image

COUNT = 24


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder, four tar files, a Parquet file and an HDF5 file, all with the same images."""
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
    with h5py.File(tmp_path / "photos.h5", "w") as opened:
        opened["pixels"] = np.stack([np.asarray(Image.open(file)) for file in files])
        opened["names"] = [file.name for file in files]
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

    # An array contains pixels, not the bytes of the image files, so these are computed again.
    counts = [run("extract", photos / "photos.h5", *SMALL, *cache).json["computed"] for _ in range(2)]
    assert counts == [COUNT, 0]
    run("extract", photos / "photos.h5:pixels", "--names", "names", "--out", photos / "array.npz", *SMALL, *cache)
    array = load_npz(photos / "array.npz")
    assert array["paths"].tolist() == vectors[0]["paths"].tolist()
    assert are_close(array["features"], vectors[0]["features"])
