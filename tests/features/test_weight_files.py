"""Weights in the layouts of other libraries, written by the libraries themselves, compared with PyTorch in float64."""

import pickle
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from reference import activations
from torch import nn

from pipeline.core.errors import RequestError
from pipeline.features.engines import make_engine
from pipeline.features.extractor import Extractor, check_one_pass, described_network
from pipeline.features.options import ExtractorOptions
from pipeline.features.vgg import NETWORKS, Arrays
from pipeline.features.weights import weights_from

VGG19 = (2, 2, 4, 4, 4)  # convolutions in each block
UNITS = 8  # units of the dense layers here, so that a file has 59 MB; the layout is the same


@pytest.fixture(autouse=True)
def narrow_dense_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = (("fc1", 7 * 7 * 512, UNITS), ("fc2", UNITS, UNITS + 1), ("predictions", UNITS + 1, 10))
    for name, network in NETWORKS.items():
        monkeypatch.setitem(NETWORKS, name, replace(network, dense=dense))


def torchvision_vgg16(convolutions: tuple[int, ...] = (2, 2, 3, 3, 3)) -> nn.Module:
    """The modules of torchvision.models.vgg16, by the same names, with seeded weights."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    before = 3
    for block, count in enumerate(convolutions):
        for _ in range(count):
            layers += [nn.Conv2d(before, 64 << min(block, 3), 3, padding=1), nn.ReLU()]
            before = 64 << min(block, 3)
        layers.append(nn.MaxPool2d(2))
    head = [nn.Linear(7 * 7 * 512, UNITS), nn.ReLU(), nn.Dropout(), nn.Linear(UNITS, UNITS + 1), nn.ReLU()]
    head += [nn.Dropout(), nn.Linear(UNITS + 1, 10)]
    return nn.Sequential(
        OrderedDict(features=nn.Sequential(*layers), flatten=nn.Flatten(), classifier=nn.Sequential(*head))
    )


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return torchvision_vgg16().eval()


def write(file: Path, kind: str, model: nn.Module) -> Path:
    """Save the model's weights in one of the common ways."""
    state = model.state_dict()
    if kind == "safetensors":
        safetensors.torch.save_file(state, file)
    elif kind == "timm":  # the dense layers as convolutions, and a classifier with a name that sorts before theirs
        names = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}
        shapes = {"pre_logits.fc1.weight": (UNITS, 512, 7, 7), "pre_logits.fc2.weight": (UNITS + 1, UNITS, 1, 1)}
        for old, new in names.items():
            for part in ("weight", "bias"):
                name = f"{new}.{part}"
                state[name] = state.pop(f"{old}.{part}")
                state[name] = state[name].reshape(shapes.get(name, state[name].shape))
        safetensors.torch.save_file(state, file)
    elif kind == "training":  # a checkpoint of DataParallel, with the optimizer's state
        parallel = {f"module.{name}": value for name, value in state.items()}
        torch.save(
            {"epoch": 3, "state_dict": parallel, "optimizer": torch.optim.Adam(model.parameters()).state_dict()}, file
        )
    else:
        torch.save(state, file, _use_new_zipfile_serialization=kind != "legacy")
    return file


