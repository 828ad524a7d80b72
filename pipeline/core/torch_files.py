"""Untrusted PyTorch checkpoints, read without PyTorch and without running code in them.

`torch.save` pickles an object; tensors in it refer to storages, which follow as raw bytes. Since PyTorch 1.6 both are
members of a zip archive; before, as in torchvision's published VGG16, they are concatenated
(`torch/serialization.py` in PyTorch). A pickle can call any function, so the unpickler here allows only the few
that checkpoints need.
"""

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipeline.core.archives import check_members
from pipeline.core.regular_files import open_regular

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# PyTorch's storage class -> its dtype; bfloat16 is the upper half of a float32.
BFLOAT16 = np.dtype("V2")
DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": BFLOAT16,
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("<i1"),
    "ByteStorage": np.dtype("<u1"),
    "BoolStorage": np.dtype("?"),
}
NESTED = ("state_dict", "model_state_dict", "model", "net")  # of a training checkpoint
DEPTH = 3  # of nested dictionaries


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file.

    Attributes:
        shape: Its shape.
        read: Reads its values.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


@dataclass
class _Storage:
    """A storage of a checkpoint; `offset` is where its bytes begin in a legacy file, known after the pickle."""

    key: str
    dtype: np.dtype
    count: int
    read_bytes: Callable[["_Storage"], bytes]
    offset: int = 0

    def values(self) -> np.ndarray:
        content = self.read_bytes(self)
        if len(content) != self.count * self.dtype.itemsize:
            raise ValueError(f"the storage {self.key!r} has {len(content):,} bytes; {self.count:,} numbers need more")
        if self.dtype == BFLOAT16:
            return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
        return np.frombuffer(content, self.dtype)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch checkpoint: of a state dict, or of the one in a training checkpoint.

    Args:
        path: A file that `torch.save` wrote.

    Returns:
        Name -> tensor, in the order of the file. Values are read later, from the same file.

    Raises:
        ValueError: The file contains objects other than tensors in dictionaries, refers to code, or is damaged.
        OSError: It cannot be read.
    """
    with open_regular(path) as file:
        content = _read_zip(path, file) if zipfile.is_zipfile(file) else _read_legacy(path, file)
    tensors = _tensors(content)
    if not tensors:
        raise ValueError("it has no state dict; save model.state_dict()")
    return tensors


def _tensors(content: object, depth: int = 0) -> dict[str, Tensor]:
    """The tensors of a dictionary, or of the dictionary nested in it."""
    if not isinstance(content, Mapping) or depth == DEPTH:
        return {}
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    nested = (_tensors(content[key], depth + 1) for key in NESTED if key in content)
    return tensors or next(filter(None, nested), {})


def _read_zip(path: Path, file: IO[bytes]) -> object:
    with zipfile.ZipFile(file) as archive:
        check_members(archive, path)
        pickled = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise ValueError("it is not a PyTorch checkpoint: data.pkl is missing")
        folder = pickled[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")

        def read_bytes(storage: _Storage) -> bytes:
            with open_regular(path) as again, zipfile.ZipFile(again) as reopened:
                return reopened.read(f"{folder}data/{storage.key}")

        with archive.open(pickled[0]) as stream:
            return _Unpickler(stream, read_bytes).load()


def _read_legacy(path: Path, file: IO[bytes]) -> object:
    """Read a file from before PyTorch 1.6: pickles of header, object and storage keys, then each storage's bytes."""

    def read_bytes(storage: _Storage) -> bytes:
        with open_regular(path) as again:
            again.seek(storage.offset)
            return again.read(storage.count * storage.dtype.itemsize)

    file.seek(0)
    if _Unpickler(file, read_bytes).load() != LEGACY_MAGIC:
        raise ValueError("it is not a PyTorch checkpoint")
    _Unpickler(file, read_bytes).load()  # protocol version
    _Unpickler(file, read_bytes).load()  # properties of the system
    unpickler = _Unpickler(file, read_bytes)
    content = unpickler.load()
    keys, end = _Unpickler(file, read_bytes).load(), path.stat().st_size
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(unpickler.storages):
        raise ValueError("it names other storages than its tensors use")
    offset = file.tell()
    for key in keys:
        storage = unpickler.storages[str(key)]
        storage.offset = offset + 8  # after the number of elements
        offset = storage.offset + storage.count * storage.dtype.itemsize
        if offset > end:
            raise ValueError("it is truncated")
    return content


class _Unpickler(pickle.Unpickler):
    """Unpickles dictionaries of tensors, and refuses everything else."""

    def __init__(self, file: IO[bytes], read_bytes: Callable[[_Storage], bytes]) -> None:
        super().__init__(file, encoding="utf-8")
        self._read_bytes = read_bytes
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise ValueError(
            f"it refers to {module}.{name}, and loading that could run code; save model.state_dict() instead"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count, *_ = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(count, int) or count < 0:
            raise ValueError("it refers to a storage of an unknown kind")
        return self.storages.setdefault(str(key), _Storage(str(key), dtype, count, self._read_bytes))


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: object) -> Tensor:
    """What PyTorch's function of this name does: a strided view of a storage."""
    whole = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(isinstance(number, int) and number >= 0 for number in whole):
        raise ValueError("a tensor of it is not a view of a storage")
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.count:
        raise ValueError("a tensor of it reaches beyond its storage")

    def read() -> np.ndarray:
        values = storage.values()
        steps = [stride * values.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)

    return Tensor(tuple(shape), read)


def _rebuild_parameter(tensor: Any, *_: object) -> Any:
    return tensor
