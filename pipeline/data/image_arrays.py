"""Images in an array of an HDF5 file, `FILE.h5:DATASET`: read row by row, never as a whole."""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.core.errors import ImageError, Parameter, PipelineError, RequestError, first_line
from pipeline.core.hdf5_files import check_dataset, get_member
from pipeline.core.regular_files import check_unpacked
from pipeline.core.wording import counted, examples
from pipeline.data.hdf5_tables import texts_of
from pipeline.data.image_names import image_set
from pipeline.data.images import ImageSet, PartRef, check_size, open_image, stable_version, version_of
from pipeline.data.pixels import as_file
from pipeline.data.tables import cell_text

LARGEST_CHUNK = 2**28  # bytes; a chunk is decompressed as a whole
SHAPES = "(N, height, width, 3) or (N, 3, height, width), uint8, from 0 to 255"


@dataclass(frozen=True, slots=True)
class ArrayRow(PartRef):
    """An image in a row of an array.

    Attributes:
        dataset: The name of the array in its file.
        row: The number of the row, from 0.
    """

    dataset: str = ""
    row: int = 0

    def read(self) -> tuple[bytes, str | None]:
        """The content of a file with these pixels, like an image in memory; see `ImageRef.read`."""
        with open_image(self.file) as (_, status):
            self.check_unchanged(version_of(status))
        with _damage_named(), _reading:
            pixels = _array.get(self.file, self.listed, self.dataset)[self.row]
        data = as_file(pixels if pixels.shape[-1] == 3 else np.moveaxis(pixels, 0, -1))
        check_size(len(data))
        return data, stable_version(status)


class _OpenArray:
    """Keeps the array that was read last open for its next rows."""

    def __init__(self) -> None:
        self._key: tuple[str | None, ...] = ()
        self._array: Any = None

    def get(self, file: str, version: str | None, dataset: str) -> Any:
        """Open an array, unless it is open; h5py caches its last decompressed chunk."""
        if self._key != (file, version, dataset):
            self.close()
            with h5py.File(file) as opened:
                chunk = _chunk_bytes(_member(opened, dataset))
            self._array = _member(h5py.File(file, rdcc_nbytes=max(2**20, chunk)), dataset)
            self._key = (file, version, dataset)
        return self._array

    def close(self) -> None:
        """Close the file, because HDF5 does not notice changes of a file that is open."""
        if self._array:
            self._array.file.close()
        self._key, self._array = (), None


_array, _reading = _OpenArray(), threading.Lock()


def find_array(source: str, file: str, dataset: str | None, names: str | None = None) -> ImageSet:
    """Find the images in an array of an HDF5 file.

    Args:
        source: The source as the user named it.
        file: The file.
        dataset: The name of the array, with the names of its groups; None for the only array of images.
        names: The array with the names of the images; None to name them by row number.

    Returns:
        The images, in the order of the rows.

    Raises:
        RequestError: There is no such array, it has no images, or the names are not unique.
    """
    path = os.path.abspath(file)
    _array.close()
    try:
        with open_image(path) as (_, status):
            pass
        with _damage_named(), h5py.File(path) as opened:
            name = dataset or _only_array(source, opened)
            array = _member(opened, name)
            _check(source, array)
            check_unpacked(Path(path), array.nbytes)
            paths = _names(source, opened, names, len(array)) if names else _numbers(len(array))
    except ImageError as error:
        raise RequestError(f"{source} cannot be read ({error}).") from error
    version = version_of(status)
    refs = [ArrayRow(f"{path}:{name}#{image}", None, version, path, name, row) for row, image in enumerate(paths)]
    return image_set(source, paths, refs)


def _numbers(count: int) -> list[str]:
    """The numbers of the rows, with zeros so that sorting keeps their order."""
    return [str(row).zfill(len(str(count - 1))) for row in range(count)]


def _names(source: str, opened: Any, dataset: str, count: int) -> list[str]:
    """The names of the images."""
    array = _member(opened, dataset)
    option = Parameter("names", dataset)
    is_text = h5py.check_string_dtype(array.dtype) is not None
    if not (is_text or array.dtype.kind in "iu") or array.shape != (count,):
        raise RequestError(
            option,
            f" is an array of shape {array.shape}, {array.dtype}; it must have a name for each of the {count} rows.",
        )
    values = texts_of(Path(opened.filename), array) if is_text else array[:]
    names = [cell_text(value, f"{source}, names") or "" for value in values.tolist()]
    name, uses = Counter(names).most_common(1)[0]
    if uses > 1 or not all(names):
        raise RequestError(option, f" has {f'the name {name!r} more than once' if uses > 1 else 'an empty name'}.")
    return names


def _only_array(source: str, opened: Any) -> str:
    """The name of the only array of images in a file."""
    arrays: list[str] = []
    others: list[str] = []

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            (arrays if _is_shaped(node) and node.dtype == np.uint8 else others).append(name)

    opened.visititems(visit)  # follows no links
    if len(arrays) != 1:
        known = f"has {counted(len(arrays), 'array')} of images"
        listed = examples(arrays or others)
        listing = (f": {listed}" if arrays else f", only {listed}") if listed else ""
        raise RequestError(f"{source} {known}{listing}. Name one as FILE.h5:DATASET; its shape is {SHAPES}.")
    return arrays[0]


def _check(source: str, array: Any) -> None:
    """Refuse an array without images, or with chunks that are too large."""
    if array.dtype != np.uint8 or not _is_shaped(array):
        raise RequestError(f"{source} is an array of shape {array.shape}, {array.dtype}; images need {SHAPES}.")
    if (size := _chunk_bytes(array)) > LARGEST_CHUNK:
        raise RequestError(f"{source} is stored in chunks of {size:,} bytes; the limit is {LARGEST_CHUNK:,}.")


def _is_shaped(array: Any) -> bool:
    return array.ndim == 4 and 3 in (array.shape[1], array.shape[3]) and 0 not in array.shape


def _chunk_bytes(array: Any) -> int:
    return int(np.prod(array.chunks or (0,), dtype=np.int64)) * array.dtype.itemsize


def _member(opened: Any, name: str) -> Any:
    """Get an array in a file by its name; links and external data are refused.

    Raises:
        RequestError: There is no such array.
        ValueError: It is a link, or its values are in another file.
    """
    array, parts = opened, [part for part in name.split("/") if part]
    for number, part in enumerate(parts, 1):
        if part not in array:
            raise RequestError(f"{opened.filename} has no array {name!r}; it has {examples(sorted(array))}.")
        array = get_member(array, part, h5py.Dataset if number == len(parts) else h5py.Group)
    if h5py.check_string_dtype(array.dtype) is None:
        check_dataset(array)
    elif array.is_virtual or array.external:
        raise ValueError(f"the values of {array.name!r} lie in another file")
    return array


@contextmanager
def _damage_named() -> Iterator[None]:
    """Convert errors of h5py.

    Raises:
        ImageError: The file is damaged, or refers to another one.
    """
    try:
        yield
    except (PipelineError, MemoryError):
        raise
    except Exception as error:  # h5py raises many types for damaged files
        raise ImageError(first_line(error)) from error