def test_a_state_dict_gives_pytorchs_features(tmp_path: Path, model: nn.Module) -> None:
    """The first dense layer is reordered: PyTorch flattens channels first."""
    arrays = weights_from(str(write(tmp_path / "vgg16.pth", "zip", model))).stored("predictions")
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    planes = np.float64(pixels[..., ::-1]) - [103.939, 116.779, 123.68]
    with torch.no_grad():
        double = torchvision_vgg16().double().eval()
        expected = double(torch.from_numpy(planes.transpose(2, 0, 1)[None].copy())).numpy()[0]
    assert activations(pixels, arrays)["predictions:pre"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", ["legacy", "training", "safetensors", "timm"])
def test_other_layouts_of_pytorch_give_the_same_weights(tmp_path: Path, model: nn.Module, kind: str) -> None:
    expected = weights_from(str(write(tmp_path / "vgg16.pth", "zip", model))).read("predictions")
    suffix = ".safetensors" if kind in ("safetensors", "timm") else ".pth"
    arrays = weights_from(str(write(tmp_path / f"other{suffix}", kind, model))).read("predictions")
    assert list(arrays) == list(expected)
    assert all(np.array_equal(*pair) for name in arrays for pair in zip(arrays[name], expected[name], strict=True))


def test_layers_are_read_up_to_the_one_needed(tmp_path: Path, model: nn.Module) -> None:
    state = {name: value for name, value in model.state_dict().items() if name.startswith("features")}
    torch.save(state, tmp_path / "features.pth")
    assert list(weights_from(str(tmp_path / "features.pth")).read("block4_pool"))[-1] == "block4_conv3"
    with pytest.raises(RequestError, match=r"has no layers that could be 'fc1'.*the layer 'fc2' needs it"):
        weights_from(str(tmp_path / "features.pth")).read("fc2")


def write_hdf5(file: Path, names: list[str], parts: tuple[str, str], arrays: Arrays) -> Path:
    with h5py.File(file, "w") as root:
        for name, pair in zip(names, arrays.values(), strict=True):
            for part, array in zip(parts, pair, strict=True):
                root[f"{name}/{part}"] = array
    return file


def test_names_of_slim_and_caffe_are_matched_by_order(tmp_path: Path) -> None:
    """Slim's checkpoints and Caffe's models, converted to HDF5."""
    arrays = weights_from("random:1").read("fc2")
    counts = [2, 2, 3, 3, 3]
    convolutions = [f"conv{block}_{number + 1}" for block, count in enumerate(counts, 1) for number in range(count)]
    caffe = write_hdf5(tmp_path / "caffe.h5", [*convolutions, "fc6", "fc7"], ("kernel", "bias"), arrays)
    as_convolution = {
        name: (
            kernel.reshape((7, 7, 512, -1) if name == "fc1" else (1, 1, *kernel.shape)) if kernel.ndim == 2 else kernel,
            bias,
        )
        for name, (kernel, bias) in arrays.items()
    }
    names = [f"vgg_16/{name[:5]}/{name}" for name in convolutions] + ["vgg_16/fc6", "vgg_16/fc7"]
    slim = write_hdf5(tmp_path / "slim.h5", names, ("weights", "biases"), as_convolution)
    for file in (caffe, slim):
        actual = weights_from(str(file)).read("fc2")
        assert all(map(np.array_equal, actual[name], arrays[name]) for name in arrays)
        assert list(actual) == list(arrays)


def test_the_names_that_keras_chooses_are_matched_by_order(tmp_path: Path) -> None:
    import keras

    inputs = x = keras.Input((224, 224, 3))
    for name, shape in NETWORKS["vgg16"].weighted_layers("block5_pool").items():
        x = keras.layers.Conv2D(shape[-1], 3, padding="same")(x)
        if name in ("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3"):
            x = keras.layers.MaxPooling2D()(x)
    model = keras.Model(inputs, x)
    for file in ("own.keras", "own.weights.h5"):
        (model.save if file == "own.keras" else model.save_weights)(tmp_path / file)
        actual = weights_from(str(tmp_path / file)).read("block5_pool")
        for (kernel, bias), layer in zip(
            actual.values(), [layer for layer in model.layers if layer.weights], strict=True
        ):
            assert np.array_equal(kernel, layer.get_weights()[0])
            assert np.array_equal(bias, layer.get_weights()[1])


def test_other_networks_are_refused_with_a_description(tmp_path: Path) -> None:
    torch.save(torchvision_vgg16(VGG19).state_dict(), tmp_path / "vgg19.pth")
    expected = r"does not hold VGG16: .* have 64, 64, 128, 128, 256, 256, 256, 256, 512, .* Use network='vgg19'\."
    with pytest.raises(RequestError, match=expected):
        weights_from(str(tmp_path / "vgg19.pth")).read("fc2")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(RequestError, match="it has no 3 x 3 convolutions; VGG16's have 64"):
        weights_from(str(tmp_path / "linear.pth")).read("fc2")
    normalized = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64))
    torch.save(normalized.state_dict(), tmp_path / "bn.pth")
    with pytest.raises(RequestError, match=r"batch normalization \(1\.running_mean\), like vgg16_bn"):
        weights_from(str(tmp_path / "bn.pth")).read("fc2")


