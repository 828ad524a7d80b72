"""HDF5 files that are what they seem: no data from other files, and none that is only declared."""

import math
from typing import Any

LARGEST_NAMES = 2**16  # bytes of an attribute that is read


def check_contained(root: Any, size: int) -> None:
    """Refuse an HDF5 file whose data is not in it.

    Virtual datasets, external storage and links lead to other files; a dataset without stored chunks, or with
    compressed ones, can be larger than any memory.

    Args:
        root: The `h5py.File`.
        size: Its size, in bytes.

    Raises:
        ValueError: The file is such a one.
    """
    import h5py

    declared = 0

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        nonlocal declared
        if isinstance(node, h5py.Group):
            _check_links(node)
        else:
            check_stored_here(node)
            declared += node.nbytes

    _check_links(root)
    root.visititems(visit)
    if declared > size:
        raise ValueError(f"its arrays need {declared:,} bytes, and the file has {size:,}")


def check_stored_here(dataset: Any) -> None:
    """Refuse a dataset whose values lie in another file, or are no plain numbers.

    Raises:
        ValueError: It is such a one.
    """
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"the values of {dataset.name!r} lie in another file")
    if dataset.dtype.kind not in "fiu":
        raise ValueError(f"the values of {dataset.name!r} are not numbers")


def linked(group: Any, name: str, kind: type) -> Any:
    """A group or a dataset in a group.

    Raises:
        ValueError: It is a link, which may lead to another file, or of another kind.
        KeyError: There is none.
    """
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name!r} in {group.name!r} is a link")
    if not isinstance(group[name], kind):
        raise ValueError(f"{name!r} in {group.name!r} is no {kind.__name__.lower()}")
    return group[name]


def small_attribute(node: Any, name: str) -> Any:
    """An attribute, or None where it is missing.

    Raises:
        ValueError: It is larger than names are.
    """
    if name not in node.attrs:
        return None
    stored = node.attrs.get_id(name)
    if math.prod(stored.shape) * stored.dtype.itemsize > LARGEST_NAMES:
        raise ValueError(f"the attribute {name!r} of {node.name!r} is too large")
    return node.attrs[name]


def _check_links(group: Any) -> None:
    for name in group:
        linked(group, name, object)
