import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.core.errors import PipelineError, RequestError
from pipeline.features.extractor import Extractor
from pipeline.features.options import ExtractorOptions
from pipeline.features.vgg import NETWORKS
from pipeline.features.weights import IMAGENET, default_weights, weights_from


def small(layer: str = "block5_pool") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return weights_from("random:3").read(layer)


def write_published(file: Path, arrays: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    """The layout of Keras's published file: GROUP/GROUP_W_1:0 and GROUP/GROUP_b_1:0, listed in attributes."""
    with h5py.File(file, "w") as root:
        root.attrs["layer_names"] = [name.encode() for name in (*arrays, "flatten")]
        root.create_group("flatten").attrs["weight_names"] = []
        for name, pair in arrays.items():
            names = [f"{name}_W_1:0", f"{name}_b_1:0"]
            group = root.create_group(name)
            group.attrs["weight_names"] = [each.encode() for each in names]
            for each, array in zip(names, pair, strict=True):
                group.create_dataset(each, data=array)
    return file


def assert_same(actual: dict, expected: dict) -> None:
    assert list(actual) == list(expected)
    for name in expected:
        assert all(map(np.array_equal, actual[name], expected[name])), name


def test_layers_are_those_of_vgg16() -> None:
    shapes = NETWORKS["vgg16"].weighted_layers("fc2")
    assert sum(np.prod(shape) + shape[-1] for shape in shapes.values()) == 138_357_544 - 4096 * 1000 - 1000
    assert next(iter(shapes)) == "block1_conv1"
    assert shapes["block5_conv3"] == (3, 3, 512, 512)


def test_random_weights_are_he_normal_and_seeded() -> None:
    assert_same(small(), small())
    kernel, bias = small()["block4_conv2"]
    assert kernel.dtype == np.float32
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 512)), rel=0.01)
    assert not bias.any()
    assert not np.array_equal(kernel, weights_from("random").read("block5_pool")["block4_conv2"][0])
    # The numbers are part of the promise "the same everywhere".
    assert small()["block1_conv1"][0].reshape(-1)[:3] == pytest.approx([0.65786493, 0.03885505, -0.13953567], rel=1e-6)


def test_the_published_layout_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = (("fc1", 7 * 7 * 512, 8), ("fc2", 8, 8))  # the layout is the same
    monkeypatch.setitem(NETWORKS, "vgg16", replace(NETWORKS["vgg16"], dense=dense))
    expected = small("fc2")
    weights = weights_from(str(write_published(tmp_path / "vgg16.h5", expected)))
    assert_same(weights.read("fc2"), expected)
    assert list(weights.read("fc1"))[-1] == "fc1"


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras", ".h5"])
def test_files_saved_by_keras_are_read(tmp_path: Path, suffix: str) -> None:
    import keras

    model = keras.applications.VGG16(weights=None, include_top=False, input_shape=(224, 224, 3))
    expected = {
        name: tuple(model.get_layer(name).get_weights()) for name in NETWORKS["vgg16"].weighted_layers("block5_pool")
    }
    file = tmp_path / f"model{suffix}"
    if suffix == ".weights.h5":
        model.save_weights(file)
    else:
        model.save(file)
    assert_same(weights_from(str(file)).read("block5_pool"), expected)