def test_two_layers_of_one_shape_are_refused(tmp_path: Path, model: nn.Module) -> None:
    state = model.state_dict()
    state |= {f"again.{part}": state[f"classifier.3.{part}"] for part in ("weight", "bias")}
    torch.save(state, tmp_path / "two.pth")
    with pytest.raises(RequestError, match=r"has 2 layers that could be 'fc2', of shape \(8, 9\): classifier.3, again"):
        weights_from(str(tmp_path / "two.pth")).read("fc2")


class Runs:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("legacy", [False, True])
def test_no_code_in_a_checkpoint_runs(tmp_path: Path, legacy: bool) -> None:
    file, ran = tmp_path / "weights.pth", tmp_path / "ran"
    torch.save({"a": torch.zeros(2), "b": Runs(ran)}, file, _use_new_zipfile_serialization=not legacy)
    torch.load(file, weights_only=False)
    assert ran.exists()  # the attack works
    ran.unlink()
    with pytest.raises(RequestError, match=r"it refers to __builtin__\.getattr, and loading that could run code"):
        weights_from(str(file)).read("fc2")
    assert not ran.exists()
    file.write_bytes(pickle.dumps(Runs(ran)))
    with pytest.raises(RequestError, match="cannot be read as weights of VGG16"):
        weights_from(str(file)).read("fc2")
    assert not ran.exists()


def test_whole_models_are_refused_with_what_to_save(tmp_path: Path, model: nn.Module) -> None:
    torch.save(model, tmp_path / "model.pth")
    with pytest.raises(RequestError, match=r"loading that could run code; save model\.state_dict\(\) instead"):
        weights_from(str(tmp_path / "model.pth")).read("fc2")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 100, 1_000_000])
def test_truncated_files_are_refused(tmp_path: Path, model: nn.Module, suffix: str, kept: int) -> None:
    whole = write(tmp_path / f"whole{suffix}", "safetensors" if suffix == ".safetensors" else "legacy", model)
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(RequestError, match="truncated or in another format"):
        weights_from(str(cut)).read("fc2")


