"""Tables in HDF5 files: datasets by name, variables of MATLAB 7.3, and BData of bdpy.

All three are untrusted: links to other files are not followed, and sizes are checked before anything is read.
"""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar, cast

import h5py
import numpy as np

from pipeline.core.child_processes import blocked, end, end_with_parent, start_spawned
from pipeline.core.errors import RequestError
from pipeline.core.hdf5_files import check_dataset
from pipeline.core.regular_files import check_unpacked
from pipeline.data.binary_tables import ArrayTable, array_kind, open_file, singular
from pipeline.data.tables import Column, check_names

CLASS, EMPTY = "MATLAB_class", "MATLAB_empty"  # attributes that MATLAB writes
INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
NUMBERS = ("double", "single", "logical", *INTEGERS)  # classes of MATLAB
LONGEST_NAME = 2**16  # bytes
NAMES_AT_ONCE = 4096
TIME_LIMIT = 60.0  # seconds, to read all texts of a dataset
T = TypeVar("T")
BDATA = ("dataset", "metadata/key", "metadata/value")


def hdf5_table(file: Path) -> ArrayTable:
    """Open an HDF5 file as a table: BData of bdpy, variables of MATLAB 7.3, or datasets by name.

    Raises:
        RequestError: The file cannot be read.
    """
    with open_hdf5(file) as root:
        if all(isinstance(root.get(name), h5py.Dataset) for name in BDATA):
            return BDataTable(file)
        is_matlab = any(CLASS in node.attrs for node in root.values() if isinstance(node, h5py.Dataset))
    return MatlabTable(file) if is_matlab else Hdf5Table(file)


