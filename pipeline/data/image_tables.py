"""Images in the rows of Parquet and Arrow files, such as the data sets of the Hugging Face Hub.

A column contains the bytes of image files, or structs `{bytes, path}` as the library `datasets` writes them. Its
schemas also say which columns are images, and name the classes (https://huggingface.co/docs/datasets).
"""

import functools
import json
import logging
import posixpath
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.core.errors import ImageError, Parameter, RequestError
from pipeline.core.locations import is_bucket_url
from pipeline.core.wording import examples
from pipeline.data import lists
from pipeline.data.image_names import image_set
from pipeline.data.images import ImageSet, PartRef, check_size, open_image, stable_version, version_of
from pipeline.data.splits import SIDES
from pipeline.data.table_rows import ImageColumn, Rows, damage_named, open_rows
from pipeline.data.tables import as_vector, cell_text

log = logging.getLogger(__name__)

LISTED = 4096  # rows whose labels are read at a time
IMAGE, CLASS = "Image", "ClassLabel"  # types in a data set's description of its columns
USUAL = "image"  # the column of images by default, if there are several
SPLIT = re.compile(r"(\w+?)-\d{5}-of-\d{5}")  # names of files that `datasets` writes
NO_COLUMNS = dict.fromkeys(lists.COLUMNS)
_reading = threading.Lock()


@dataclass(frozen=True, slots=True)
class TableRow(PartRef):
    """An image in a row of a table.

    Attributes:
        column: The column of images.
        row: The number of the row in its file, from 0.
    """

    column: str = ""
    row: int = 0

    @property
    def is_remote(self) -> bool:
        """False, even in a bucket: rows are read in order, so parallel reads are not faster."""
        return False

    @property
    def is_local(self) -> bool:
        """Whether the table is on a disk."""
        return not is_bucket_url(self.file)

    def read(self) -> tuple[bytes, str | None]:
        """Read the image; see `ImageRef.read`."""
        version = self.listed
        if self.is_local:
            with open_image(self.file) as (_, status):
                self.check_unchanged(version_of(status))
                version = stable_version(status)
        with _reading:
            data = _image_column(self.file, self.listed, self.column).read(self.row)
        check_size(len(data))
        return data, version


@functools.lru_cache(maxsize=1)
def _image_column(file: str, version: str | None, column: str) -> ImageColumn:
    """The column of images in a file, which stays open for the next rows."""
    return ImageColumn(file, column)


class _Table(NamedTuple):
    """The images in a table.

    Attributes:
        file: Its path or URL.
        version: Its version.
        column: The column of images.
        paths: The path of each image, or None.
        rows: The columns of a list for each image; see `pipeline.data.lists.COLUMNS`.
    """

    file: str
    version: str | None
    column: str
    paths: Sequence[str | None]
    rows: Sequence[dict[str, Any]]


def find_rows(source: str, files: Mapping[str, str], column: str | None = None) -> ImageSet:
    """Find the images in Parquet and Arrow files.

    They keep the order of the rows. Their names are the paths in their structs if these are unique, else the row
    numbers, with the name of the file in front if there are several. The columns `label`, `group`, `split` and `target`
    are those of a list; a single column of classes is also the label. Without a column `split`, the name of the file or
    of its folder may give the split. A damaged file is reported and skipped.

    Args:
        source: The source as the user named it.
        files: Name of a file -> its absolute path or URL.
        column: The column of images; None if there is only one, or one of them is called `image`.

    Returns:
        The images.

    Raises:
        RequestError: There are no images, or it is not clear which column has them.
        PipelineError: A bucket's server does not answer.
    """
    tables: dict[str, _Table] = {}
    damaged: dict[str, str] = {}
    for name, file in files.items():
        try:
            tables[name] = _read_table(name, file, column)
        except ImageError as error:
            damaged[name] = str(error)
            log.warning("Skipped %s: %s.", name, error)
    located = [(name, table, number) for name, table in tables.items() for number in range(len(table.rows))]
    if not located:
        why = next(iter(damaged.values()), "no rows")
        raise RequestError(f"{source}: no images in {examples(list(files))} ({why}).")
    names = [table.paths[number] or "" for _, table, number in located]
    if all(names) and len(set(names)) == len(names):
        paths = names
    else:
        names = [str(number).zfill(len(str(len(table.rows) - 1))) for _, table, number in located]
        paths = [
            name if len(tables) == 1 else f"{file}#{name}" for name, (file, _, _) in zip(names, located, strict=True)
        ]
    refs = [
        TableRow(f"{table.file}#{name}", None, table.version, table.file, table.column, number)
        for name, (_, table, number) in zip(names, located, strict=True)
    ]
    rows = {path: table.rows[number] for path, (_, table, number) in zip(paths, located, strict=True)}
    columns = lists.columns_of(source, rows, {path: [row["target"]] for path, row in rows.items()})
    return image_set(source, paths, refs, unread=[files[name] for name in damaged], **columns)