def test_half_precision_is_read(tmp_path: Path, model: nn.Module) -> None:
    expected = {name: value.bfloat16().float().numpy() for name, value in model.state_dict().items()}
    torch.save({name: value.bfloat16() for name, value in model.state_dict().items()}, tmp_path / "half.pth")
    safetensors.torch.save_file(
        {name: value.half() for name, value in model.state_dict().items()}, tmp_path / "half.safetensors"
    )
    kernel, _ = weights_from(str(tmp_path / "half.pth")).stored("block1_conv1")["block1_conv1"]
    assert np.array_equal(kernel, expected["features.0.weight"].transpose(2, 3, 1, 0))
    kernel, _ = weights_from(str(tmp_path / "half.safetensors")).stored("block1_conv1")["block1_conv1"]
    assert kernel == pytest.approx(expected["features.0.weight"].transpose(2, 3, 1, 0), rel=0.01)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Two images, a gradient and noise."""
    ramp = np.broadcast_to(np.linspace(0, 255, 224), (3, 224, 224)).transpose(1, 2, 0)
    return np.stack([ramp.astype(np.uint8), np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)])


@pytest.mark.parametrize("preprocess", ["torch", "caffe"])
@pytest.mark.parametrize("engine", ["keras", "mnn"])
def test_engines_preprocess_as_the_weights_expect(
    tmp_path: Path, model: nn.Module, pixels: np.ndarray, preprocess: str, engine: str
) -> None:
    """PyTorch in float64, on pixels after torchvision's or Caffe's transform."""
    file = tmp_path / "vgg16.pth"
    torch.save({name: value for name, value in model.state_dict().items() if name.startswith("features")}, file)
    extractor = Extractor(weights_from(str(file), preprocess), "block2_pool", pool="grid:4")
    actual = make_engine(engine, [extractor], 2, tmp_path)(pixels)[0]
    planes = pixels.astype(np.float64)
    if preprocess == "torch":
        planes = (planes / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    else:
        planes = planes[..., ::-1] - [103.939, 116.779, 123.68]
    with torch.no_grad():
        double = torchvision_vgg16().double().features[:10]
        activation = double(torch.from_numpy(planes.transpose(0, 3, 1, 2).copy()))
        expected = nn.functional.avg_pool2d(activation, 14).permute(0, 2, 3, 1).reshape(2, -1).numpy()
    assert np.linalg.norm(actual - expected) < 1e-4 * np.linalg.norm(expected)


def test_the_preprocessing_belongs_to_the_weights_and_to_the_fingerprint(
    tmp_path: Path, model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "vgg16.pth"
    torch.save(model.state_dict(), file)
    usual = Extractor(weights_from(str(file)))
    assert usual.description["preprocessing"] == "rgb-minus-imagenet-mean-over-deviation"
    assert Extractor(weights_from(str(file), "torch")).fingerprint == usual.fingerprint
    assert not caplog.records
    other = Extractor(weights_from(str(file), "caffe"))
    assert [record.getMessage() for record in caplog.records] == [
        f"Weights in the format of {file} usually need preprocess='torch'; preprocess='caffe' overrides that."
    ]
    assert other.fingerprint != usual.fingerprint
    assert other.weights.digest != usual.weights.digest  # because converted networks are named by it
    assert described_network(other.description) == {"network": "vgg16", "preprocess": "caffe"}
    [again] = ExtractorOptions().applied_to(str(file), other.description)
    assert again == other
    with pytest.raises(RequestError, match="preprocess 'tf' is unknown; choose from caffe, torch"):
        weights_from("random:0", "tf")


def test_vgg19_is_read_and_computed(tmp_path: Path, pixels: np.ndarray) -> None:
    """PyTorch in float64; the features of the last convolutions, which VGG16 lacks."""
    model = torchvision_vgg16(VGG19).features
    torch.save(model.state_dict(), tmp_path / "vgg19.pth")
    weights = weights_from(str(tmp_path / "vgg19.pth"), network="vgg19")
    with torch.no_grad():
        planes = (pixels[1] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        double = torchvision_vgg16(VGG19).double().features[:-1]
        expected = double(torch.from_numpy(planes.transpose(2, 0, 1)[None].copy())).mean(dim=(2, 3)).numpy()
    extractor = Extractor(weights, "block5_conv4")
    for engine in ("keras", "mnn"):
        actual = make_engine(engine, [extractor], 1, tmp_path)(pixels[1:])[0]
        assert np.linalg.norm(actual - expected) < 1e-3 * np.linalg.norm(expected)
    assert extractor.description["network"] == "vgg19"
    [again] = ExtractorOptions().applied_to(str(tmp_path / "vgg19.pth"), extractor.description)
    assert again == extractor


def test_vgg19_has_its_own_fingerprints_and_layers() -> None:
    deeper, usual = Extractor(weights_from("random:0", network="vgg19")), Extractor(weights_from("random:0"))
    assert deeper.fingerprint != usual.fingerprint
    assert deeper.weights.digest != usual.weights.digest  # because converted networks are named by it
    assert Extractor(deeper.weights, "block3_conv4").dim == 256
    with pytest.raises(RequestError, match="layer 'block3_conv4' is unknown; did you mean"):
        Extractor(usual.weights, "block3_conv4")
    with pytest.raises(RequestError, match="network 'vgg11' is unknown; choose from vgg16, vgg19"):
        weights_from("random:0", network="vgg11")
    with pytest.raises(RequestError, match="run in one pass have one network, not vgg16 and vgg19"):
        check_one_pass([deeper, Extractor(usual.weights, "fc1")])


@pytest.mark.parametrize("engine", ["keras", "mnn"])
def test_layers_matched_by_order_are_named(
    tmp_path: Path, model: nn.Module, engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also from the process that converts for MNN."""
    torch.save(model.state_dict(), tmp_path / "vgg16.pth")
    with caplog.at_level("INFO", "pipeline"):
        make_engine(engine, [Extractor(weights_from(str(tmp_path / "vgg16.pth")), "block1_pool")], 1, tmp_path)
    assert "layers matched by order and shape: features.0 is block1_conv1, features.2 is block1_conv2." in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING", "pipeline"):
        make_engine(engine, [Extractor(weights_from(str(tmp_path / "vgg16.pth")), "block2_pool")], 1, tmp_path)
    assert not caplog.records
