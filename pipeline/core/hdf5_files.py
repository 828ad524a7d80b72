"""Checks of untrusted HDF5 files: all data must be in the file itself, not in other files or merely declared."""

import math
from typing import Any

LARGEST_NAMES = 2**16  # bytes; larger attributes are not read


def check_contained(root: Any, size: int) -> None:
    """Refuse an HDF5 file that does not contain all of its data.

    Virtual datasets, external storage and links refer to other files; a dataset without stored chunks, or with
    compressed ones, can be larger than any memory.

    Args:
        root: The `h5py.File`.
        size: Its size, in bytes.

    Raises:
        ValueError: The file refers to other files, declares more bytes than it has, or has values that are not numbers.
    """
    import h5py

    total = 0

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        nonlocal total
        if isinstance(node, h5py.Group):
            _check_links(node)
        else:
            check_dataset(node)
            total += node.nbytes

    _check_links(root)
    root.visititems(visit)
    if total > size:
        raise ValueError(f"its arrays need {total:,} bytes, and the file has {size:,}")


def check_dataset(dataset: Any) -> None:
    """Refuse a dataset whose values are in another file, or are not plain numbers.

    Raises:
        ValueError: The values are in another file, or not numbers.
    """
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"the values of {dataset.name!r} lie in another file")
    if dataset.dtype.kind not in "fiu":
        raise ValueError(f"the values of {dataset.name!r} are not numbers")


def get_member(group: Any, name: str, kind: type) -> Any:
    """A member of a group, if it is not a soft or external link.

    Args:
        group: The `h5py.Group`.
        name: The member's name.
        kind: The expected type, `h5py.Group` or `h5py.Dataset`; `object` for either.

    Raises:
        ValueError: The member is a link, which may refer to another file, or of another type.
        KeyError: There is no such member.
    """
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name!r} in {group.name!r} is a link")
    if not isinstance(group[name], kind):
        raise ValueError(f"{name!r} in {group.name!r} is no {kind.__name__.lower()}")
    return group[name]


def small_attribute(node: Any, name: str) -> Any:
    """The value of an attribute; None if it is missing.

    Raises:
        ValueError: It is larger than LARGEST_NAMES.
    """
    if name not in node.attrs:
        return None
    stored = node.attrs.get_id(name)
    if math.prod(stored.shape) * stored.dtype.itemsize > LARGEST_NAMES:
        raise ValueError(f"the attribute {name!r} of {node.name!r} is too large")
    return node.attrs[name]


def _check_links(group: Any) -> None:
    for name in group:
        get_member(group, name, object)
