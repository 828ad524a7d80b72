import logging
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from pipeline.core.errors import RequestError
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.targets import read_targets


def table(folder: Path, text: str, name: str = "targets.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def images(*paths: str, **columns) -> ImageSet:
    labels = [path.rpartition("/")[0] for path in paths]
    return ImageSet("images", paths, [ImageRef(f"/{path}") for path in paths], labels, **columns)


def read(file: Path, *paths: str, on_missing: str = "error"):
    return read_targets(file, images(*paths), on_missing)


@pytest.mark.parametrize(
    "text",
    ["cat,1,2\ndog,3,4\n", "label,0,1\ncat,1,2\ndog,3,4\n", "\ufeffpath,x,y\ncat,1,2\ndog,3,4", "cat;1,0;2\ndog;3;4\n"],
)
def test_tables_are_read_with_and_without_header(tmp_path: Path, text: str) -> None:
    embeddings = read(table(tmp_path, text))
    assert embeddings.rows == {"cat": 0, "dog": 1}
    assert embeddings.vectors.dtype == np.float32
    assert embeddings.vectors.tolist() == [[1, 2], [3, 4]]


def test_tsv_is_separated_by_tabs(tmp_path: Path) -> None:
    assert read(table(tmp_path, "a b\t1\t2\n", "t.tsv")).rows == {"a b": 0}


def test_equal_rows_for_one_key_are_accepted(tmp_path: Path) -> None:
    assert len(read(table(tmp_path, "cat,1\ncat,1.0\ndog,2\n")).vectors) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no targets"),
        ("label,0,1\n", "contains no targets"),
        ("cat,1,2\ndog,3\n", "line 2: 2 cells, but line 1 has 3"),
        ("cat,1,2\ndog,3,x\n", "line 2: not a number"),
        ("cat,1,nan\n", "line 1: the target of 'cat' contains NaN"),
        (",1,2\n", "line 1: this row has no path or label"),
        ("cat,1,2\ndog,1,inf\n", "line 2: the target of 'dog' contains NaN or infinite"),
        ("cat|1|2\n", "no columns of numbers besides the path or label; is the table separated by commas"),
    ],
)
def test_wrong_tables_are_refused_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read(table(tmp_path, text))


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"targets are read from \.csv"):
        read(tmp_path / "targets.pkl")
    with pytest.raises(RequestError, match="No such file"):
        read(tmp_path / "nowhere.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match=r"binary\.csv: cannot be read"):
        read(tmp_path / "binary.csv")


KEYS, VECTORS = ["cat", "dog"], np.array([[1, 2, 3], [4, 5, 6]], np.float32)


def write_npz(file: Path) -> None:
    np.savez(file, labels=KEYS, vectors=VECTORS)


def write_lists(file: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"label": KEYS, "embedding": VECTORS.tolist()}), file)


def write_fixed(file: Path) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.ravel()), 3)
    pyarrow.parquet.write_table(pa.table([pa.array(KEYS), vectors], names=["path", "v"]), file)


def write_columns(file: Path) -> None:
    columns = {f"x{number}": column for number, column in enumerate(VECTORS.T)}
    pyarrow.parquet.write_table(pa.table({"label": KEYS} | columns), file)


@pytest.mark.parametrize("write", [write_npz, write_lists, write_fixed, write_columns])
def test_tables_in_binary_formats_are_read(tmp_path: Path, write) -> None:
    file = tmp_path / ("t.npz" if write is write_npz else "t.parquet")
    write(file)
    embeddings = read(file)
    assert embeddings.rows == {"cat": 0, "dog": 1}
    assert embeddings.vectors.dtype == np.float32
    assert np.array_equal(embeddings.vectors, VECTORS)


def test_npy_rows_belong_to_images_in_path_order(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", VECTORS.astype(np.float64))
    embeddings = read(tmp_path / "t.npy", "a/1.png", "b/2.png")
    assert embeddings.rows == {"a/1.png": 0, "b/2.png": 1}
    assert np.array_equal(embeddings.vectors, VECTORS)
    with pytest.raises(RequestError, match=r"t\.npy has 2 rows, but images has 1 image:"):
        read(tmp_path / "t.npy", "a/1.png")


def test_a_list_can_contain_targets() -> None:
    embeddings = read_targets(None, images("a/1.png", "b/2.png", targets=VECTORS))
    assert embeddings.rows == {"a/1.png": 0, "b/2.png": 1}
    with pytest.raises(RequestError, match="no column 'target'"):
        read_targets(None, images("a/1.png"))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    np.savez(tmp_path / "t.npz", labels=KEYS, vectors=np.array([Trap(), Trap()], object))
    np.save(tmp_path / "t.npy", np.array([[Trap()]], object))
    (tmp_path / "u.npy").write_bytes(pickle.dumps(Trap()))
    for name in ("t.npz", "t.npy", "u.npy"):
        with pytest.raises(RequestError, match=f"{name}: this file contains pickled Python objects"):
            read(tmp_path / name, "a/1.png")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("t.npz", {"vectors": VECTORS}, "no column 'path' or 'label'; it has 'vectors'"),
        ("t.npz", {"labels": ["a"], "vectors": VECTORS}, "1 name, but 2 rows"),
        ("t.npz", {"labels": KEYS, "vectors": VECTORS * np.nan}, "row 1: the target of 'cat' contains NaN"),
        ("t.npy", VECTORS[0], "must be N rows of D numbers"),
        ("t.npy", np.array([["a"]]), "must be N rows of D numbers"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, name: str, arrays, message: str) -> None:
    np.savez(tmp_path / name, **arrays) if name == "t.npz" else np.save(tmp_path / name, arrays)
    with pytest.raises(RequestError, match=message):
        read(tmp_path / name, "a/1.png")


def test_damaged_binary_files_are_refused(tmp_path: Path) -> None:
    for write, name in [(write_npz, "t.npz"), (write_lists, "t.parquet")]:
        write(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-30])
        with pytest.raises(RequestError, match="cannot be read"):
            read(tmp_path / name)
    pyarrow.parquet.write_table(pa.table({"label": KEYS, "v": [[1.0], None]}), tmp_path / "n.parquet")
    with pytest.raises(RequestError, match="row 2: the target of 'dog' has no numbers"):
        read(tmp_path / "n.parquet")
    pyarrow.parquet.write_table(pa.table({"name": KEYS}), tmp_path / "k.parquet")
    with pytest.raises(RequestError, match="no column 'path' or 'label'"):
        read(tmp_path / "k.parquet")


