"""Files of VGG16's or VGG19's weights in the layouts of Keras, PyTorch and safetensors, whatever the layers' names.

Layers are pairs by Keras's names. In a file without these names, convolutions are matched by their order, and dense
layers by their shapes; both must match the network.
"""

import contextlib
import logging
import math
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipeline.core.archives import check_members
from pipeline.core.errors import Parameter, RequestError, first_line
from pipeline.core.hdf5_files import check_dataset, get_member, small_attribute
from pipeline.core.torch_files import Tensor, read_state_dict
from pipeline.features.vgg import NETWORKS, Arrays, Network

log = logging.getLogger(__name__)

TORCH_SUFFIXES = (".pth", ".pt")
SAFETENSORS = ".safetensors"
SUFFIXES = (".h5", ".hdf5", ".keras", *TORCH_SUFFIXES, SAFETENSORS)
FORMATS = ".h5 (Keras's published layout), .weights.h5, .keras, .pth or .safetensors"
# The names of a layer's kernel and bias in PyTorch, in TensorFlow-Slim, and in Keras and Flax.
NAMES = (("weight", "bias"), ("weights", "biases"), ("kernel", "bias"))
CONVOLUTION = (3, 3)  # rows and columns of VGG16's kernels
BATCH_NORM = ("running_mean", "running_var", "moving_mean", "moving_variance")


@dataclass(frozen=True)
class Pair:
    """The kernel and the bias of a layer in a file.

    Attributes:
        name: The layer's name in the file.
        kernel: Its kernel: in Keras's layout (rows, columns, in, out) or (in, out), in PyTorch's (out, in, rows,
            columns) or (out, in).
        bias: Its bias, shape (out,).
    """

    name: str
    kernel: Tensor
    bias: Tensor


def read_weight_file(network: Network, path: Path, layer: str) -> Arrays:
    """Read and check a network's layers up to `layer` from a file.

    Args:
        network: The network.
        path: The file; its suffix is one of SUFFIXES.
        layer: The last layer to read, by its Keras name.

    Returns:
        Layer -> kernel and bias, in Keras's layout, float32.

    Raises:
        RequestError: The file cannot be read, or its layers do not match the network.
    """
    try:
        with _open_pairs(path) as pairs:
            arrays = _by_name(network, path, pairs, layer) or _by_shape(network, path, pairs, layer)
    except RequestError:
        raise
    except Exception as error:  # h5py, zipfile, pickle and safetensors raise many types for a damaged file
        raise RequestError(
            f"{path} cannot be read as weights of {network.title} ({first_line(error)}). It may be truncated or in "
            "another format; download or save it again."
        ) from error
    for name, (kernel, bias) in arrays.items():
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            raise RequestError(f"{path}: layer {name!r} contains NaN or infinite values.")
    return arrays


