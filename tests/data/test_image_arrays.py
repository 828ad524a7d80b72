"""Images in arrays of HDF5 files, as h5py writes them, damaged and hostile."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import make_image, wait_for_tick

from pipeline.core.errors import ImageError, RequestError
from pipeline.data.images import ImageSet, content_digest
from pipeline.data.pixels import images_in_memory
from pipeline.data.sources import find_images

PIXELS = np.stack([np.asarray(make_image(number)) for number in range(12)])  # (12, 40, 60, 3)


def write(file: Path, **arrays: object) -> Path:
    with h5py.File(file, "w") as opened:
        for name, values in arrays.items():
            opened[name] = values
    return file


@pytest.fixture
def stimuli(tmp_path: Path) -> Path:
    """Images in both layouts, in chunks and not, with names."""
    with h5py.File(tmp_path / "stimuli.hdf5", "w") as file:
        file.create_dataset("imgBrick", data=PIXELS, chunks=(4, 40, 60, 3), compression="gzip")
        file.create_dataset("first/pixels", data=np.moveaxis(PIXELS, 3, 1))
        file["names"] = [f"cat/{number}.png" for number in range(12)]
        file["numbers"] = np.arange(12) + 100
        file["floats"] = PIXELS / np.float32(255)
    return tmp_path / "stimuli.hdf5"


def digests(images: ImageSet) -> list[bytes]:
    return [content_digest(ref.read()[0]) for ref in images.refs]


MEMORY = [ref.digest for ref in images_in_memory(PIXELS).refs]


@pytest.mark.parametrize("name", ["imgBrick", "first/pixels", "/first/pixels"])
def test_rows_are_the_same_images_as_in_memory(stimuli: Path, name: str) -> None:
    images = find_images(f"{stimuli}:{name}")
    assert list(images.paths) == [f"{number:02}" for number in range(12)]
    assert images.labels == [""] * 12
    assert images.refs[7].uri == f"{stimuli}:{name}#07"
    assert digests(pickle.loads(pickle.dumps(images))) == MEMORY
    assert digests(images.subset([7, 0, 11, 1])) == [MEMORY[row] for row in (7, 0, 11, 1)]
    assert digests(find_images(images.refs[7].uri)) == [MEMORY[7]]


def test_images_are_named_by_another_array(stimuli: Path) -> None:
    images = find_images(f"{stimuli}:imgBrick", names="names")
    assert list(images.paths) == [f"cat/{number}.png" for number in range(12)]
    assert images.labels == ["cat"] * 12
    assert digests(images) == MEMORY
    assert find_images(f"{stimuli}:imgBrick", names="numbers").paths[0] == "100"


def test_the_only_array_of_images_needs_no_name(stimuli: Path, tmp_path: Path) -> None:
    assert digests(find_images(write(tmp_path / "one.h5", images=PIXELS, labels=np.arange(12)))) == MEMORY
    with pytest.raises(
        RequestError, match=r"has 2 arrays of images: 'first/pixels', 'imgBrick'\. Name one as FILE\.h5:"
    ):
        find_images(stimuli)


def test_damaged_names_do_not_hang_it(stimuli: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = stimuli.read_bytes()
    start = content.index(b"cat/1.png") - 16  # the second entry of the heap: HDF5 skips one of size 0 forever
    stimuli.write_bytes(content[:start] + bytes(64) + content[start + 64 :])
    monkeypatch.setattr("pipeline.data.hdf5_tables.TIME_LIMIT", 2.0)
    with pytest.raises(RequestError, match="its texts are damaged"):
        find_images(f"{stimuli}:imgBrick", names="names")


@pytest.mark.parametrize(
    ("name", "names", "message"),
    [
        ("floats", None, r"is an array of shape \(12, 40, 60, 3\), float32; images need \(N, height, width, 3\) or"),
        ("numbers", None, r"is an array of shape \(12,\), int64; images need"),
        ("missing", None, r"has no array 'missing'; it has 'doubled', 'external'"),
        ("first/missing", None, r"has no array 'first/missing'; it has 'pixels'"),
        ("first", None, "is no dataset"),
        ("imgBrick", "missing", "has no array 'missing'"),
        ("imgBrick", "floats", r"names='floats' is an array of shape .* it must have a name for each of the 12 rows"),
        ("imgBrick", "doubled", "names='doubled' has the name 'x' more than once"),
        ("soft", None, "'soft' in '/' is a link"),
        ("external", None, "'external' in '/' is a link"),
        ("virtual", None, "the values of '/virtual' lie in another file"),
        ("nothing", None, "unpacks to 3,600,000,000,000 bytes"),
        ("huge", None, "is stored in chunks of 360,000,000 bytes; the limit is 268,435,456"),
    ],
)
def test_other_arrays_are_refused(stimuli: Path, tmp_path: Path, name: str, names: str | None, message: str) -> None:
    write(tmp_path / "other.h5", images=PIXELS)
    with h5py.File(stimuli, "a") as file:
        file["doubled"] = ["x"] * 12
        file["soft"] = h5py.SoftLink("/imgBrick")
        file["external"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "images")
        layout = h5py.VirtualLayout((12, 40, 60, 3), np.uint8)
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "images", (12, 40, 60, 3))
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("nothing", (10**9, 40, 30, 3), np.uint8, chunks=(1, 40, 30, 3))
        file.create_dataset("huge", (100, 2000, 600, 3), np.uint8, chunks=(100, 2000, 600, 3))
    with pytest.raises(RequestError, match=message):
        find_images(f"{stimuli}:{name}", names=names)


def test_options_for_other_sources_are_refused(stimuli: Path, folder: Path) -> None:
    with pytest.raises(RequestError, match="names='names' is only for HDF5 files"):
        find_images(folder, names="names")
    with pytest.raises(RequestError, match="image_column='x' is only for Parquet and Arrow files"):
        find_images(f"{stimuli}:imgBrick", image_column="x")


def test_a_damaged_chunk_spares_the_others(stimuli: Path) -> None:
    with h5py.File(stimuli) as file:
        chunk = file["imgBrick"].id.get_chunk_info(1)  # rows 4 to 7
    content = bytearray(stimuli.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    stimuli.write_bytes(content)
    images = find_images(f"{stimuli}:imgBrick")
    assert digests(images.subset([0, 3, 8, 11])) == [MEMORY[row] for row in (0, 3, 8, 11)]
    for row in (4, 7):
        with pytest.raises(ImageError, match="Can't synchronously read data"):
            images.refs[row].read()
    stimuli.write_bytes(content[:2000])
    with pytest.raises(RequestError, match=r"cannot be read \(.*truncated file"):
        find_images(f"{stimuli}:imgBrick")


def test_a_file_that_changed_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", images=PIXELS)
    wait_for_tick(tmp_path)
    images = find_images(tmp_path / "a.h5")
    assert images.refs[0].read()[1] == images.refs[0].version() is not None
    (tmp_path / "a.h5").unlink()
    write(tmp_path / "a.h5", images=PIXELS[::-1])
    with pytest.raises(ImageError, match=r"a\.h5 changed while this command ran"):
        images.refs[1].read()
