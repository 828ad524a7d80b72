"""Lists and target tables written by spreadsheets and pandas."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import RequestError
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.sources import find_images
from pipeline.data.table_files import CsvTable
from pipeline.data.targets import read_targets

IMAGES = ImageSet("images", ["cat/1.png"], [ImageRef("/cat/1.png")], ["cat"])
VECTORS = {"cat": [0.5, -1.25], "dog": [2, 3e-3]}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-with-mark", "utf-16-be-with-mark"]
TABLES = {
    "plain": "cat,0.5,-1.25\ndog,2,0.003\n",
    "header": "label,x,y\ncat,0.5,-1.25\ndog,2,0.003\n",
    "pandas, labels as index": ",0,1\ncat,0.5,-1.25\ndog,2,0.003\n",
    "pandas, labels as column": ",label,0,1\n0,cat,0.5,-1.25\n1,dog,2,0.003\n",
    "pandas, read and written again": "Unnamed: 0,label,0,1\n0,cat,0.5,-1.25\n1,dog,2,0.003\n",
    "decimal commas": "cat;0,5;-1,25\ndog;2;3e-3\n",
    "decimal commas under a header": "label;x;y\ncat;0,5;-1,25\ndog;2;3e-3\n",
    "semicolons, decimal points": "label;x;y\ncat;0.5;-1.25\ndog;2;0.003\n",
    "windows": "label,x,y\r\n\r\ncat,0.5,-1.25\r\ndog,2,0.003\r\n",
}


def encoded(text: str, encoding: str) -> bytes:
    if encoding.endswith("-with-mark"):
        return ("\ufeff" + text).encode(encoding.removesuffix("-with-mark"))
    return text.encode(encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("table", TABLES)
def test_target_tables_from_spreadsheets_and_pandas_are_read(tmp_path: Path, table: str, encoding: str) -> None:
    file = tmp_path / "targets.csv"
    file.write_bytes(encoded(TABLES[table], encoding))
    read = read_targets(file, IMAGES)
    assert list(read.rows) == list(VECTORS)
    assert np.array_equal(read.vectors, np.array(list(VECTORS.values()), np.float32))


def test_tables_written_by_pandas_are_read(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(VECTORS.values(), index=VECTORS)
    for name, written in {
        "index": frame,
        "column": frame.reset_index(names="label"),
        "both": frame.reset_index(names="path"),
    }.items():
        written.to_csv(tmp_path / f"{name}.csv")
        read = read_targets(tmp_path / f"{name}.csv", IMAGES)
        assert list(read.rows) == list(VECTORS)
        assert np.array_equal(read.vectors, np.array(list(VECTORS.values()), np.float32))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",0.5,0.25\n", "line 1: this row has no path or label"),
        ("cat;0,5;x\n", "line 1: not a number"),
        ("cat,0.5\ndog;0,5;1\n", "line 2: not a number"),
        ("cat\n", "no columns of numbers besides the path"),
        ("label,x\n", "contains no targets"),
        (",label,0\n0,,1\n", "line 2: this row has no path or label"),
    ],
)
def test_other_tables_are_refused_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "targets.csv"
    file.write_text(text)
    with pytest.raises(RequestError, match=message):
        read_targets(file, IMAGES)


def test_a_truncated_utf_16_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "targets.csv"
    file.write_bytes("cat,0.5\n".encode("utf-16")[:-1])
    with pytest.raises(RequestError, match="cannot be read"):
        read_targets(file, IMAGES)
    with pytest.raises(RequestError, match="cannot be read"):
        find_images(file)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "text",
    [
        'path,label,target\na.png,Göteborg,"[0.5, 1]"\nb.png,cat,"[2, 3]"\n',
        ',path,label,target\n0,a.png,Göteborg,"[0.5, 1]"\n1,b.png,cat,"[2, 3]"\n',
        "label;path;target\nGöteborg;a.png;[0.5, 1]\ncat;b.png;[2, 3]\n",
    ],
    ids=["commas", "pandas", "semicolons"],
)
def test_lists_from_spreadsheets_and_pandas_are_read(folder: Path, text: str, encoding: str) -> None:
    file = folder / "list.csv"
    file.write_bytes(encoded(text, encoding))
    images = find_images(file)
    assert list(images.paths) == ["a.png", "b.png"]
    assert list(images.labels) == ["Göteborg", "cat"]
    assert images.targets.tolist() == [[0.5, 1], [2, 3]]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_lists_are_read(folder: Path, encoding: str) -> None:
    (folder / "list.txt").write_bytes(encoded("red/1.png\r\n\r\nblue/0.png\r\n", encoding))
    assert list(find_images(folder / "list.txt").paths) == ["blue/0.png", "red/1.png"]


def test_lists_without_paths_are_refused(folder: Path) -> None:
    for name, text, message in [
        ("a.csv", "name,label\na.png,cat\n", "no column 'path' .it has 'name', 'label'"),
        ("b.csv", "path,label\n", "contains no images"),
        ("c.csv", "", "contains no images"),
        ("d.csv", "path\n\0.png\n", "line 2: a NUL character"),
    ]:
        (folder / name).write_text(text)
        with pytest.raises(RequestError, match=message):
            find_images(folder / name)


def test_a_semicolon_in_a_name_is_not_a_separator(tmp_path: Path) -> None:
    def read(text: str) -> list[tuple[str, list[float]]]:
        (tmp_path / "table.csv").write_text(text)
        table = CsvTable(tmp_path / "table.csv")
        return [(row.cells[0], row.vector.tolist()) for row in table.rows([0], range(1, len(table.columns)))]

    assert read('a;b.png,0.5,1\n"Paris; France",2,3\n') == [("a;b.png", [0.5, 1]), ("Paris; France", [2, 3])]
    assert read('"Paris, France";0,5\n') == [("Paris, France", [0.5])]
    assert read("Paris, France;0,5;1\n") == [("Paris, France", [0.5, 1])]
