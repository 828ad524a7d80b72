"""The sources of VGG16's weights: Keras's ImageNet file, a seeded random initialization, or a file.

Weights are plain NumPy arrays in Keras's layout, so that every engine starts from the same numbers and this module
needs no deep learning library.
"""

import contextlib
import hashlib
import logging
import os
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock

from pipeline.core.archives import check_members
from pipeline.core.errors import Parameter, PipelineError, RequestError, first_line
from pipeline.core.hdf5_files import check_dataset, get_member, small_attribute
from pipeline.core.keras_backend import import_keras
from pipeline.features.vgg16 import Arrays, weighted_layers

log = logging.getLogger(__name__)

# The file that keras.applications.VGG16 downloads (applications/vgg16.py in Keras), and its MD5.
IMAGENET_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels.h5"
)
IMAGENET_MD5 = "64373286793e3c8b2b4e3219cbf3544b"
IMAGENET_SIZE = "553 MB"
FORMATS = ".h5 (Keras's published layout), .weights.h5 or .keras"
VARIABLE = "IMAGE_VECTORS_WEIGHTS"  # environment variable


@dataclass(frozen=True)
class Weights:
    """A source of VGG16's weights.

    Attributes:
        name: "imagenet", "random:SEED" or a file's path.
        digest: Identifies the values; equal digests mean equal weights.
        read: Reads the weights of the layers up to a given one.
        fetch: Downloads the weights if necessary; raises PipelineError if that fails.
    """

    name: str
    digest: str
    read: Callable[[str], Arrays]
    fetch: Callable[[], object] = field(default=lambda: None)


def default_weights() -> str:
    """The default weights: those of the environment variable VARIABLE, else "imagenet"."""
    return os.environ.get(VARIABLE) or "imagenet"


def weights_from(option: str) -> Weights:
    """The weights that an option names.

    Args:
        option: "imagenet" (Keras's published file), "random" or "random:SEED" (He-normal), or a file: the published
            HDF5 layout (`.h5`), a Keras 3 weights file (`.weights.h5`) or a saved model (`.keras`).

    Returns:
        The weights, not yet read.

    Raises:
        RequestError: The option is none of these, or the file does not exist or has another format.
    """
    if option == "imagenet":
        digest = f"imagenet-md5-{IMAGENET_MD5}"
        return Weights("imagenet", digest, lambda layer: _read_file(_imagenet_file(), layer), _imagenet_file)
    random = re.fullmatch(r"random(?::(\d{1,9}))?", option)
    if random:
        seed = int(random[1] or 0)
        return Weights(f"random:{seed}", f"random-he-normal-{seed}", lambda layer: _random(seed, layer))
    subject = f"weights {option!r}" + (f" (from {VARIABLE})" if option == os.environ.get(VARIABLE) else "")
    path = Path(option).absolute()  # also read by other processes, which may run in other folders
    if not path.is_file():
        raise RequestError(
            f"{subject} is neither 'imagenet', 'random[:SEED]' nor a file that exists. A file may be {FORMATS}."
        )
    if path.suffix.lower() not in (".h5", ".hdf5", ".keras"):
        raise RequestError(f"{subject} is of another format than is read: {FORMATS}.")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return Weights(str(path), f"file-blake2b-{digest}", lambda layer: _read_file(path, layer))


def _random(seed: int, layer: str) -> Arrays:
    """He-normal kernels (He et al. 2015: standard deviation sqrt(2 / fan-in)) and zero biases, the same everywhere."""
    arrays = {}
    for number, (name, shape) in enumerate(weighted_layers(layer).items()):
        kernel = np.random.default_rng([seed, number]).standard_normal(shape, np.float32)
        kernel *= np.float32(np.sqrt(2 / np.prod(shape[:-1])))
        arrays[name] = (kernel, np.zeros(shape[-1], np.float32))
    return arrays