def first_convolution(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """The kernel and the bias of the first convolution in a file, in Keras's layout, float32.

    Returns:
        Shapes (3, 3, 3, 64) and (64,); None if the file cannot be read, or has no convolution from 3 channels to 64.
    """
    with contextlib.suppress(Exception), _open_pairs(path) as pairs:
        for pair in pairs:
            for is_torch in (False, True):
                if pair.kernel.shape == ((64, 3, *CONVOLUTION) if is_torch else (*CONVOLUTION, 3, 64)):
                    kernel = _float32(pair.kernel)
                    return kernel.transpose(2, 3, 1, 0) if is_torch else kernel, _float32(pair.bias)
    return None


def _by_name(network: Network, path: Path, pairs: Sequence[Pair], layer: str) -> Arrays:
    """The layers by Keras's names; nothing if the file has none of these names."""
    shapes = network.weighted_layers(layer)
    named = {pair.name: pair for pair in pairs if pair.name in shapes}
    for name, pair in named.items():
        if (pair.kernel.shape, pair.bias.shape) != (shapes[name], shapes[name][-1:]):  # not read: may be huge
            raise RequestError(
                f"{path}: layer {name!r} has a kernel of shape {pair.kernel.shape}; "
                f"{network.title}'s is {shapes[name]}."
            )
    if not named:
        return {}
    for other in NETWORKS.values():  # VGG19 has all of VGG16's layers, by the same names and shapes
        if deeper := [pair.name for pair in pairs if pair.name in set(other.convolutions) - set(network.convolutions)]:
            network_option = Parameter("network", other.name)
            raise RequestError(f"{path} holds {other.title}: it has a layer {deeper[0]!r}. Use ", network_option, ".")
    for name in shapes:
        if name not in named:
            raise RequestError(
                f"{path} has no layer {name!r}, which the layer {layer!r} needs. A file without the top has "
                "the layers up to block5_pool only."
            )
    return {name: (_float32(named[name].kernel), _float32(named[name].bias)) for name in shapes}


def _by_shape(network: Network, path: Path, pairs: Sequence[Pair], layer: str) -> Arrays:
    """The layers by the order of the convolutions and by the shapes of the dense layers."""
    pairs = [pair for pair in pairs if pair.kernel.shape and len(pair.kernel.shape) in (2, 4)]
    is_torch = any(_is_convolution(pair, is_torch=True) for pair in pairs)
    needed = network.weighted_layers(layer)
    convolutions = _convolutions(network, path, [pair for pair in pairs if _is_convolution(pair, is_torch)], is_torch)
    others = [pair for pair in pairs if not _is_convolution(pair, is_torch)]
    matched: dict[str, Pair] = {}
    for name, shape in needed.items():
        if len(shape) == 4:
            fitting = [convolutions[name]] if name in convolutions else []
        else:
            fitting = [pair for pair in others if _dense_shape(pair, is_torch) == shape]
        if len(fitting) != 1:
            names = f": {', '.join(pair.name for pair in fitting)}" if fitting else ""
            raise RequestError(
                f"{path} has {len(fitting) or 'no'} layers that could be {name!r}, of shape {shape}{names}; the layer "
                f"{layer!r} needs it. Rename the layers as Keras does, or choose an earlier layer."
            )
        matched[name] = fitting[0]
    table = ", ".join(f"{pair.name} is {name}" for name, pair in matched.items())
    log.info("%s: layers matched by order and shape: %s.", path, table)
    return {name: (_keras_kernel(network, pair, name, is_torch), _float32(pair.bias)) for name, pair in matched.items()}


def _convolutions(network: Network, path: Path, pairs: Sequence[Pair], is_torch: bool) -> dict[str, Pair]:
    """The network's convolutions, or the first of them if the file has no more."""
    shapes = [_keras_shape(pair, is_torch) for pair in pairs]
    if shapes and shapes == _shapes(network)[: len(shapes)]:
        return dict(zip(network.convolutions, pairs, strict=False))
    fitting = [other for other in NETWORKS.values() if shapes == _shapes(other)]
    filters = ", ".join(str(shape[-1]) for shape in shapes)
    has = f"its 3 x 3 convolutions have {filters} filters" if shapes else "it has no 3 x 3 convolutions"
    expected = ", ".join(str(shape[-1]) for shape in _shapes(network))
    hint = (" Use ", Parameter("network", fitting[0].name), ".") if fitting else ()
    raise RequestError(f"{path} does not hold {network.title}: {has}; {network.title}'s have {expected}.", *hint)


def _shapes(network: Network) -> list[tuple[int, ...]]:
    """The shapes of the convolutions' kernels."""
    return list(network.weighted_layers(network.convolutions[-1]).values())


def _is_convolution(pair: Pair, is_torch: bool) -> bool:
    shape = pair.kernel.shape
    return len(shape) == 4 and (shape[2:] if is_torch else shape[:2]) == CONVOLUTION


def _keras_shape(pair: Pair, is_torch: bool) -> tuple[int, ...]:
    shape = pair.kernel.shape
    return (*shape[2:], shape[1], shape[0]) if is_torch else shape


def _dense_shape(pair: Pair, is_torch: bool) -> tuple[int, int]:
    """Inputs and outputs of a dense layer, or of a convolution over all positions, as timm and Slim store one."""
    shape = _keras_shape(pair, is_torch)
    return math.prod(shape[:-1]), shape[-1]


def _keras_kernel(network: Network, pair: Pair, name: str, is_torch: bool) -> np.ndarray:
    """A kernel in Keras's layout.

    PyTorch flattens (channels, rows, columns), Keras (rows, columns, channels), so the inputs of the first dense layer
    are reordered.
    """
    kernel, shape = _float32(pair.kernel), network.weighted_layers(name)[name]
    if is_torch:
        if kernel.ndim == 2 and name == network.dense[0][0]:
            channels = network.blocks[-1][-1][2]
            side = math.isqrt(shape[0] // channels)
            kernel = kernel.reshape(-1, channels, side, side)
        kernel = kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T
    return np.ascontiguousarray(kernel).reshape(shape)


def _float32(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.read(), np.float32)


@contextlib.contextmanager
def _open_pairs(path: Path) -> Iterator[list[Pair]]:
    """The pairs of a file, in the order of its layers; they can be read until the context ends."""
    suffix = path.suffix.lower()
    if suffix in TORCH_SUFFIXES:
        yield _pairs_of(read_state_dict(path))
    elif suffix == SAFETENSORS:
        import safetensors

        with safetensors.safe_open(path, framework="numpy") as file:
            yield _pairs_of({name: _slice(file, name) for name in sorted(file.keys(), key=_natural)})
    else:
        import h5py

        with _open_hdf5(path) as content, h5py.File(content, "r") as root:
            yield _hdf5_pairs(root)


def _slice(file: Any, name: str) -> Tensor:
    """A tensor in a safetensors file."""
    return Tensor(tuple(file.get_slice(name).get_shape()), lambda: file.get_tensor(name))


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key for names, with numbers in numerical order."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _pairs_of(tensors: Mapping[str, Tensor]) -> list[Pair]:
    """The pairs of a state dict, in its order; other tensors are left out."""
    if normalized := next((name for name in tensors if name.rpartition(".")[2] in BATCH_NORM), None):
        raise RequestError(
            f"The weights have batch normalization ({normalized}), like vgg16_bn. Use weights of a network without it."
        )
    pairs = []
    for name, kernel in tensors.items():
        layer, _, part = name.rpartition(".")
        bias = next((tensors.get(f"{layer}.{of_bias}") for of_kernel, of_bias in NAMES if part == of_kernel), None)
        if bias is not None:
            pairs.append(Pair(layer, kernel, bias))
    return pairs


def _hdf5_pairs(root: Any) -> list[Pair]:
    """The pairs anywhere in an HDF5 file, in the natural order of their locations.

    The published layout stores a layer in a group of its name; the attribute `weight_names` lists kernel and bias.
    Keras 3 stores it in a group `vars` as "0" and "1"; the attribute `name` is the layer's name. Files converted from
    other frameworks store kernel and bias in a group of the layer's name.
    """
    import h5py

    pairs: dict[str, Pair] = {}

    def visit(location: str, node: Any) -> None:
        if not isinstance(node, h5py.Group):
            return
        keys: Any = ("0", "1")
        if location.endswith("vars"):
            name = small_attribute(node, "name")
        else:
            names = small_attribute(node, "weight_names")
            name = location.rpartition("/")[2]
            usual = next((pair for pair in NAMES if _holds(node, pair)), ())
            keys = usual if names is None else names
        if isinstance(name, str) and len(keys) == 2 and _holds(node, keys):
            pairs[location] = Pair(name, *(_dataset(node, key) for key in keys))

    root.visititems(visit)
    return [pairs[location] for location in sorted(pairs, key=_natural)]


def _holds(group: Any, keys: Sequence[str | bytes]) -> bool:
    return all(key in group for key in keys)


def _dataset(group: Any, key: str | bytes) -> Tensor:
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
    return Tensor(dataset.shape, lambda: dataset[()])


def _open_hdf5(path: Path) -> IO[bytes]:
    """Open a weights file, or the HDF5 file in a `.keras` archive."""
    if path.suffix != ".keras":
        return open(path, "rb")
    with zipfile.ZipFile(path) as archive:
        check_members(archive, path)
        return archive.open("model.weights.h5")
