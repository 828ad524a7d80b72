"""The meaning of a table's cells: one rule for all formats, and strict rows."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from pipeline.core.errors import RequestError
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.sources import find_images
from pipeline.data.table_files import is_header
from pipeline.data.targets import read_repeats, read_targets

IMAGES = ImageSet("images", ["cat/0.png"], [ImageRef("/cat/0.png")], ["cat"])


def read(file: Path, columns: str | None = None, on_missing: str = "error") -> dict[str, list[float]]:
    table = read_targets(file, IMAGES, on_missing, columns)
    return {key: table.vectors[row].tolist() for key, row in table.rows.items()}


def csv(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def parquet(folder: Path, columns: dict[str, object]) -> Path:
    pyarrow.parquet.write_table(pa.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


@pytest.mark.parametrize(
    "text",
    [
        "path,label,a,b\ncat/0.png,3,1,2\n",
        "a,label,b,path\n1,3,2,cat/0.png\n",
        "split,path,group,a,b\ntest,cat/0.png,7,1,2\n",
        ",path,a,b\n0,cat/0.png,1,2\n",
        "index,path,a,b\n0,cat/0.png,1,2\n",
        "level_0,index,path,a,b\n0,9,cat/0.png,1,2\n",
        "Unnamed: 0.1,Unnamed: 0,path,a,b\n0,0,cat/0.png,1,2\n",
        "PATH, a ,b\ncat/0.png,1,2\n",
        "path;a;b;;\ncat/0.png;1,0;2;;\n;;;;\n",
        "./cat/0.png,1,2\n",
    ],
)
def test_only_the_numbers_of_the_embedding_are_used(tmp_path: Path, text: str) -> None:
    assert read(csv(tmp_path, text)) == {"cat/0.png": [1, 2]}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (["word", "0", "1"], ["cat", "0.5", "0.7"], True),
        (["class", "x", "y"], ["cat", "1", "2"], True),
        (["", "0"], ["cat", "1"], True),
        (["x", "y", "Label"], ["1", "2", "cat"], True),
        (["cat", "0.1", "0.2"], [], False),
        (["cat", "0.l", "0.2"], ["dog", "1", "2"], False),  # a typo is not a header
        (["cat", "1_5", "2"], ["dog", "1", "2"], False),
        (["cat", "-.5x"], ["dog", "1"], False),
        (["cat", "nan", "inf"], ["dog", "1", "2"], False),
        (["cat", "0"], ["dog", "1"], False),
        (["cat", "0", "1"], ["dog", "1", "0"], None),
    ],
)
def test_one_rule_detects_headers(first: list[str], second: list[str], expected: bool | None) -> None:
    assert is_header(first, second) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat,0,1\ndog,1,0\n", "line 1: this may be a header or a row"),
        ("cat,0.l,0.2\ndog,1,2\n", "line 1: not a number: '0.l'; if this is a header"),
        ("label,a,b\ncat,1_5,2\n", "line 2: not a number in the column 'a': '1_5'"),
        ("label,a,b\ncat,,2\n", "line 2: an empty cell in the column 'a'"),
        ("label,a,b\ncat,1\n", "line 2: 2 cells, but line 1 has 3"),
        ("label,a,b\ncat,1,2,3\n", "line 2: 4 cells, but line 1 has 3"),
        ("label,a,a\ncat,1,2\n", "line 1: the column 'a' occurs twice"),
        ("label,Label,a\ncat,cat,2\n", "line 1: the column 'label' occurs twice"),
        ("label,a\ncat,1\nlabel,a\ndog,2\n", "line 3: this line repeats the header"),
        ('label,v\ncat,"[0.1, 0.2]"\n', "line 2: not a number in the column 'v': .*a list needs a column for each"),
        ("label,name,a\ncat,Felis,1\n", "line 2: not a number in the column 'name': 'Felis'"),
        ("label,a\ncat,3e38\n", "line 2: the target of 'cat' contains NaN or infinite values, or numbers above 1e"),
        ("label,a\ncat,-1e16\n", "numbers above 1e"),
        ("label,a\n ,1\n", "line 2: this row has no path or label"),
        ("label\ncat\n", "no columns of numbers besides the path or label"),
        ("label,a\ncaf\xe9,1\n".encode("latin-1"), r"line 2: 'caf\\\\xe9' is not in UTF-8.*Windows-1252.*'café'"),
        ("label,gr\xf6\xdfe\ncat,1\n".encode("latin-1"), "line 1: .*Windows-1252"),
        ("label,a\ncat,1\n".encode("utf-16-le"), "line 1: a NUL character"),
    ],
)
def test_ambiguous_tables_are_refused_with_the_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read(csv(tmp_path, text))


def test_text_between_semicolons_is_unchanged(tmp_path: Path) -> None:
    text = "label;a;b\n1,5;1,5;0\n2,0;2;0\nParis, France;3;0\n"
    assert read(csv(tmp_path, text)) == {"1,5": [1.5, 0], "2,0": [2, 0], "Paris, France": [3, 0]}


def test_the_embedding_of_a_parquet_file_is_its_lists_or_its_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    two = {"label": ["cat"], "tokens": [[1, 2, 3]], "embedding": [[0.5, 1.0]], "width": [7]}
    assert read(parquet(tmp_path, two)) == {"cat": [0.5, 1]}
    assert "left out the columns 'tokens', 'width'" in caplog.text
    assert "1 target of 2 dimensions (embedding)" in caplog.text
    with pytest.raises(RequestError, match="the columns 'tokens', 'other' hold lists of numbers"):
        read(parquet(tmp_path, {"label": ["cat"], "tokens": [[1]], "other": [[0.5]]}))
    with pytest.raises(RequestError, match="the columns 'name', 'seen' hold neither numbers nor lists"):
        read(parquet(tmp_path, {"label": ["cat"], "a": [1.0], "name": ["x"], "seen": [True]}))
    with pytest.raises(RequestError, match="no columns of numbers besides the path or label"):
        read(parquet(tmp_path, {"label": ["cat"], "group": [1]}))


def test_the_index_of_a_data_frame_is_not_a_dimension(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"label": ["dog", "cat"], "a": [1.0, 2.0], "b": [3.0, 4.0], "number": [5, 6]})
    kept = {"dog": [1, 3, 5], "cat": [2, 4, 6]}
    for framed in (frame.sort_values("label"), frame[::-1], frame.set_index(pandas.Index([8, 9]))):
        framed.to_parquet(tmp_path / "t.parquet")
        assert read(tmp_path / "t.parquet") == kept
    frame.set_index("number").to_parquet(tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet") == {"dog": [1, 3], "cat": [2, 4]}
    frame.set_index("label").to_parquet(tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet") == kept


def test_columns_can_be_chosen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file = csv(tmp_path, "d0,name,d1,label,d2,x\n1,Felis,2,cat,3,4\n")
    assert read(file, "d*") == {"cat": [1, 2, 3]}
    assert "1 target of 3 dimensions (d0 ... d2)" in caplog.text
    assert read(file, "x, d1") == {"cat": [4, 2]}
    assert read(parquet(tmp_path, {"label": ["cat"], "u": [[1.0]], "v": [[2.0]]}), "v") == {"cat": [2]}
    for columns, message in [
        ("z", "no column matches 'z'; besides the key, the table has 'd0', 'name'"),
        ("name", "line 2: not a number in the column 'name'"),
    ]:
        with pytest.raises(RequestError, match=message):
            read(file, columns)
    with pytest.raises(RequestError, match="the embedding must be one column of lists, or columns of numbers"):
        read(parquet(tmp_path, {"label": ["cat"], "u": [[1.0]], "v": [2.0]}), "u,v")
    with pytest.raises(RequestError, match="chooses columns of a table"):
        read(tmp_path / "t.npy", "a")


def test_repeated_targets_also_have_the_chosen_columns(tmp_path: Path) -> None:
    file = csv(tmp_path, "d0,label,d1,trial\n1,cat,2,1\n3,cat,4,2\n")
    assert read_repeats(file, "d*")["cat"].tolist() == [[1, 2], [3, 4]]
    assert read_repeats(file)["cat"].tolist() == [[1, 2, 1], [3, 4, 2]]
    with pytest.raises(RequestError, match="no column matches 'x'; besides the key, the table has 'd0', 'd1', 'trial'"):
        read_repeats(file, "x")


def test_a_row_without_a_key_is_refused_or_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for label in ([None, "dog"], [float("nan"), 7.0]):
        file = parquet(tmp_path, {"label": pa.array(label), "a": [1.0, 2.0]})
        with pytest.raises(RequestError, match="row 1: this row has no path or label"):
            read(file)
        assert list(read(file, on_missing="skip").values()) == [[2]]
        assert "left out 1 row without a path or label" in caplog.text
    assert read(csv(tmp_path, "label,a\n,1\n7,2\n"), on_missing="skip") == {"7": [2]}
    with pytest.raises(RequestError, match="row 1: this row has no path or label"):
        read_repeats(file)


@pytest.mark.parametrize(
    ("key", "vectors"),
    [
        (pa.array(["cat"]).dictionary_encode(), pa.array([[1.5, 2]], pa.list_(pa.float16()))),
        (pa.array([b"cat"]), pa.array([[1.5, 2]], pa.large_list(pa.float64()))),
        (pa.array(["cat"], pa.large_string()), pa.array([[1.5, 2]], pa.list_(pa.float32(), 2))),
    ],
)
def test_parquet_types_are_read(tmp_path: Path, key: pa.Array, vectors: pa.Array) -> None:
    assert read(parquet(tmp_path, {"label": key, "v": vectors})) == {"cat": [1.5, 2]}


@pytest.mark.parametrize("cell", [["cat"], {"name": "cat"}, [["cat", "dog"]]])
def test_a_key_that_is_not_text_is_refused(tmp_path: Path, cell: object) -> None:
    with pytest.raises(RequestError, match="row 1: this cell is a list; it must be text or a number"):
        read(parquet(tmp_path, {"label": [cell], "a": [1.0]}))
    pyarrow.parquet.write_table(pa.table({"path": ["a.png"], "label": [cell]}), tmp_path / "l.parquet")
    with pytest.raises(RequestError, match="this cell is a list"):
        find_images(tmp_path / "l.parquet")


def test_all_numeric_types_are_read(tmp_path: Path) -> None:
    import decimal

    columns = {"label": [7], "a": [decimal.Decimal("1.5")], "b": pa.array([2], pa.uint8())}
    assert read(parquet(tmp_path, columns)) == {"7": [1.5, 2]}


def test_keys_in_npz_can_be_bytes_or_numbers(tmp_path: Path) -> None:
    for labels, expected in [
        ([b"cat", "café".encode()], ["cat", "café"]),
        ([7.0, 8.0], ["7", "8"]),
        ([7, 8], ["7", "8"]),
    ]:
        np.savez(tmp_path / "t.npz", labels=np.array(labels), vectors=np.eye(2))
        assert read(tmp_path / "t.npz") == {expected[0]: [1, 0], expected[1]: [0, 1]}


def test_the_first_row_of_a_list_is_its_header(folder: Path) -> None:
    (folder / "l.csv").write_text("red/0.png,0.5\n")
    with pytest.raises(RequestError, match=r"no column 'path' \(it has 'red/0\.png', '0\.5'\)"):
        find_images(folder / "l.csv")