@pytest.mark.parametrize("name", ["vgg16.ckpt", "targets.csv", "vgg16.onnx"])
def test_files_of_other_formats_are_refused_before_any_work(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(RequestError, match=rf"{name}' is of another format than is read: \.h5 "):
        weights_from(str(tmp_path / name))


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    whole = write_published(tmp_path / "whole.h5", small())
    with pytest.raises(RequestError, match="no layer 'fc1', which the layer 'fc2' needs"):
        weights_from(str(whole)).read("fc2")
    with pytest.raises(RequestError, match=r"which the layer 'predictions' needs\. A file without the top"):
        weights_from(str(whole)).read("predictions")

    cut = tmp_path / "cut.h5"
    cut.write_bytes(whole.read_bytes()[:1_000_000])
    with pytest.raises(RequestError, match="truncated"):
        weights_from(str(cut)).read("block5_pool")

    text = tmp_path / "text.h5"
    text.write_text("not weights")
    with pytest.raises(RequestError, match="cannot be read as weights of VGG16"):
        weights_from(str(text)).read("block5_pool")

    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(RequestError, match="cannot be read as weights of VGG16"):
        weights_from(str(tmp_path / "other.keras")).read("block5_pool")

    shapes = small() | {"block1_conv1": (np.zeros((3, 3, 1, 64)), np.zeros(64))}
    with pytest.raises(RequestError, match="shape"):
        weights_from(str(write_published(tmp_path / "grey.h5", shapes))).read("block5_pool")

    broken = small()
    broken["block3_conv1"][0][0, 0, 0, 0] = np.nan
    with pytest.raises(RequestError, match="NaN or infinite"):
        weights_from(str(write_published(tmp_path / "nan.h5", broken))).read("block5_pool")


def test_a_file_of_vgg19_is_not_read_as_vgg16(tmp_path: Path) -> None:
    """It has all of VGG16's layers, by the same names and with the same shapes."""
    deeper = weights_from("random:3", network="vgg19").read("block5_pool")
    file = str(write_published(tmp_path / "vgg19.h5", deeper))
    with pytest.raises(RequestError, match=r"holds VGG19: it has a layer 'block3_conv4'\. Use network='vgg19'\."):
        weights_from(file).read("block2_pool")
    assert_same(weights_from(file, network="vgg19").read("block5_pool"), deeper)
    with pytest.raises(RequestError, match="has no layer 'block3_conv4', which the layer 'block5_pool' needs"):
        weights_from(str(write_published(tmp_path / "vgg16.h5", small())), network="vgg19").read("block5_pool")


def weights_with(file: Path, name: str, **options: Any) -> Path:
    """Weights with a first kernel, or bias, that is created in another way."""
    write_published(file, small(FIRST))
    with h5py.File(file, "a") as root:
        group = root["block1_conv1"]
        del group[name]
        if "link" in options:
            group[name] = options["link"]
        elif "layout" in options:
            group.create_virtual_dataset(name, options["layout"])
        else:
            group.create_dataset(name, **options)
    return file


FIRST, KERNEL, BIAS = "block1_conv1", "block1_conv1_W_1:0", "block1_conv1_b_1:0"


@pytest.mark.parametrize("how", ["virtual", "external", "external link", "link inside"])
def test_values_in_another_file_are_refused(tmp_path: Path, how: str) -> None:
    kernel = small(FIRST)["block1_conv1"][0]
    kernel.tofile(tmp_path / "raw")
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["kernel"] = kernel
    layout = h5py.VirtualLayout(kernel.shape, "f4")
    layout[...] = h5py.VirtualSource(tmp_path / "other.h5", "kernel", kernel.shape)
    options = {
        "virtual": {"layout": layout},
        "external": {"shape": kernel.shape, "dtype": "f4", "external": [(str(tmp_path / "raw"), 0, kernel.nbytes)]},
        "external link": {"link": h5py.ExternalLink(str(tmp_path / "other.h5"), "/kernel")},
        "link inside": {"link": h5py.SoftLink("/block1_conv2/block1_conv2_W_1:0")},
    }
    file = weights_with(tmp_path / "weights.h5", KERNEL, **options[how])
    with pytest.raises(RequestError, match=r"cannot be read as weights of VGG16 \(.*(lie in another file|is a link)"):
        weights_from(str(file)).read(FIRST)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (KERNEL, {"shape": (10**6, 10**6, 3, 64), "dtype": "f4", "chunks": (10, 10, 3, 64)}),
        (BIAS, {"shape": (10**12,), "dtype": "f4", "chunks": (10**3,)}),
        (BIAS, {"shape": (64,), "dtype": "S2000000000", "chunks": (1,)}),
        (BIAS, {"shape": (64,), "dtype": np.dtype(("f4", (10**7,))), "chunks": (1,)}),
        (BIAS, {"shape": (64,), "dtype": h5py.string_dtype()}),
        (BIAS, {"data": h5py.Empty("f4")}),
    ],
)
def test_declared_weights_are_refused_before_they_are_allocated(tmp_path: Path, name: str, options: dict) -> None:
    file = weights_with(tmp_path / "weights.h5", name, **options)
    with pytest.raises(RequestError, match=r"(kernel of shape|cannot be read as weights of VGG16)"):
        weights_from(str(file)).read(FIRST)