def _imagenet_file() -> Path:
    """The published file in Keras's cache, downloaded by Keras if necessary; its hash is checked."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    path = home / "models" / IMAGENET_URL.rpartition("/")[2]
    if _is_intact(path):
        return path
    keras = import_keras()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Keras writes to the final name, and checks an existing file itself.
        with FileLock(f"{path}.lock"), contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            if not _is_intact(path):
                log.info("The ImageNet weights are downloaded to %s, once (%s).", path, IMAGENET_SIZE)
            return Path(
                keras.utils.get_file(
                    path.name, IMAGENET_URL, cache_dir=str(home), cache_subdir="models", file_hash=IMAGENET_MD5
                )
            )
    except Exception as error:  # get_file raises a bare Exception when a download fails
        raise PipelineError(
            f"The ImageNet weights are not at {path} and could not be downloaded ({_reason(error)}). "
            f"Connect to the network once, or put {IMAGENET_URL} there (MD5 {IMAGENET_MD5}), or name that file with ",
            Parameter("weights", "FILE"),
            ", or try untrained weights with ",
            Parameter("weights", "random:0"),
            ".",
        ) from error


def _is_intact(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() == IMAGENET_MD5


def _reason(error: Exception) -> str:
    """Why a download failed, without the address that Keras prepends and without the error number."""
    return re.sub(r"^\[Errno -?\d+\] ", "", first_line(error).rpartition(" -- ")[2])


def _read_file(path: Path, layer: str) -> Arrays:
    """Read and check the layers up to `layer` from a weights file in one of the three layouts."""
    try:
        arrays = _read_hdf5(path, layer)
    except _Misfit as error:
        name, shape, expected = error.args
        raise RequestError(f"{path}: layer {name!r} has a kernel of shape {shape}; VGG16's is {expected}.") from error
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
        raise RequestError(
            f"{path} cannot be read as VGG16 weights ({first_line(error)}). It may be cut short or in another "
            "format; download or save it again."
        ) from error
    for name in weighted_layers(layer):
        if name not in arrays:
            raise RequestError(
                f"{path} has no layer {name!r}, which the layer {layer!r} needs. A file without VGG16's top has "
                "the layers up to block5_pool only."
            )
        kernel, bias = arrays[name]
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            raise RequestError(f"{path}: layer {name!r} holds NaN or infinite values.")
    return {name: arrays[name] for name in weighted_layers(layer)}


def _read_hdf5(path: Path, layer: str) -> Arrays:
    """Find the layers up to `layer` by name, anywhere in the file.

    The published layout stores a layer in a group of its name; the attribute `weight_names` lists kernel and bias.
    Keras 3 stores it in a group `vars` as "0" and "1"; the attribute `name` is the layer's name.
    """
    import h5py

    shapes = weighted_layers(layer)
    arrays: Arrays = {}

    def visit(location: str, node: h5py.Group | h5py.Dataset) -> None:
        if not isinstance(node, h5py.Group):
            return
        if location.endswith("vars"):
            name, keys = small_attribute(node, "name"), ("0", "1")
        else:
            names = small_attribute(node, "weight_names")
            name, keys = location.rpartition("/")[2], () if names is None else tuple(names)
        if isinstance(name, str) and name in shapes and len(keys) == 2:
            kernel, bias = (_dataset(node, key) for key in keys)
            if (kernel.shape, bias.shape) != (shapes[name], shapes[name][-1:]):  # not read: they may be of any size
                raise _Misfit(name, kernel.shape, shapes[name])
            arrays[name] = (np.asarray(kernel, np.float32), np.asarray(bias, np.float32))

    with _open_hdf5(path) as file, h5py.File(file, "r") as root:
        root.visititems(visit)
    return arrays


class _Misfit(Exception):
    """The kernel or bias of a layer differs in shape from VGG16's."""


def _dataset(group: Any, key: str | bytes) -> Any:
    """A dataset of a group, with its values stored in the same file.

    Raises:
        ValueError: The values are stored elsewhere, or there is no such dataset.
    """
    import h5py

    groups, _, name = os.fsdecode(key).rpartition("/")
    for part in groups.split("/") if groups else ():
        group = get_member(group, part, h5py.Group)
    dataset = get_member(group, name, h5py.Dataset)
    check_dataset(dataset)
    return dataset


def _open_hdf5(path: Path) -> IO[bytes]:
    """Open a weights file, or the HDF5 file in a `.keras` archive."""
    if path.suffix != ".keras":
        return open(path, "rb")
    with zipfile.ZipFile(path) as archive:
        check_members(archive, path)
        return archive.open("model.weights.h5")
