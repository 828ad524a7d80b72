"""The sources of a network's weights: Keras's ImageNet file, a seeded random initialization, or a file.

Weights are plain NumPy arrays in Keras's layout, so that every engine starts from the same numbers and this module
needs no deep learning library.
"""

import contextlib
import hashlib
import logging
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock

from pipeline.core.errors import Parameter, PipelineError, RequestError, first_line
from pipeline.core.keras_backend import import_keras
from pipeline.features.known_weights import recognized
from pipeline.features.vgg import NETWORKS, PREPROCESSINGS, Arrays, Network, Preprocessing
from pipeline.features.weight_files import (
    FORMATS,
    SAFETENSORS,
    SUFFIXES,
    TORCH_SUFFIXES,
    first_convolution,
    read_weight_file,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """A file of ImageNet weights that keras.applications downloads (applications/vgg16.py, vgg19.py in Keras)."""

    url: str
    md5: str
    size: str


KERAS_URL = "https://storage.googleapis.com/tensorflow/keras-applications"
IMAGENET = {
    "vgg16": Published(
        f"{KERAS_URL}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels.h5", "64373286793e3c8b2b4e3219cbf3544b", "553 MB"
    ),
    "vgg19": Published(
        f"{KERAS_URL}/vgg19/vgg19_weights_tf_dim_ordering_tf_kernels.h5", "cbe5617147190e668d6c5d5026f83318", "575 MB"
    ),
}
VARIABLE = "IMAGE_VECTORS_WEIGHTS"  # environment variable
TORCH = "-torch"  # suffix of a digest with preprocessing "torch"


def _nothing_to_fetch() -> None:
    """Do nothing: the weights are already on this machine."""


@dataclass(frozen=True)
class Weights:
    """A source of a network's weights. Its functions must be module-level, so that they can be pickled.

    Attributes:
        name: "imagenet", "random:SEED" or a file's path.
        digest: Identifies the values and the preprocessing; equal digests mean equal networks.
        stored: Function that reads the stored weights of the layers up to a given one.
        fetch: Downloads the weights if necessary; raises PipelineError if that fails.
        preprocess: The preprocessing that they were trained with, a key of `pipeline.features.vgg.PREPROCESSINGS`.
        network: The network.
    """

    name: str
    digest: str
    stored: Callable[[str], Arrays] = field(compare=False)
    fetch: Callable[[], object] = field(default=_nothing_to_fetch, compare=False)
    preprocess: str = "caffe"
    network: Network = NETWORKS["vgg16"]

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing that they were trained with."""
        return PREPROCESSINGS[self.preprocess]

    def read(self, layer: str) -> Arrays:
        """Read the weights of the layers up to a given one, for BGR planes minus the mean of the preprocessing.

        Raises:
            PipelineError: They cannot be read.
        """
        arrays = self.stored(layer)
        first, (kernel, bias) = next(iter(arrays.items()))
        return arrays | {first: (self.preprocessing.fold(kernel), bias)}


def default_weights() -> str:
    """The default weights: those of the environment variable VARIABLE, else "imagenet"."""
    return os.environ.get(VARIABLE) or "imagenet"


def weights_from(option: str, preprocess: str | None = None, network: str = "vgg16") -> Weights:
    """The weights that an option specifies.

    Args:
        option: "imagenet" (Keras's published file), "random" or "random:SEED" (He-normal), or a file: see
            `pipeline.features.weight_files`.
        preprocess: The preprocessing that they were trained with: "caffe" (BGR minus the ImageNet means) or "torch"
            (RGB minus means, over deviations). None means the one that the published weights which a file derives from
            need; for other files, torch for PyTorch and safetensors, and caffe for the rest.
        network: "vgg16" or "vgg19".

    Returns:
        The weights, not yet read.

    Raises:
        RequestError: The option is not one of these, the file does not exist or has another format, or the
            preprocessing or the network is unknown.
    """
    if preprocess not in (None, *PREPROCESSINGS):
        raise RequestError(f"preprocess {preprocess!r} is unknown; choose from {', '.join(PREPROCESSINGS)}.")
    if network not in NETWORKS:
        raise RequestError(f"network {network!r} is unknown; choose from {', '.join(NETWORKS)}.")
    weights = _source(option, NETWORKS[network])
    preprocess = _checked_preprocess(weights, preprocess)
    digest = weights.digest.removesuffix(TORCH) + (TORCH if preprocess == "torch" else "")
    return replace(weights, preprocess=preprocess, digest=digest)


def _checked_preprocess(weights: Weights, preprocess: str | None) -> str:
    """The preprocessing to use, with a warning if it does not fit the weights in a file, or their format if unknown.

    Args:
        weights: The weights, with the usual preprocessing of their format.
        preprocess: The preprocessing that the user chose, or None.
    """
    convolution = first_convolution(Path(weights.name)) if weights.digest.startswith("file-") else None
    known = recognized(*convolution) if convolution else None
    usual = (known.preprocess if known else None) or weights.preprocess
    chosen = preprocess or usual
    if known and not known.preprocess:
        log.warning(
            "%s contains the weights of %s with channels in RGB order, as in TensorFlow-Slim and SSD. Reverse the "
            "channels of the first kernel, and use %s.",
            weights.name,
            known.origin,
            Parameter("preprocess", "caffe"),
        )
    elif known and chosen != usual:
        needed, used = Parameter("preprocess", usual), Parameter("preprocess", chosen)
        log.warning("%s contains weights of %s, which need %s, not %s.", weights.name, known.origin, needed, used)
    elif chosen != usual:
        log.warning(
            "Weights in the format of %s usually need %s; %s overrides that.",
            weights.name,
            Parameter("preprocess", usual),
            Parameter("preprocess", chosen),
        )
    return chosen


def _source(option: str, network: Network) -> Weights:
    """The weights that an option specifies, with the usual preprocessing of their format."""
    if option == "imagenet":
        published = IMAGENET[network.name]
        fetch = partial(_imagenet_file, published)
        return Weights(
            "imagenet", f"imagenet-md5-{published.md5}", partial(_read_imagenet, network), fetch, network=network
        )
    random = re.fullmatch(r"random(?::(\d{1,9}))?", option)
    if random:
        seed = int(random[1] or 0)
        digest = f"random-he-normal-{seed}" + f"-{network.name}" * (network.name != "vgg16")
        return Weights(f"random:{seed}", digest, partial(_random, network, seed), network=network)
    subject = f"weights {option!r}" + (f" (from {VARIABLE})" if option == os.environ.get(VARIABLE) else "")
    path = Path(option).absolute()  # also read by other processes, which may run in other folders
    if not path.is_file():
        raise RequestError(
            f"{subject} is neither 'imagenet', 'random[:SEED]' nor a file that exists. A file may be {FORMATS}."
        )
    if path.suffix.lower() not in SUFFIXES:
        raise RequestError(f"{subject} is of another format than is read: {FORMATS}.")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    stored = partial(read_weight_file, network, path)
    if path.suffix.lower() in (*TORCH_SUFFIXES, SAFETENSORS):
        return Weights(str(path), f"file-blake2b-{digest}{TORCH}", stored, preprocess="torch", network=network)
    return Weights(str(path), f"file-blake2b-{digest}", stored, network=network)


def _random(network: Network, seed: int, layer: str) -> Arrays:
    """He-normal kernels (He et al. 2015: standard deviation sqrt(2 / fan-in)) and zero biases, the same everywhere."""
    arrays = {}
    for number, (name, shape) in enumerate(network.weighted_layers(layer).items()):
        kernel = np.random.default_rng([seed, number]).standard_normal(shape, np.float32)
        kernel *= np.float32(np.sqrt(2 / np.prod(shape[:-1])))
        arrays[name] = (kernel, np.zeros(shape[-1], np.float32))
    return arrays


def _read_imagenet(network: Network, layer: str) -> Arrays:
    return read_weight_file(network, _imagenet_file(IMAGENET[network.name]), layer)


def _imagenet_file(published: Published) -> Path:
    """The published file in Keras's cache, downloaded by Keras if necessary; its hash is checked."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    path = home / "models" / published.url.rpartition("/")[2]
    if _is_intact(path, published):
        return path
    keras = import_keras()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Keras writes to the final name, and checks an existing file itself.
        with FileLock(f"{path}.lock"), contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            if not _is_intact(path, published):
                log.info("The ImageNet weights are downloaded to %s, once (%s).", path, published.size)
            return Path(
                keras.utils.get_file(
                    path.name, published.url, cache_dir=str(home), cache_subdir="models", file_hash=published.md5
                )
            )
    except Exception as error:  # get_file raises a bare Exception when a download fails
        raise PipelineError(
            f"The ImageNet weights are not at {path} and could not be downloaded ({_reason(error)}). "
            f"Connect to the network once, or put {published.url} there (MD5 {published.md5}), or name that file with ",
            Parameter("weights", "FILE"),
            ", or try untrained weights with ",
            Parameter("weights", "random:0"),
            ".",
        ) from error


def _is_intact(path: Path, published: Published) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() == published.md5


def _reason(error: Exception) -> str:
    """Why a download failed, without Keras's address and the error number."""
    return re.sub(r"^\[Errno -?\d+\] ", "", first_line(error).rpartition(" -- ")[2])