@pytest.mark.parametrize("value", [7, [["a", "b"]], np.zeros((10, 20)), ["x" * 10**6] * 2, h5py.Empty("f4")])
def test_odd_names_of_weights_are_refused(tmp_path: Path, value: object) -> None:
    with h5py.File(write_published(tmp_path / "weights.h5", small(FIRST)), "a", libver="latest") as root:
        root["block1_conv1"].attrs["weight_names"] = value
    with pytest.raises(RequestError, match=r"(it has no 3 x 3 convolutions|cannot be read as weights of VGG16)"):
        weights_from(str(tmp_path / "weights.h5")).read(FIRST)


def test_an_archive_that_unpacks_to_more_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(2**26))
    with pytest.raises(RequestError, match=r"cannot be read as weights of VGG16 \(its members have"):
        weights_from(str(tmp_path / "bomb.keras")).read(FIRST)


@pytest.mark.parametrize("option", ["imagenet21k", "random:", "random:-1", "nowhere.h5", ""])
def test_unknown_weights_are_refused(option: str) -> None:
    with pytest.raises(RequestError, match=r"^weights "):
        weights_from(option)


def test_a_failed_download_of_imagenet_weights_names_alternatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setitem(IMAGENET, "vgg16", replace(IMAGENET["vgg16"], url="http://127.0.0.1:9/vgg16.h5"))
    with pytest.raises(PipelineError, match=r"downloaded \(Connection refused\).*weights=FILE.*weights='random:0'"):
        weights_from("imagenet").read("fc2")


def test_imagenet_weights_in_keras_folder_are_used_if_their_hash_matches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    (tmp_path / "models").mkdir()
    file = write_published(tmp_path / "models" / "vgg16_weights_tf_dim_ordering_tf_kernels.h5", small())
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    md5 = hashlib.md5(file.read_bytes()).hexdigest()
    monkeypatch.setitem(IMAGENET, "vgg16", replace(IMAGENET["vgg16"], md5=md5))
    assert_same(weights_from("imagenet").read("block5_pool"), small())


def test_the_fingerprint_depends_on_everything_that_changes_features(tmp_path: Path) -> None:
    weights = weights_from("random:0")
    extractors = [
        Extractor(weights),
        Extractor(weights, "fc1"),
        Extractor(weights, precision="bfloat16"),
        Extractor(weights_from("random:1")),
        Extractor(weights_from("imagenet")),
        Extractor(weights_from(str(write_published(tmp_path / "a.h5", {})))),
    ]
    assert len({extractor.fingerprint for extractor in extractors}) == len(extractors)
    assert Extractor(weights_from("random")).fingerprint == extractors[0].fingerprint
    assert [extractor.dim for extractor in extractors[:2]] == [4096, 4096]
    assert Extractor(weights, "block5_pool").dim == 512


def test_unknown_layers_and_precisions_are_refused() -> None:
    with pytest.raises(RequestError, match="layer 'fc3' is unknown; did you mean 'fc1' or 'fc2'"):
        Extractor(weights_from("random"), "fc3")
    with pytest.raises(RequestError, match="precision 'float64' is unknown"):
        Extractor(weights_from("random"), precision="float64")


def test_the_environment_variable_sets_the_default_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGE_VECTORS_WEIGHTS", raising=False)
    assert default_weights() == "imagenet"
    monkeypatch.setenv("IMAGE_VECTORS_WEIGHTS", "nonsense")
    with pytest.raises(RequestError, match=r"weights 'nonsense' \(from IMAGE_VECTORS_WEIGHTS\) is neither 'imagenet'"):
        weights_from(default_weights())
    monkeypatch.setenv("IMAGE_VECTORS_WEIGHTS", "random:7")
    assert ExtractorOptions().extractors()[0].weights.name == "random:7"
    assert ExtractorOptions(weights="random:1").extractors()[0].weights.name == "random:1"
