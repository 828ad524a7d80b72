"""Targets and vectors in MATLAB and HDF5 files, written by SciPy, h5py and bdpy."""

import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from pipeline.core.errors import RequestError
from pipeline.core.vector_files import NearestNames, write_layers, write_vectors
from pipeline.data.feature_tables import read_features
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.matching import match_targets
from pipeline.data.targets import read_repeats, read_targets

PATHS = ["blue/0.png", "blue/ä.png", "red/0.png"]
IMAGES = ImageSet("images", PATHS, [ImageRef("")] * 3, ["blue", "blue", "red"])
MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
NAMES = np.array(PATHS, object).reshape(-1, 1)


def save_73(file: Path, **variables: object) -> Path:
    """A file as MATLAB 7.3 writes it: transposed, with its attributes and references to the elements of cells."""
    with h5py.File(file, "w", userblock_size=512) as root:
        elements = root.create_group("#refs#")

        def add(group: h5py.Group, name: str, value: object) -> h5py.Dataset:
            if isinstance(value, str):
                codes = np.frombuffer(value.encode("utf-16-le"), np.uint16).reshape(-1, 1)
                dataset = group.create_dataset(name, data=codes if value else np.zeros(2, np.uint64))
                dataset.attrs["MATLAB_class"] = np.bytes_("char")
                dataset.attrs["MATLAB_int_decode"] = np.int32(2)
                if not value:
                    dataset.attrs["MATLAB_empty"] = np.uint8(1)
                return dataset
            array = np.asarray(value)
            if array.dtype == object:
                cells = [add(elements, f"{name}{row}", cell).ref for row, cell in enumerate(array.ravel())]
                data = np.array(cells, h5py.ref_dtype).reshape(array.T.shape)
                dataset = group.create_dataset(name, data=data, dtype=h5py.ref_dtype)
                dataset.attrs["MATLAB_class"] = np.bytes_("cell")
                return dataset
            dataset = group.create_dataset(name, data=array.T, chunks=True, compression="gzip")
            dataset.attrs["MATLAB_class"] = np.bytes_({"float32": "single", "float64": "double"}[array.dtype.name])
            return dataset

        for name, value in variables.items():
            add(root, name, value)
    with open(file, "r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + struct.pack("<2H", 0x0200, 0x4D49))
    return file


def save_5(file: Path, **variables: object) -> Path:
    savemat(file, variables, do_compression=True)
    return file


def save_h5(file: Path, **variables: object) -> Path:
    with h5py.File(file.with_suffix(".h5"), "w") as root:
        for name, value in variables.items():
            array = np.asarray(value)
            root[name] = np.strings.encode(array.ravel().astype(str), "utf-8") if array.dtype == object else array
    return file.with_suffix(".h5")


WRITERS = pytest.mark.parametrize("save", [save_5, save_73, save_h5])


def targets_of(file: Path, **options: object) -> np.ndarray:
    return match_targets(IMAGES, read_targets(file, IMAGES, **options)).targets


@WRITERS
def test_targets_match_by_names(save, tmp_path: Path) -> None:
    file = save(tmp_path / "t.mat", stimuli=NAMES[::-1], responses=MATRIX[::-1].astype(np.float64))
    assert np.array_equal(targets_of(file), MATRIX)
    labels = save(tmp_path / "l.mat", labels=np.array(["red", "blue"], object).reshape(1, -1), x=MATRIX[:2])
    assert np.array_equal(targets_of(labels), MATRIX[[1, 1, 0]])


@WRITERS
def test_targets_without_names_match_by_row(save, tmp_path: Path) -> None:
    assert np.array_equal(targets_of(save(tmp_path / "t.mat", x=MATRIX)), MATRIX)
    with pytest.raises(RequestError, match=r"has 2 rows, but images has 3 images: without paths, it needs a row"):
        targets_of(save(tmp_path / "u.mat", x=MATRIX[:2]))


@WRITERS
def test_a_variable_must_be_named_unless_it_is_the_only_one(save, tmp_path: Path) -> None:
    file = save(tmp_path / "t.mat", names=NAMES, v1=MATRIX, v2=MATRIX * 2)
    with pytest.raises(RequestError, match="'v1', 'v2' hold lists of numbers"):
        targets_of(file)
    assert np.array_equal(targets_of(Path(f"{file}:v2")), MATRIX * 2)
    with pytest.raises(RequestError, match=r"no column matches 'v3'.*has 'v1', 'v2'"):
        targets_of(Path(f"{file}:v3"))
    with pytest.raises(RequestError, match="v2 names the embedding; leave out target_columns='v1'"):
        targets_of(Path(f"{file}:v2"), columns="v1")
    assert np.array_equal(read_features(Path(f"{file}:v2")).vectors[:], MATRIX * 2)
    assert read_features(Path(f"{file}:v2")).names == PATHS


def test_a_file_with_a_colon_in_its_name_is_not_split(tmp_path: Path) -> None:
    file = tmp_path / "a.mat:b.mat"
    savemat(file, {"x": MATRIX}, appendmat=False)
    assert np.array_equal(targets_of(file), MATRIX)


def test_a_dataset_in_a_group_is_named_by_its_path(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.h5", "w") as root:
        root["sub01/betas"] = MATRIX
        root["sub02/betas"] = -MATRIX
    assert np.array_equal(targets_of(Path(f"{tmp_path}/t.h5:/sub02/betas")), -MATRIX)


def test_contiguous_numbers_are_mapped_and_others_loaded(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.h5", "w") as root:
        root["x"] = MATRIX
        root.create_dataset("y", data=MATRIX, chunks=True, compression="gzip")
    for name, kind in {"x": np.memmap, "y": np.ndarray}.items():
        vectors = read_features(Path(f"{tmp_path}/t.h5:{name}")).vectors
        assert type(vectors.array) is kind
        assert np.array_equal(vectors[:], MATRIX)


def save_bdata(file: Path, names: list[str], matrix: np.ndarray) -> Path:
    """A file with the layout of bdpy's `BData.save`: two keys of numbers, and one with names by `vmap`."""
    different = sorted(set(names))
    numbers = np.array([[different.index(name) + 1.0] for name in names])
    keys = {"VoxelData": 4, "ROI_V1": 2, "Run": 1, "stimulus_name": 1}
    with h5py.File(file, "w") as root:
        root["dataset"] = np.hstack([matrix, np.ones((len(names), 1)), numbers])
        root["metadata/key"] = [key.encode() for key in keys]
        root["metadata/description"] = [b"1 = " + key.encode() for key in keys]
        values = np.full((4, 6), np.nan)
        values[0, :4] = values[1, 1:3] = values[2, 4] = values[3, 5] = 1
        root["metadata/value"] = values
        root.create_group("header")
        for number, name in enumerate(different, 1):
            root[f"vmap/stimulus_name/{float(number)}"] = name.encode()
    return file


def save_with_bdpy(file: Path, names: list[str], matrix: np.ndarray) -> Path:
    """The same by bdpy itself, which is not installed on every Python version."""
    bdpy = pytest.importorskip("bdpy")
    data, different = bdpy.BData(), sorted(set(names))
    data.add(matrix, "VoxelData")
    data.add(np.ones(len(names)), "Run")
    data.add(np.array([different.index(name) + 1.0 for name in names]), "stimulus_name")
    data.add_metadata("ROI_V1", [0, 1, 1, 0], where="VoxelData")
    data.add_vmap("stimulus_name", dict(enumerate(different, 1)))
    data.save(str(file), "HDF5")
    return file


@pytest.mark.parametrize("save", [save_bdata, save_with_bdpy])
def test_bdata_has_a_column_for_each_key(save, tmp_path: Path) -> None:
    file = save(tmp_path / "sub-01.h5", PATHS[::-1], MATRIX[::-1].astype(np.float64))
    assert np.array_equal(targets_of(Path(f"{file}:VoxelData")), MATRIX)
    assert np.array_equal(targets_of(Path(f"{file}:ROI_V1")), MATRIX[:, 1:3])
    with pytest.raises(RequestError, match=r"'VoxelData', 'ROI_V1' hold lists|'ROI_V1'.* hold lists"):
        targets_of(file)
    assert read_features(Path(f"{file}:VoxelData")).names == PATHS[::-1]


def test_repeats_of_bdata_are_read(tmp_path: Path) -> None:
    file = save_bdata(tmp_path / "sub-01.h5", ["a", "b", "a"], MATRIX)
    repeats = read_repeats(Path(f"{file}:VoxelData"))
    assert np.array_equal(repeats["a"], MATRIX[[0, 2]])


@pytest.mark.parametrize("suffix", [".h5", ".mat"])
def test_our_own_files_are_read_back(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"vectors{suffix}"
    nearest = NearestNames(["cat", "dog"], np.array([[0, 1], [1, 0], [0, 1]], np.int32), np.ones((3, 2), np.float32))
    write_vectors(file, "features", PATHS, MATRIX)
    table = read_features(file)
    assert table.names == PATHS
    assert table.vectors[:].tobytes() == MATRIX.tobytes()
    assert np.array_equal(targets_of(file), MATRIX)
    write_vectors(file, "predictions", PATHS, MATRIX, nearest)
    assert np.array_equal(targets_of(file), MATRIX)
    write_layers(file, PATHS, {"fc2": MATRIX, "fc1:pre": -MATRIX})
    name = "fc1:pre" if suffix == ".h5" else "fc1_pre"
    assert np.array_equal(read_features(Path(f"{file}:{name}")).vectors[:], -MATRIX)
    assert sorted(tmp_path.iterdir()) == [file]


def test_a_mat_has_names_as_cells(tmp_path: Path) -> None:
    from scipy.io import loadmat

    write_vectors(tmp_path / "v.mat", "features", PATHS, MATRIX)
    assert [cell.item() for cell in loadmat(tmp_path / "v.mat")["paths"].ravel()] == PATHS


class Large:
    """Vectors of 2 GB that nobody reads."""

    shape, dtype = (2**17, 2**12), np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]


def test_vectors_too_large_for_a_mat_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=r"a variable in a .mat must be below 2 GB, .*2,147,483,648 bytes; name an .h5"
    ):
        write_vectors(tmp_path / "v.mat", "features", [], Large())
    assert not list(tmp_path.iterdir())


def test_files_that_unpack_to_far_more_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.core.regular_files.UNPACKED", 2**20)
    packed = zlib.compress(bytes(2**24))
    header = b"MATLAB 5.0".ljust(124) + struct.pack("<2H", 0x0100, 0x4D49)
    (tmp_path / "bomb.mat").write_bytes(header + struct.pack("<2I", 15, len(packed)) + packed)
    with h5py.File(tmp_path / "bomb.h5", "w") as root:
        root.create_dataset("x", (2**14, 2**10), np.float32, chunks=(2**10, 2**10))
    for name in ("bomb.mat", "bomb.h5"):
        with pytest.raises(RequestError, match=r"unpacks to .* bytes or more"):
            targets_of(tmp_path / name)


def test_texts_of_any_length_are_read_and_damaged_ones_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "t.h5"
    with h5py.File(file, "w") as root:
        root["names"], root["x"] = PATHS, MATRIX
    assert np.array_equal(targets_of(file), MATRIX)
    content = file.read_bytes()
    start = content.index(b"red/0.png") - 16  # the second entry of the heap: HDF5 skips one of size 0 forever
    file.write_bytes(content[:start] + bytes(64) + content[start + 64 :])
    monkeypatch.setattr("pipeline.data.hdf5_tables.TIME_LIMIT", 2.0)
    with pytest.raises(RequestError, match=r"its texts are damaged"):
        targets_of(file)


def test_other_content_is_one_message(tmp_path: Path) -> None:
    savemat(tmp_path / "complex.mat", {"x": MATRIX * 1j})
    savemat(tmp_path / "cells.mat", {"x": MATRIX, "n": np.array([[1.0], ["a"], ["b"]], object)})
    savemat(tmp_path / "struct.mat", {"x": {"a": MATRIX}})
    savemat(tmp_path / "names.mat", {"x": MATRIX, "a": NAMES, "b": NAMES})
    (tmp_path / "text.mat").write_text("no matlab file")
    (tmp_path / "text.h5").write_text("no hdf5 file")
    with h5py.File(tmp_path / "outside.h5", "w") as root:
        root.create_dataset("x", (3, 4), np.float32, external=[("/etc/passwd", 0, 48)])
        root["y"] = h5py.ExternalLink("/etc/passwd", "/x")
    for name, message in {
        "complex.mat": "'x' is not an array of real numbers",
        "cells.mat": "a cell of 'n' contains something other than text",
        "struct.mat": "no columns of numbers",
        "names.mat": "'a', 'b' contain text; call one of them 'path' or 'label'",
        "text.mat": "cannot be read",
        "text.h5": "cannot be read",
        "outside.h5": "lie in another file",
    }.items():
        with pytest.raises(RequestError, match=message):
            targets_of(tmp_path / name)