def has_images(file: str) -> bool | None:
    """Whether a table has a column of images and is not a list (has no column `path`); None if it cannot be read."""
    try:
        schema = open_rows(file).schema
    except ImageError:
        return None
    return "path" not in map(str.lower, schema.names) and bool(_candidates(schema, _features(schema)))


def _read_table(name: str, file: str, column: str | None) -> _Table:
    """Read everything about the images in a table except their content.

    Raises:
        ImageError: The table is damaged.
        RequestError: It is not clear which column has the images.
    """
    table = open_rows(file)
    features = _features(table.schema)
    images = _choose(name, table.schema, features, column)
    columns = _list_columns(table.schema, features)
    with damage_named():
        paths, rows = _read_rows(name, table, images, columns)
    names, split = features.get(columns.get("label", ""), {}).get("names"), _split_of(name)
    for row in rows:
        row["label"] = _class_name(row["label"], names)
        row["split"] = row["split"] or split
    return _Table(file, table.version, images, paths, rows)


def _read_rows(
    name: str, table: Rows, images: str, columns: Mapping[str, str]
) -> tuple[list[str | None], list[dict[str, Any]]]:
    """The paths of the images, and the columns of a list."""
    has_paths = "path" in _fields(table.schema.field(images).type)
    read = [*columns.values(), *([f"{images}.path"] if has_paths else [])]
    count = table.count()
    if not read:
        return [None] * count, [dict(NO_COLUMNS) for _ in range(count)]
    paths: list[str | None] = []
    rows: list[dict[str, Any]] = []
    for _, batch in table.batches(read, 0, LISTED):
        batch.validate()
        cells = {key: _values(batch.column(column)) for key, column in columns.items()}
        paths += _values(batch.column(images).field("path")) if has_paths else [None] * len(batch)
        for number in range(len(batch)):
            row = {key: _cell(key, values[number], f"{name}, row {len(rows)}") for key, values in cells.items()}
            rows.append(NO_COLUMNS | row)
    return paths, rows


def _values(column: pa.Array) -> list[Any]:
    """The cells of a column, checked first, because offsets in a damaged Arrow file may point anywhere in memory."""
    column.validate(full=True)
    return column.to_pylist()


def _cell(key: str, value: Any, where: str) -> Any:
    if key == "target":
        return None if value is None else as_vector(value)
    return cell_text(value, where)


def _list_columns(schema: pa.Schema, features: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The columns of a list in a table: name in a list -> name in the table."""
    columns: dict[str, str] = {}
    for field in schema:
        key = field.name.lower()
        is_numbers = pa.types.is_list(field.type) and _is_number(field.type.value_type)
        if key in lists.COLUMNS and (is_numbers if key == "target" else not pa.types.is_nested(field.type)):
            columns.setdefault(key, field.name)
    classes = [name for name in schema.names if features.get(name, {}).get("_type") == CLASS]
    return columns | ({"label": classes[0]} if len(classes) == 1 else {})


def _class_name(label: str | None, names: Any) -> str | None:
    """The name of a class by its number; other labels are unchanged."""
    if not (label and isinstance(names, list)):
        return label
    if label == "-1":  # how data sets hide the labels of a test set
        return None
    is_number = label.isdecimal() and int(label) < len(names)
    return str(names[int(label)]) if is_number else label


def _split_of(name: str) -> str | None:
    """The split in the name of a file, such as train-00000-of-00002.parquet, or in the name of its folder."""
    match = SPLIT.match(posixpath.basename(name))
    folder = posixpath.basename(posixpath.dirname(name))
    return next((part for part in (match[1] if match else "", folder) if part.lower() in SIDES), None)


def _fields(kind: pa.DataType) -> list[str]:
    """The names of the fields of a struct."""
    return [field.name for field in kind] if pa.types.is_struct(kind) else []


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """A data set's description of its columns: column -> its type and properties."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _candidates(schema: pa.Schema, features: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The columns that may contain images."""
    declared = [name for name in schema.names if features.get(name, {}).get("_type") == IMAGE]
    return declared or [field.name for field in schema if _is_bytes(field.type) or "bytes" in _fields(field.type)]


def _choose(name: str, schema: pa.Schema, features: Mapping[str, Mapping[str, Any]], column: str | None) -> str:
    """The column of images."""
    candidates = _candidates(schema, features)
    if column is not None and column not in candidates:
        raise RequestError(
            f"{name}: ",
            Parameter("image_column", column),
            f" is not one of its columns of images: {examples(candidates)}.",
        )
    if column is None and len(candidates) > 1 and USUAL not in candidates:
        raise RequestError(
            f"{name} has several columns of images: {examples(candidates)}. Choose one with ",
            Parameter("image_column", "NAME"),
            ".",
        )
    if not candidates:
        raise RequestError(
            f"{name} has no column of images (bytes, or structs with bytes); it has {examples(schema.names)}."
        )
    return column or (USUAL if USUAL in candidates else candidates[0])