@contextlib.contextmanager
def open_hdf5(file: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file; any error while it is read becomes one message.

    Raises:
        RequestError: The file cannot be read.
    """
    with open_file(file), h5py.File(file, "r", locking=False) as root:
        yield root


class Hdf5Table(ArrayTable):
    """An HDF5 file with a column for each dataset, named by its path.

    Args:
        file: The file.

    Raises:
        RequestError: The file cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        with open_hdf5(file) as root:
            kinds = {name: self._kind(node) for name, node in self._datasets(root)}
        self._names = list(kinds)
        self.columns = [Column(singular(name), kind) for name, kind in kinds.items()]
        check_names([column.name for column in self.columns], str(file))

    def arrays(self, columns: Sequence[int]) -> list[np.ndarray]:
        """See `ArrayTable.arrays`; contiguous datasets of numbers are mapped, not loaded."""
        with open_hdf5(self.file) as root:
            return [self._read(root, root[self._names[number]]) for number in columns]

    def _datasets(self, root: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
        datasets: list[tuple[str, h5py.Dataset]] = []
        root.visititems(lambda name, node: datasets.append((name, node)) if isinstance(node, h5py.Dataset) else None)
        return iter(datasets)

    def _kind(self, dataset: h5py.Dataset) -> Any:
        if _is_text(dataset):
            return "text" if dataset.ndim == 1 else "other"
        return array_kind(dataset.shape or (), dataset.dtype) if dataset.dtype.kind in "fiu" else "other"

    def _read(self, root: h5py.File, dataset: h5py.Dataset) -> np.ndarray:
        if _is_text(dataset):
            return texts_of(self.file, dataset)
        check_dataset(dataset)
        offset = dataset.id.get_offset() if dataset.chunks is None and not root.userblock_size else None
        if offset is not None:
            return np.memmap(self.file, dataset.dtype, "r", offset, dataset.shape)
        check_unpacked(self.file, dataset.nbytes)
        return dataset[()]


class MatlabTable(Hdf5Table):
    """A file of MATLAB 7.3 with a column for each variable.

    HDF5 stores MATLAB's arrays transposed, a vector as a matrix, text as UTF-16 code units, and a cell array as
    references to its elements.
    """

    def _datasets(self, root: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
        return ((name, node) for name, node in root.items() if isinstance(node, h5py.Dataset) and CLASS in node.attrs)

    def _kind(self, dataset: h5py.Dataset) -> Any:
        return matlab_kind(dataset.attrs[CLASS].decode(), dataset.shape[::-1], is_empty=EMPTY in dataset.attrs)

    def _read(self, root: h5py.File, dataset: h5py.Dataset) -> np.ndarray:
        if dataset.attrs[CLASS] == b"cell":
            texts = [_characters(self.file, root[reference]) for reference in dataset[()].ravel()]
            return np.array(["".join(rows) for rows in texts], object)
        if dataset.attrs[CLASS] == b"char":
            return np.array(_characters(self.file, dataset), object)
        check_dataset(dataset)
        check_unpacked(self.file, dataset.nbytes)
        array = np.ascontiguousarray(dataset[()].T)
        return array.ravel() if 1 in array.shape else array


def matlab_kind(name: str, shape: tuple[int, ...], is_empty: bool = False) -> Any:
    """The kind of a MATLAB variable as a column of a table; see `Column`.

    Args:
        name: Its class.
        shape: Its size in MATLAB.
        is_empty: Whether it has no elements.
    """
    if is_empty or len(shape) != 2 or 0 in shape:
        return "other"
    if name == "char":
        return "text"
    if name == "cell":
        return "text" if 1 in shape else "other"
    if name in NUMBERS:
        return "number" if 1 in shape else "list"
    return "other"


def _characters(file: Path, dataset: h5py.Dataset) -> list[str]:
    """The rows of a MATLAB character array; a text has one row."""
    if dataset.attrs.get(EMPTY):
        return [""]
    if dataset.attrs.get(CLASS) != b"char":
        raise RequestError(f"{file}: a cell contains {dataset.attrs.get(CLASS, b'something').decode()}, not text.")
    check_dataset(dataset)
    if dataset.nbytes > LONGEST_NAME * (dataset.shape[-1] if dataset.ndim else 1):
        raise RequestError(f"{file}: a name has more than {LONGEST_NAME:,} bytes.")
    codes = np.ascontiguousarray(dataset[()].T.reshape(-1, dataset.shape[0]), "<u2")
    return [row.tobytes().decode("utf-16-le", "surrogatepass").rstrip() for row in codes]


def _is_text(dataset: h5py.Dataset) -> bool:
    return h5py.check_string_dtype(dataset.dtype) is not None


def texts_of(file: Path, dataset: h5py.Dataset) -> np.ndarray:
    """Read the texts in a dataset.

    Returns:
        Shape (N,), object: bytes.

    Raises:
        RequestError: The texts are damaged.
    """
    if h5py.check_string_dtype(dataset.dtype).length is None:
        return np.array(_read_apart(file, _read_texts, dataset.name), object)
    check_unpacked(file, dataset.nbytes)
    return dataset[()].astype(object)


def _read_apart(file: Path, read: Callable[..., T], *arguments: object) -> T:
    """Read texts of variable length in another process, with a time limit.

    HDF5 stores them in a heap. If that is damaged, HDF5 may loop forever, and not even Ctrl-C would stop this process.

    Args:
        file: The file.
        read: A function of this module that takes an `h5py.File`, `file`, and the arguments.
        arguments: Its other arguments.

    Raises:
        RequestError: The texts are damaged, or `read` raised it.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, file, read, arguments), daemon=True)
    with blocked(signal.SIGINT):
        start_spawned(process)
    sender.close()
    try:
        result = receiver.recv() if receiver.poll(TIME_LIMIT) else None
    except EOFError:  # the process crashed
        result = None
    finally:
        end([process])
        receiver.close()
    if result is None:
        raise RequestError(f"{file}: its texts are damaged.")
    if isinstance(result, RequestError):
        raise result
    return cast(T, result)


def _send(sender: Connection, file: Path, read: Callable[..., object], arguments: Sequence[object]) -> None:
    """Send what a function reads, or its error."""
    end_with_parent()
    try:
        with open_hdf5(file) as root:
            sender.send(read(root, file, *arguments))
    except RequestError as error:
        sender.send(error)


def _read_texts(root: h5py.File, file: Path, name: str) -> list[Any]:
    """Read texts in blocks, because a few bytes in the file may expand to a long text."""
    dataset, texts, size = root[name], [], 0
    for start in range(0, len(dataset), NAMES_AT_ONCE):
        block = dataset[start : start + NAMES_AT_ONCE].tolist()
        texts += block
        size += sum(map(len, block))
        check_unpacked(file, size)
    return texts


class BDataTable(ArrayTable):
    """BData of bdpy (https://github.com/KamitaniLab/bdpy) in HDF5, with a column for each key of its metadata.

    `dataset` (N, M) has all numbers. `metadata/value` (K, M) is 1 where a column of `dataset` belongs to a key in
    `metadata/key` (K,). The optional `vmap/KEY/NUMBER` is the text for a number of a key.

    Args:
        file: The file.

    Raises:
        RequestError: The file cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        with open_hdf5(file) as root:
            check_dataset(root["dataset"])
            check_unpacked(file, root["metadata/value"].nbytes)
            keys, self._texts = _read_apart(file, _read_keys)
            values = root["metadata/value"][()]
            if values.shape != (len(keys), root["dataset"].shape[-1]):
                raise RequestError(
                    f"{file}: its metadata has {len(keys)} keys and values of shape {values.shape}, and its dataset "
                    f"{root['dataset'].shape}."
                )
            self._columns = {key: np.flatnonzero(value == 1) for key, value in zip(keys, values, strict=True)}
        self._columns = {key: columns for key, columns in self._columns.items() if len(columns)}
        self.columns = [Column(key, self._kind(key)) for key in self._columns]
        check_names([column.name for column in self.columns], str(file))

    def arrays(self, columns: Sequence[int]) -> list[np.ndarray]:
        """See `ArrayTable.arrays`."""
        keys = [list(self._columns)[number] for number in columns]
        with open_hdf5(self.file) as root:
            dataset = root["dataset"]
            check_unpacked(self.file, dataset.nbytes)
            arrays = [_columns_of(dataset, self._columns[key]) for key in keys]
        return [
            np.array([self._texts[key].get(float(number)) for number in array], object)
            if self._kind(key) == "text"
            else array
            for key, array in zip(keys, arrays, strict=True)
        ]

    def _kind(self, key: str) -> Any:
        if len(self._columns[key]) > 1:
            return "list"
        return "text" if key in self._texts else "number"


def _columns_of(dataset: h5py.Dataset, columns: np.ndarray) -> np.ndarray:
    """Some columns of a dataset, shape (N, n), or (N,) for one."""
    block = dataset[:, int(columns[0]) : int(columns[-1]) + 1][:, columns - columns[0]]
    return block[:, 0] if len(columns) == 1 else np.ascontiguousarray(block)


def _read_keys(root: h5py.File, file: Path) -> tuple[list[str], dict[str, dict[float, str]]]:
    """The keys of BData, and for each key with a `vmap` the text of each of its numbers."""
    vmaps = {
        key: {float(number): _decoded(node[()]) for number, node in group.items() if _is_text(node) and not node.shape}
        for key, group in root.get("vmap", {}).items()
    }
    return [_decoded(key) for key in _read_texts(root, file, "metadata/key")], vmaps


def _decoded(text: bytes | str) -> str:
    return text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text