def test_word_vectors_are_matched_to_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "glove.txt").write_text("golden 2 0\nretriever 0 4\ncat 5 5\n")
    paths = ("golden_retriever/1.png", "Cat/1.png", "caat/1.png")
    with pytest.raises(RequestError, match=r"no vector for 1 of 3 labels: 'caat' \(nearest: cat"):
        read(tmp_path / "glove.txt", *paths)
    embeddings = read(tmp_path / "glove.txt", *paths, on_missing="skip")
    assert "'caat'" in caplog.text
    vectors = {label: embeddings.vectors[row].tolist() for label, row in embeddings.rows.items()}
    assert vectors == {"golden_retriever": [1, 2], "Cat": [5, 5]}


def test_the_message_about_missing_labels_explains_labels(tmp_path: Path) -> None:
    (tmp_path / "glove.txt").write_text("cat 1\n")
    for on_missing in ("error", "skip"):
        with pytest.raises(RequestError, match=r"images: the images have no labels.*folder.*label_pattern=REGEX"):
            read(tmp_path / "glove.txt", "cat_1.png", "dog_1.png", on_missing=on_missing)
    assert list(read(tmp_path / "glove.txt", "x.png", "cat/1.png").rows) == ["cat"]


@pytest.mark.parametrize("name", ["t.xlsx", "t.ODS", "t.xls"])
def test_spreadsheets_are_distinguished_from_tables(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(RequestError, match="is a spreadsheet; save its sheet as CSV"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["1.png", "10.png", "2.png"], "'10.png' where numeric order has '2.png'"),
        (["a/9.png", "b/10.png", "b/9.png"], "'b/10.png' where numeric order has 'b/9.png'"),
        (["1.png", "2.png", "3.png"], ""),
        (["01.png", "02.png", "10.png"], ""),
    ],
)
def test_rows_in_numeric_order_cause_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, paths: list[str], said: str
) -> None:
    np.save(tmp_path / "t.npy", np.eye(3))
    read(tmp_path / "t.npy", *paths)
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)


def test_several_rows_of_a_key_are_repeats(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    embeddings = read(table(tmp_path, "path,x,y\na,1,2\nb,5,5\na,3,6\nb,7,5\nc,1,1\nc,1,1\n"))
    assert embeddings.vectors.tolist() == [[2, 4], [6, 5], [1, 1]]
    assert {key: rows.tolist() for key, rows in embeddings.repeats.items()} == {
        "a": [[1, 2], [3, 6]],
        "b": [[5, 5], [7, 5]],
        "c": [[1, 1], [1, 1]],
    }
    [record] = [record for record in caplog.records if "count as repeats: the target is their mean" in record.message]
    assert "2 of 3 keys have several different rows (up to 2), such as 'a', 'b'" in record.message
    assert record.levelname == "INFO"


def test_few_repeated_keys_may_be_a_mistake(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(table(tmp_path, "cat,1\ndog,2\nsea,3\ncat,4\n"))
    assert "1 of 3 keys have several different rows (up to 2), such as 'cat'" in caplog.text
    assert caplog.records[-1].levelname == "WARNING"


def test_repeats_with_their_mean_are_refused(tmp_path: Path) -> None:
    rows = "path,x,y\na,1,2\na,3,6\na,2,4\nb,1,1\nb,2,2\n"
    with pytest.raises(RequestError, match=r"line 4: this row of 'a' is the mean of its other rows. Remove such rows"):
        read(table(tmp_path, rows))
    assert read(table(tmp_path, rows + "c,1,2\nc,3,7\nc,9,9\n")).repeats.keys() == {"a", "b", "c"}
    assert read(table(tmp_path, "path,rating\na,1\na,2\na,3\n")).vectors.tolist() == [[2]]
